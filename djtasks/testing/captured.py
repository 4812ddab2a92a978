"""What was queued within a block, and assertions about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from django.core.exceptions import ObjectDoesNotExist

from djtasks import encoding, publish
from djtasks.message import Message
from djtasks.task import Task

_ANYTHING: Final[Any] = object()


class DjangosTask(Protocol):
    """A task of `django.tasks`, whose `name` is that of its function alone."""

    @property
    def module_path(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CapturedJob:
    """One job that was queued within a `CapturedJobs`."""

    message: Message

    @property
    def id(self) -> str:
        return self.message.id

    @property
    def task(self) -> str:
        """The task's name."""
        return self.message.task

    @property
    def args(self) -> list[Any]:
        """A model instance that is gone stands as a reference."""
        return self._arguments()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """As `args`."""
        return self._arguments()[1]

    def _arguments(self) -> tuple[list[Any], dict[str, Any]]:
        try:
            return encoding.decode_arguments(self.message.args, self.message.kwargs)
        except ObjectDoesNotExist:
            return encoding.decode_arguments(self.message.args, self.message.kwargs, fetch=False)

    def __str__(self) -> str:
        call = ", ".join([*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())])
        m = self.message
        when = f", eta={m.eta.isoformat()}" if m.eta else f", countdown={m.countdown:g}" if m.countdown else ""
        return f"{m.task}({call}) in queue {m.queue!r} with priority {m.priority}{when}"


class CapturedJobs:
    """Within the block, what is queued is noted, and queued as ever: `with CapturedJobs() as jobs: …`.

    Noted is what was sent, whether or not its transaction is rolled back later; of a chain the first job, of a group or
    a chord all members. It is a sequence of `CapturedJob`.
    """

    def __init__(self) -> None:
        self.jobs: list[CapturedJob] = []

    def __enter__(self) -> CapturedJobs:
        publish.watchers.append(self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        publish.watchers.remove(self._note)

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> CapturedJob:
        return self.jobs[index]

    def __iter__(self) -> Iterator[CapturedJob]:
        return iter(self.jobs)

    def clear(self) -> None:
        """Forget what was noted so far."""
        self.jobs.clear()

    def assert_enqueued(
        self,
        task: Task[Any, Any] | DjangosTask | str,
        args: Sequence[Any] = _ANYTHING,
        kwargs: Mapping[str, Any] = _ANYTHING,
        *,
        times: int = 1,
        **fields: Any,
    ) -> list[CapturedJob]:
        """Raise AssertionError unless exactly `times` such jobs were queued. Returns them.

        `task`: a task or its name. Not looked at unless given: `args`, `kwargs`, and, as `fields`, `queue`, `priority`,
        `eta`, `countdown` (seconds), `expires_at`, `parent_id`, `group_id`. Raises TypeError for another field.
        """
        found = self._such(task, args, kwargs, fields)
        if len(found) != times:
            wanted = {"args": args, "kwargs": kwargs, **fields}
            given = "".join(f", {name}={value!r}" for name, value in wanted.items() if value is not _ANYTHING)
            others = "".join(f"\n  {each}" for each in self.jobs) or " nothing"
            raise AssertionError(
                f"{len(found)} and not {times} of {_name_of(task)}{given} were queued. There were:{others}"
            )
        return found

    def assert_not_enqueued(
        self,
        task: Task[Any, Any] | DjangosTask | str,
        args: Sequence[Any] = _ANYTHING,
        kwargs: Mapping[str, Any] = _ANYTHING,
        **fields: Any,
    ) -> None:
        """Raise AssertionError if such a job was queued; see `assert_enqueued`."""
        self.assert_enqueued(task, args, kwargs, times=0, **fields)

    def _such(self, task: Any, args: Any, kwargs: Any, fields: Mapping[str, Any]) -> list[CapturedJob]:
        if unknown := fields.keys() - Message.__dataclass_fields__.keys():
            raise TypeError(f"A job has no {', '.join(sorted(unknown))}.")
        return [
            each
            for each in self.jobs
            if each.task == _name_of(task)
            and (args is _ANYTHING or each.args == list(args))
            and (kwargs is _ANYTHING or each.kwargs == dict(kwargs))
            and all(getattr(each.message, name) == value for name, value in fields.items())
        ]

    def _note(self, messages: Sequence[Message]) -> None:
        self.jobs += map(CapturedJob, messages)


def _name_of(task: Task[Any, Any] | DjangosTask | str) -> str:
    if isinstance(task, str):
        return task
    return task.name if isinstance(task, Task) else task.module_path
