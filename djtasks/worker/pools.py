"""Pools: how many processes run jobs, and how many jobs at a time in each."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from djtasks.exceptions import ImproperlyConfigured

_CPU_MAX: Final = "/sys/fs/cgroup/cpu.max"  # cgroup v2: "<quota> <period>" or "max <period>", in µs
_CFS: Final = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")  # cgroup v1


@dataclass(frozen=True, slots=True)
class Pool:
    """A way to run jobs. `forks`: in child processes under a supervisor; else in this very process."""

    name: str
    forks: bool
    processes: int


def pool(name: str | None, concurrency: int | None) -> Pool:
    """The pool of that name, prefork by default (solo where there is no fork).

    Raises ImproperlyConfigured for a name that is none, or a concurrency below 1.
    """
    chosen = name or ("prefork" if hasattr(os, "fork") else "solo")
    if chosen == "eventlet":
        raise ImproperlyConfigured("There is no eventlet pool: eventlet is no longer developed. Use gevent or asyncio.")
    if chosen not in ("prefork", "solo"):
        raise ImproperlyConfigured(f"There is no pool {chosen!r}. There are: prefork, solo.")
    if concurrency is not None and concurrency < 1:
        raise ImproperlyConfigured(f"concurrency must be 1 or more, not {concurrency}.")
    if chosen == "solo":
        return Pool("solo", forks=False, processes=1)
    if not hasattr(os, "fork"):
        raise ImproperlyConfigured("This system cannot fork: use -P solo.")
    return Pool("prefork", forks=True, processes=concurrency or usable_cpus())


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
