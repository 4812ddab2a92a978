"""What the caller holds: the state and the result of a job, read from its row."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

from asgiref.sync import sync_to_async

from djtasks import encoding, exceptions, publish, states
from djtasks.exceptions import TaskRevokedError
from djtasks.message import Message
from djtasks.models import Job
from djtasks.request import current_job

Value = TypeVar("Value")

FIRST_PAUSE: Final = 0.0005  # seconds between looks at the row, growing to
LONGEST_PAUSE: Final = 0.25
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

_join_allowed: ContextVar[bool] = ContextVar("djtasks_join_allowed", default=False)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow `AsyncResult.get()` inside a task. The job waited for may need the very process that waits."""
    token = _join_allowed.set(True)
    try:
        yield
    finally:
        _join_allowed.reset(token)


class AsyncResult(Generic[Value]):
    """A handle on a job. Equal to another with the same id, and to the id itself.

    `committed` tells whether the transaction that sent the job has committed; None if none was open.
    `ignored` is known of a job that was sent with `ignore_result`: nobody will ever see its result.
    """

    def __init__(
        self, id: str, *, name: str | None = None, ignored: bool = False, committed: Callable[[], bool] | None = None
    ) -> None:
        self.id = str(id)
        self._name = name
        self._ignored = ignored
        self._committed = committed
        self._finished: Job | None = None
        self.known_parent: Any = None  # what a canvas has before it, as its caller knows it

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def row(self) -> Job | None:
        """The job's row as it stands now, None if there is none; a finished one is kept."""
        if self._finished is None:
            found = Job.objects.only(*FIELDS).filter(pk=self.id).first()
            if found is None or not found.is_finished:
                return found
            self._finished = found
        return self._finished

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
        return _outcome_of(row) if row else None

    info = result

    @property
    def traceback(self) -> str | None:
        row = self.row
        return (row.traceback or None) if row else None

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        disable_sync_subtasks: bool = True,
    ) -> Value:
        """Wait for the job to end and return its value; raise its exception if `propagate`.

        `timeout` and `interval` are seconds. Raises TimeoutError if it has not ended by then, and
        RuntimeError at once inside a task (unless `disable_sync_subtasks=False` or within
        `allow_join_result()`), or if it waits for the commit of the caller's own transaction.
        """
        for pause in self._pauses(timeout, interval, disable_sync_subtasks):
            time.sleep(pause)
        return self._value_or_error(propagate)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        disable_sync_subtasks: bool = True,
    ) -> Value:
        """`get`, awaitable: no thread waits while the job runs."""
        pauses = self._pauses(timeout, interval, disable_sync_subtasks)
        while (pause := await sync_to_async(lambda: next(pauses, None))()) is not None:
            await asyncio.sleep(pause)
        return await sync_to_async(self._value_or_error)(propagate)

    def committed_when(self, committed: Callable[[], bool] | None) -> None:
        """`committed` tells whether what was sent with it has been committed."""
        self._committed = committed

    def raise_error_before(self) -> None:
        """Raise the error of the first job before it, of those that its caller knows, that has failed."""
        raise_first_error(self)

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> None:
        """Raise the job's error, if it has failed."""
        row = self.row
        if propagate and row is not None and row.state in states.PROPAGATE_STATES:
            raise _outcome_of(row)

    maybe_reraise = maybe_throw

    def _value_or_error(self, propagate: bool) -> Value:
        row = None if self._ignored else self.row
        if row is None:
            return None  # type: ignore[return-value]  # nothing is stored of an ignored result
        outcome = _outcome_of(row)
        if propagate and row.state in states.PROPAGATE_STATES:
            self.raise_error_before()
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def _pauses(self, timeout: float | None, interval: float | None, guarded: bool) -> Iterator[float]:
        """Seconds to sleep until the next look at the row; ends when the job has. Raises what `get` does."""
        check_join(guarded)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = interval or FIRST_PAUSE
        while not (self._ignored or self.ready()):
            self.raise_if_uncommitted()
            left = LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise exceptions.TimeoutError(f"Job {self.id} had not ended after {timeout} seconds.")
            yield min(pause, left)
            if interval is None:
                # Slowly: a twelfth of the time that it has waited is as late as an end is noticed.
                pause = min(pause * random.uniform(1.06, 1.12), LONGEST_PAUSE)

    # For those who wait for several

    def is_known(self) -> bool:
        """Whether nothing more need be asked: its row was seen finished, or there will be none."""
        return self._ignored or self._finished is not None

    def keep(self, row: Job | None) -> None:
        """Take the row of the finished job, which somebody else has read."""
        self._finished = row

    def raise_if_known(self) -> None:
        """Raise the job's error if it is known to have failed."""
        if self._finished is not None:
            self._value_or_error(propagate=True)

    def raise_if_uncommitted(self) -> None:
        """Raise RuntimeError if the job waits for the commit of the caller's own transaction."""
        if self._committed is not None and not self._committed():
            raise RuntimeError(
                f"Job {self.id} was sent inside a transaction that has not committed, so no worker can see it: "
                f"leave the atomic() block before get(). In a TestCase, call djtasks.testing.run_jobs() first."
            )

    def revoke(self, terminate: bool = False) -> None:
        """Cancel the job: it ends as REVOKED without a run, or is not repeated if it runs. Raises BrokerUnavailable."""
        if terminate:
            raise NotImplementedError("Ending a run that has begun needs worker commands, which djtasks lacks yet.")
        publish.revoke([self.id])

    def forget(self) -> None:
        """Delete the finished job's row; a job that has not ended stays."""
        Job.objects.finished().filter(pk=self.id).delete()
        self._finished = None

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

    @property
    def parent(self) -> Any:
        """What stands before it in its canvas (before a chord's body, its header), or the job that sent it."""
        if self.known_parent is not None:
            return self.known_parent
        row = self.row
        return AsyncResult(row.parent_id) if row and row.parent_id else None

    @parent.setter
    def parent(self, parent: Any) -> None:
        self.known_parent = parent

    @property
    def children(self) -> list[Any]:
        """What this job sent, oldest first: jobs, and a GroupResult for each group."""
        return children_of(self.id)

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[AsyncResult[Any], Any]]:
        """Each job that came of this one, itself first, with its value: `(result, result.get(**options))`.

        It waits for each, unless `intermediate`: then the value of what has not ended is None.
        """
        waiting: deque[AsyncResult[Any]] = deque([self])
        while waiting:
            result = waiting.popleft()
            yield result, None if intermediate and not result.ready() else result.get(**options)
            waiting.extend(result.children)

    def as_tuple(self) -> tuple[tuple[str, Any], None]:
        """Celery's form: `((id, the parent's tuple or None), None)`."""
        parent = self.parent
        return (self.id, parent.as_tuple() if parent else None), None

    def as_list(self) -> list[str]:
        """The ids of this job and of those above it."""
        parent = self.parent
        return [self.id, *(parent.as_list() if parent else ())]

    def then(self, callback: Callable[[Any], object], on_error: Callable[[Any], object] | None = None) -> None:
        """Celery's promise. Raises NotImplementedError: a callback that must not get lost is `link`."""
        raise NotImplementedError("Use link= and link_error=, which outlive this process, or await aget().")

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented


