"""Pools: how many processes run jobs, and how many jobs at a time in each."""

from __future__ import annotations

import math
import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from djtasks.exceptions import ImproperlyConfigured

NAMES: Final = ("prefork", "threads", "asyncio", "gevent", "solo")
COROUTINES: Final = 100  # jobs at a time where one costs next to nothing, if nobody says how many
MOST_RUNS: Final = 10_000  # in one process
_SHAPE: Final = re.compile(r"(?:(\d+)x)?(\d+)")  # "8", or "2x8": processes x jobs in each
_CPU_MAX: Final = "/sys/fs/cgroup/cpu.max"  # cgroup v2: "<quota> <period>" or "max <period>", in µs
_CFS: Final = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")  # cgroup v1


@dataclass(frozen=True, slots=True)
class Pool:
    """A way to run jobs. `forks`: in child processes under a supervisor; else in this very process."""

    name: str
    forks: bool
    processes: int
    runs: int = 1  # at a time, in each process


def pool(name: str | None, concurrency: int | str | None) -> Pool:
    """The pool of that name, prefork by default (threads where there is no fork), for so many jobs at a time.

    `concurrency` is a number, or "2x8": so many processes, and jobs at a time in each. Raises ImproperlyConfigured for
    a name that is none, a concurrency that makes no sense, and what this system cannot do.
    """
    chosen, processes, runs = asked(name, concurrency)
    if chosen == "solo":
        return Pool("solo", forks=False, processes=1)
    if chosen == "prefork":
        return _prefork(runs)
    return _of_many(chosen, processes, runs)


def asked(name: str | None, concurrency: int | str | None) -> tuple[str, int | None, int | None]:
    """The name of the pool, how many processes, and how many jobs at a time in each, as far as that was said.

    Raises ImproperlyConfigured for what makes no sense on any system.
    """
    chosen = name or ("prefork" if can_fork() else "threads")
    if chosen == "eventlet":
        raise ImproperlyConfigured("There is no eventlet pool: eventlet is no longer developed. Use gevent or asyncio.")
    if chosen not in NAMES:
        raise ImproperlyConfigured(f"There is no pool {chosen!r:.50}. There are: {', '.join(NAMES)}.")
    processes, runs = _shape(concurrency)
    if chosen == "prefork" and processes is not None:
        raise ImproperlyConfigured(
            "The prefork pool runs one job at a time in each process: say -c N, or -P threads -c PROCESSESxTHREADS."
        )
    if chosen != "prefork" and runs is not None and runs > MOST_RUNS:
        raise ImproperlyConfigured(f"{runs} jobs at a time are too many for one process; {MOST_RUNS} are the most.")
    return chosen, processes, runs


def can_fork() -> bool:
    """Whether this system has child processes that share memory with their parent; Windows has not."""
    return hasattr(os, "fork") and sys.platform != "win32"


def must_spawn(name: str) -> bool:
    """Whether the children of that pool are new programs.

    On macOS a copy of a process cannot use the system's libraries safely; gevent's patch has to come before all else.
    """
    return name == "gevent" or copies_are_unsafe()


def copies_are_unsafe() -> bool:
    """Whether no process that was forked may go on as a copy, the keeper neither."""
    return sys.platform == "darwin"


def _prefork(runs: int | None) -> Pool:
    """One job at a time in each process."""
    if not can_fork():
        raise ImproperlyConfigured("This system cannot fork: use -P threads.")
    return Pool("prefork", forks=True, processes=runs or usable_cpus())


def _of_many(name: str, processes: int | None, runs: int | None) -> Pool:
    """Several jobs at a time in each process, of which there is one by default."""
    if name == "gevent" and find_spec("gevent") is None:
        raise ImproperlyConfigured("The gevent pool needs gevent: pip install 'djtasks[gevent]'. Or use -P asyncio.")
    many = runs or (usable_cpus() if name == "threads" else COROUTINES)
    if can_fork():
        return Pool(name, forks=True, processes=processes or 1, runs=many)
    if name == "gevent" or (processes or 1) > 1:
        raise ImproperlyConfigured("This system cannot fork: use -P threads or -P asyncio with one process, as -c 8.")
    return Pool(name, forks=False, processes=1, runs=many)


def _shape(concurrency: int | str | None) -> tuple[int | None, int | None]:
    """Processes, if they are named, and jobs at a time in each."""
    if concurrency is None:
        return None, None
    match = _SHAPE.fullmatch(str(concurrency).strip())
    processes, runs = (None if each is None else int(each) for each in match.groups()) if match else (None, 0)
    if runs == 0 or processes == 0:
        raise ImproperlyConfigured(
            f"concurrency must be 1 or more, or as 2x8 (processes x jobs at a time in each), not {concurrency!r:.50}."
        )
    return processes, runs


def usable_cpus() -> int:
    """The CPUs that this process may use: its affinity mask, and a container's quota, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(allowed, math.ceil(quota)) if quota else allowed)


def _cgroup_quota() -> float | None:
    try:
        fields = Path(_CPU_MAX).read_text().split()
    except OSError:
        try:
            fields = [Path(path).read_text().strip() for path in _CFS]
        except OSError:
            return None
    quota, period = fields
    return None if quota in ("max", "-1") else int(quota) / int(period)
