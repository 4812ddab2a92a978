"""After which errors a job is tried again, when, and with what."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from djtasks import encoding, publish
from djtasks.exceptions import TaskPredicate
from djtasks.message import Message

if TYPE_CHECKING:
    from djtasks.task import Task

ErrorClasses = type[BaseException] | Sequence[type[BaseException]]


def is_tried_again(task: Task[Any, Any], error: BaseException) -> bool:
    """Whether `autoretry_for` names the error."""
    never: tuple[type[BaseException], ...] = (TaskPredicate, *classes(task.dont_autoretry_for))
    return not isinstance(error, never) and isinstance(error, classes(task.autoretry_for))


def automatic_options(task: Task[Any, Any]) -> dict[str, Any]:
    """The options of `retry` after such an error, in the run of the job."""
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        factor, retries = float(task.retry_backoff), task.request.retries
        options["countdown"] = backoff(factor, retries, task.retry_backoff_max, task.retry_jitter)
    return options


def next_try(
    task: Task[Any, Any],
    message: Message,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Message:
    """The message of the next try; what is None or not given stays as it is in `message`."""
    fields: dict[str, Any] = {}
    if args is not None:
        fields["args"] = encoding.encode_arguments(tuple(args), {})[0]
    if kwargs is not None:
        fields["kwargs"] = encoding.encode_arguments((), kwargs)[1]
    return replace(publish.changed(message, options, task), retries=message.retries + 1, **fields)


def classes(given: ErrorClasses) -> tuple[type[BaseException], ...]:
    """One class or a sequence of them, as a tuple."""
    several = [given] if isinstance(given, type) else given
    return tuple(several)


def backoff(factor: float, retries: int, longest: float, jitter: bool) -> float:
    """Seconds to the next try: `factor` doubled `retries` times, at most `longest`; with jitter, 0 up to that.

    Full jitter as in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    # 2.0 ** 1024 overflows, and nobody waits that long.
    delay = min(longest, max(1.0, factor) * 2.0 ** min(retries, 64))
    return random.uniform(0, delay) if jitter else delay