def line_of(result: Any) -> list[Any]:
    """What stands before a result in its canvas, as its caller knows it, the first first; and the result itself."""
    line = [result]
    while (before := line[-1].known_parent) is not None:
        line.append(before)
    return line[::-1]


def raise_first_error(result: Any) -> None:
    """Raise the error of the first of those before `result` that has failed."""
    for each in line_of(result)[:-1]:
        each.maybe_throw()


def check_join(guarded: bool) -> None:
    """Raise RuntimeError inside a task that has not allowed itself to wait for others."""
    if guarded and current_job() and not _join_allowed.get():
        raise RuntimeError(
            "Never call result.get() within a task! It may wait for the process that it runs in; "
            "see allow_join_result()."
        )


def handle_on(message: Message, committed: Callable[[], bool] | None) -> AsyncResult[Any]:
    """The handle on a job that was just sent."""
    ignored = '"ignore_result":true' in message.options and not message.check
    return AsyncResult(message.id, name=message.task, ignored=ignored, committed=committed)


def children_of(job_id: str) -> list[Any]:
    """Set by `djtasks.result.group`, which knows groups."""
    raise NotImplementedError


def _outcome_of(row: Job) -> Any:
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
    """The class, only from modules that are imported already: data never imports anything.

    Not one like SystemExit: a task's `sys.exit()` must not end the process that asks for its result.
    """
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _stand_in(row: Job) -> BaseException:
    """An exception of the same name and text, for a class that cannot be had or rebuilt here."""
    name = row.exception.rpartition(".")[2] or "UnknownError"
    stand_in = type(name, (exceptions.DjtasksError,), {"__module__": row.exception.rpartition(".")[0]})
    return stand_in(f"{name}({row.exception_message or ''})")  # type: ignore[no-any-return]
