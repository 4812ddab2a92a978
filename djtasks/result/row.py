"""What a job's row tells its caller: the state, and the value or the exception."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from djtasks import encoding, exceptions, states
from djtasks.exceptions import TaskRevokedError
from djtasks.models import Job

FIELDS: Final = (
    "id",
    "task",
    "queue",
    "state",
    "custom_state",
    "args",
    "kwargs",
    "result",
    "meta",
    "exception",
    "exception_message",
    "exception_args",
    "traceback",
    "retries",
    "worker",
    "finished_at",
    "parent_id",
    "root_id",
    "group_id",
)
_ROW: Final = f"SELECT {', '.join(FIELDS)} FROM djtasks_job WHERE id = %s"  # noqa: S608 - our own names; the ORM takes twice as long


class RowReader:
    """A job as its row tells of it. Equal to another with the same id, and to the id itself.

    `ignored` is known of a job that was sent with `ignore_result`: nobody will ever see its result.
    """

    is_stored: ClassVar[bool] = True

    def __init__(self, id: str, *, name: str | None = None, ignored: bool = False) -> None:
        self.id = str(id)
        self._name = name
        self._ignored = ignored
        self._finished: Job | None = None
        self._seen: Sequence[Job | None] = ()  # the row, or that there is none, once `arefresh` has looked

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def row(self) -> Job | None:
        """The job's row as it stands now, None if there is none; a finished one is kept.

        In async code as `arefresh` has seen it; raises SynchronousOnlyOperation if that was not called.
        """
        if self._finished is not None:
            return self._finished
        try:
            found = next(iter(Job.objects.raw(_ROW, [self.id])), None)
        except SynchronousOnlyOperation:
            if not self._seen:
                raise SynchronousOnlyOperation(
                    "In async code, ask the database with await result.arefresh() first, or await result.aget()."
                ) from None
            return self._seen[0]
        if found is not None and found.is_finished:
            self._finished = found
        return found

    async def arefresh(self) -> None:
        """Read the row, awaitable: `state`, `info`, `ready()` and all that it tells can be had in async code then."""
        self._seen = [await sync_to_async(lambda: self.row)()]

    @property
    def state(self) -> str:
        """Celery's word for where the job stands; PENDING also for an id that nobody knows."""
        row = self.row
        return states.as_seen_by_callers(row.shown_state) if row else states.PENDING

    status = state

    def ready(self) -> bool:
        """Whether the job has ended."""
        row = self.row
        return row is not None and row.is_finished

    def successful(self) -> bool:
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        return self.state == states.FAILURE

    @property
    def result(self) -> Any:
        """The value, the exception (an instance), or what `update_state` said; None before that."""
        row = self.row
        return outcome_of(row) if row else None

    info = result

    @property
    def traceback(self) -> str | None:
        row = self.row
        return (row.traceback or None) if row else None

    @property
    def name(self) -> str | None:
        row = self.row
        return row.task if row else self._name

    @property
    def args(self) -> list[Any] | None:
        row = self.row
        return row.arguments()[0] if row else None

    @property
    def kwargs(self) -> dict[str, Any] | None:
        row = self.row
        return row.arguments()[1] if row else None

    @property
    def worker(self) -> str | None:
        row = self.row
        return (row.worker or None) if row else None

    @property
    def retries(self) -> int | None:
        row = self.row
        return row.retries if row else None

    @property
    def queue(self) -> str | None:
        row = self.row
        return row.queue if row else None

    @property
    def date_done(self) -> Any:
        row = self.row
        return row.finished_at if row else None

    # For those who read the rows of many

    def is_known(self) -> bool:
        """Whether nothing more need be asked: its row was seen finished, or there will be none."""
        return self._ignored or self._finished is not None

    def keep(self, row: Job | None) -> None:
        """Take the row of the finished job, which somebody else has read."""
        self._finished = row

    def __str__(self) -> str:
        return self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RowReader):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented


def outcome_of(row: Job) -> Any:
    """The value, the exception, or what `update_state` said; None before that."""
    if row.state in states.EXCEPTION_STATES:
        return None if row.state == states.RETRY and not row.exception else exception_of(row)
    if row.state == states.SUCCESS:
        return encoding.decode(row.result) if row.result else None
    return row.progress() if row.state in states.RUNNING else None


def exception_of(row: Job) -> BaseException:
    """The exception that the job ended with, as its own class where that can be had."""
    if row.state == states.REVOKED:
        return TaskRevokedError(row.exception_message or "revoked")
    error = _rebuilt(row) or _stand_in(row)
    if row.traceback:
        error.add_note(f"\nThe traceback in the worker:\n{row.traceback}")
    return error


def _rebuilt(row: Job) -> BaseException | None:
    kind = _exception_class(row.exception)
    if kind is None or row.exception_args is None:
        return None
    try:
        error = kind(*encoding.decode(row.exception_args))
    except Exception:  # a constructor of the user's may raise anything
        return None
    return error if isinstance(error, Exception) else None


def _exception_class(path: str) -> type[Exception] | None:
    """The class, only from modules that are imported already: data never imports anything, not by a lazy module either.

    Not one like SystemExit: a task's `sys.exit()` must not end the process that asks for its result.
    """
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), "__dict__", {}).get(name)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _stand_in(row: Job) -> BaseException:
    """An exception of the same name and text, for a class that cannot be had or rebuilt here."""
    name = row.exception.rpartition(".")[2]
    name = name if name.isidentifier() else "UnknownError"  # not any text is the name of a class
    stand_in = type(name, (exceptions.DjtasksError,), {"__module__": row.exception.rpartition(".")[0]})
    return stand_in(f"{name}({row.exception_message or ''})")  # type: ignore[no-any-return]
