"""How a worker works: what `runworker` was told."""

from __future__ import annotations

from dataclasses import dataclass

from djtasks.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Options of one worker. `queues` None serves all; `ahead` None claims as much ahead as will start soon."""

    hostname: str = "worker"
    queues: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    strict: bool = False
    pool: str = "prefork"
    concurrency: int = 1
    ahead: int | None = None
    max_tasks: int | None = None
    max_memory: int | None = None  # KiB
    limits: Limits | None = None  # of the run time of jobs that have none of their own; None: the settings'
    burst: bool = False
    beat: bool = True
