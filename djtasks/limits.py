"""How long a job may run: which of the limits that are set counts for it, and what puts them around its call."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync

from djtasks.conf import settings


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a run may take: at `soft` SoftTimeLimitExceeded is raised in it, at `hard` its process is killed.

    None is no limit.
    """

    hard: float | None = None
    soft: float | None = None


def limits_of(options: Mapping[str, Any], task: Any, general: Limits | None = None) -> Limits:
    """The limits of a call: its own, else its task's, else `general` ones, a worker's; by default the settings'.

    Each is looked for by itself, and 0 is none, as in Celery. A general soft limit that is not below the hard one is
    left out. Raises ValueError for a limit that is no number of seconds, and for an own soft one above the hard one.
    """
    general = general or Limits(settings.TASK_TIME_LIMIT, settings.TASK_SOFT_TIME_LIMIT)
    hard = _own("time_limit", options, task) or general.hard
    soft = _own("soft_time_limit", options, task)
    if soft and hard and soft > hard:
        raise ValueError(f"soft_time_limit must be less than or equal to time_limit, but {soft:g} s is above {hard:g}.")
    if soft is None and general.soft and not (hard and general.soft >= hard):
        soft = general.soft
    return Limits(hard, soft)


def _own(name: str, options: Mapping[str, Any], task: Any) -> float | None:
    for value in (options.get(name), getattr(task, name, None)):
        if value:
            return _seconds(name, value)
    return None


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r:.200}.")
    return value


class Unlimited:
    """Calls a task's own code, without a limit. What sets one is derived from it."""

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call `function`."""
        return function(*args, **kwargs)

    def call_async(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call `function` in an event loop, and wait for what it returns."""
        return async_to_sync(self.awaited)(function, args, kwargs)

    async def awaited(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call `function` and await what it returns."""
        return await function(*args, **kwargs)


UNLIMITED = Unlimited()


class Limiter:
    """What limits the runs of a process: here nothing does. `general` limits are for what has none of its own."""

    general: Limits | None = None  # the settings'

    def limit(self, seconds: float | None) -> Unlimited:
        """What calls a task's own code with this soft limit."""
        return UNLIMITED


NO_LIMITER = Limiter()
