"""Every error that a user of djtasks can meet."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext

__all__ = [
    "BrokerUnavailable",
    "ChordError",
    "DjtasksError",
    "DuplicateTask",
    "Ignore",
    "ImproperlyConfigured",
    "LeaseLost",
    "MalformedMessage",
    "MaxRetriesExceededError",
    "MessageTooLarge",
    "NotRegistered",
    "ParseException",
    "Reject",
    "Replaced",
    "Retry",
    "SoftTimeLimitExceeded",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
]


def gettext_noop(text: str) -> str:
    """`text`, marked for translation. Django's own asks for the settings, which may be importing this just now."""
    return text


class DjtasksError(Exception):
    """The root of what djtasks raises by itself."""


class BrokerUnavailable(DjtasksError):
    """The broker's server could not be reached, or did not answer in `BROKER_TIMEOUT` seconds."""


class MessageTooLarge(DjtasksError, ValueError):
    """A message exceeds `MAX_MESSAGE_BYTES`; nothing was sent."""


class MalformedMessage(DjtasksError, ValueError):
    """What stands in the queue is not a message of ours: no JSON, another version, a missing field."""


class ParseException(DjtasksError, ValueError):
    """A schedule cannot be read, or its time never comes; the name is Celery's.

    Its text is English, for it may be raised before settings can be read; `translated()` is for pages.
    """

    def __init__(self, text: str = "", /, **words: object) -> None:
        super().__init__(text.format(**words) if words else text)
        self.text, self.words = text, words

    def translated(self) -> str:
        """What it says, in the language that is active."""
        return gettext(self.text).format(**self.words) if self.words else str(self)


class NotRegistered(DjtasksError, KeyError):
    """No task of this name is registered in this process."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LeaseLost(DjtasksError):
    """The job belongs to another worker by now: this one had been taken for dead."""


class DuplicateTask(DjtasksError, ImproperlyConfigured):
    """Two different functions claim the same task name."""


class TaskPredicate(DjtasksError):
    """Raised in a task to end it in another way than by success or failure."""


class Retry(TaskPredicate):
    """The job is to run again. Raised by `Task.retry`.

    `exc` is the error that led to it, `when` the delay in seconds or the aware time of the next run.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        **kwargs: Any,
    ) -> None:
        self.message = message
        self.exc = exc
        self.when = when
        self.is_eager = kwargs.get("is_eager", False)
        self.sig = kwargs.get("sig")
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        """The time of the next run in words: 'in 3.0s' or 'at 2026-01-01 00:00:00+00:00'."""
        return f"in {self.when:.4g}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}: {self.exc!r}" if self.exc else f"Retry {self.humanize()}"

    def __reduce__(self) -> Any:
        return self.__class__, (self.message, self.exc, self.when)


class Replaced(TaskPredicate):
    """The job is replaced by a canvas, which takes its place. Raised by `Task.replace`."""

    def __init__(self, sig: Any) -> None:
        self.sig = sig
        super().__init__(f"Replaced by {sig!r}")


class Ignore(TaskPredicate):
    """The task wants no state stored for it: the job ends as IGNORED."""


class Reject(TaskPredicate):
    """The task refuses its job: it fails, or goes back to its queue with `requeue=True`."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class MaxRetriesExceededError(DjtasksError):
    """The job has used up its retries. `task_args` and `task_kwargs` are what it ran with."""

    def __init__(self, *args: object, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", [])
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args)


class TimeoutError(DjtasksError, builtins.TimeoutError):
    """`AsyncResult.get(timeout=…)`: the job had not ended in time. It goes on running."""


class SoftTimeLimitExceeded(DjtasksError):
    """Raised inside a task that has run for its soft time limit, so that it can clean up."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args!r}"


class TimeLimitExceeded(DjtasksError):
    """The job ran for its hard time limit and its process was killed."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args!r}"


class WorkerLostError(DjtasksError):
    """The process that ran the job died under it too often, or once with `acks_late=False`."""


class TaskRevokedError(DjtasksError):
    """The job was revoked, or expired, before it ran."""


class ChordError(DjtasksError):
    """A member of a chord's header failed, so its body cannot run."""
