"""Batches: a task that gets several waiting jobs of its kind in one call, each of which has an end of its own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from djtasks.rates import interval_of

MOST: Final = 1000  # jobs in a call
LONGEST_WAIT: Final = 3600.0  # seconds
ANY_CALL: Final = inspect.signature(lambda *args, **kwargs: None)  # what jobs are sent with; the function has requests


@dataclass(frozen=True, slots=True)
class Batch:
    """How the jobs of a task gather: up to `size` in one call, the first of which waits `wait` seconds at most."""

    size: int = 100
    wait: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 0 < self.size <= MOST:
            raise ValueError(f"Batch(size=…) is a whole number from 1 to {MOST}, not {self.size!r:.100}.")
        is_number = isinstance(self.wait, (int, float)) and not isinstance(self.wait, bool)
        if not is_number or not 0 <= self.wait <= LONGEST_WAIT:
            raise ValueError(f"Batch(wait=…) is a number of seconds from 0 to an hour, not {self.wait!r:.100}.")


def check(task: Any) -> None:
    """Raise ValueError for a batch that cannot be, alone or with what else the task says."""
    if task.batch is None:
        return
    if not isinstance(task.batch, Batch):
        raise ValueError(f"{task.origin}: batch is djtasks.Batch(size=…, wait=…), not {task.batch!r:.100}.")
    if interval_of(task.rate_limit) is not None or task.max_concurrency is not None:
        raise ValueError(
            f"{task.origin}: rate_limit and max_concurrency count jobs, and a batch is one call of many. "
            f"Give its jobs a queue of their own, and that a worker with as many processes as may work on them."
        )
    key, replaces = (getattr(task.unique, name, None) for name in ("key", "replace"))
    if key is not None and not callable(key):
        raise ValueError(
            f"{task.origin}: the parameters of a batch's jobs have no names here; "
            f"Unique(key=…) has to be a function of the arguments."
        )
    if replaces:
        raise ValueError(f"{task.origin}: what has been gathered cannot be replaced; leave Unique(replace=True) out.")


def largest(tasks: Iterable[Any]) -> int:
    """How many jobs one call of these tasks gets at most."""
    return max((task.batch.size for task in tasks if task.batch is not None), default=1)


def results_of(returned: Any, count: int) -> list[Any]:
    """What a batch function that got `count` requests has returned, as a value or an exception for each.

    Raises TypeError or ValueError for what cannot be told apart.
    """
    if returned is None:
        return [None] * count
    if not isinstance(returned, (list, tuple)):
        raise TypeError(
            f"A batch function returns a list with the result of each request, or None, not {type(returned).__name__}."
        )
    if len(returned) != count:
        raise ValueError(f"The batch function got {count} requests and returned {len(returned)} results.")
    return list(returned)


def shortest(limits: Iterable[float | None]) -> float | None:
    """The shortest of several limits, of which None is none."""
    found = min((each for each in limits if each), default=math.inf)
    return None if math.isinf(found) else found
