"""How a worker works: what `runworker` was told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from djtasks.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Options of one worker: `processes` that run `runs` jobs at a time each.

    `queues` None serves all; `ahead` None claims as much ahead as will start soon. With `least`, the number of
    processes follows the work, from that many up to `processes`.
    """

    hostname: str = "worker"
    queues: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    strict: bool = False
    pool: str = "prefork"
    forks: bool = True  # whether jobs run in child processes; else in the worker's own
    spawns: bool = False  # whether these are new programs, not copies of the supervisor
    processes: int = 1
    runs: int = 1
    least: int | None = None
    ahead: int | None = None  # jobs, for each that runs at a time
    max_tasks: int | None = None
    max_memory: int | None = None  # KiB
    limits: Limits | None = None  # of the run time of jobs that have none of their own; None: the settings'
    burst: bool = False
    beat: bool = True
    # Descriptors, with --metrics-port: where scrapes are answered; where what is counted is heard, and sent.
    scrape: tuple[int, int, int] | None = None

    @property
    def concurrency(self) -> int:
        """How many jobs run at a time."""
        return self.processes * self.runs

    def with_queue(self, queue: str) -> Self:
        """The same with one more queue that is served."""
        if self.queues is None:
            return replace(self, excluded=tuple(name for name in self.excluded if name != queue))
        return replace(self, queues=tuple(dict.fromkeys([*self._served(), queue])), excluded=())

    def without_queue(self, queue: str) -> Self:
        """The same with one less; of all, it is excluded."""
        if self.queues is None:
            return replace(self, excluded=tuple(dict.fromkeys([*self.excluded, queue])))
        return replace(self, queues=tuple(name for name in self._served() if name != queue), excluded=())

    def _served(self) -> list[str]:
        return [name for name in self.queues or () if name not in self.excluded]
