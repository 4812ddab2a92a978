"""Handles on what has been sent: a job, a group; each leads to the other.

A job may have sent groups, a group has jobs for members, and before either may stand the other.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, Self, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

from djtasks import exceptions, outbox, publish, states
from djtasks.conf import settings
from djtasks.message import Message
from djtasks.models import Job, JobGroup, statements
from djtasks.models.fields import utc_now
from djtasks.result.result_set import ResultSet
from djtasks.result.row import RowReader, outcome_of
from djtasks.result.waiting import check_join

Value = TypeVar("Value")

FIRST_PAUSE: Final = 0.0005  # seconds between looks at the row, growing to
LONGEST_PAUSE: Final = 0.25


class AsyncResult(RowReader, Generic[Value]):
    """A handle on a job. Equal to another with the same id, and to the id itself.

    `committed` tells whether the transaction that sent the job has committed; None if none was open.
    """

    def __init__(
        self, id: str, *, name: str | None = None, ignored: bool = False, committed: Callable[[], bool] | None = None
    ) -> None:
        super().__init__(id, name=name, ignored=ignored)
        self._committed = committed
        self.known_parent: Any = None  # what a canvas has before it, as its caller knows it

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
            raise outcome_of(row)

    maybe_reraise = maybe_throw

    def _value_or_error(self, propagate: bool) -> Value:
        row = None if self._ignored else self.row
        if row is None:
            return None  # type: ignore[return-value]  # nothing is stored of an ignored result
        outcome = outcome_of(row)
        if propagate and row.state in states.PROPAGATE_STATES:
            self.raise_error_before()
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def _pauses(self, timeout: float | None, interval: float | None, guarded: bool) -> Iterator[float]:
        """Seconds to sleep until the next look at the row; ends when the job has. Raises what `get` does."""
        check_join(guarded)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = interval or FIRST_PAUSE
        has_ended = self._ignored or self.ready()
        while not has_ended:
            self.raise_if_uncommitted()
            left = LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise exceptions.TimeoutError(f"Job {self.id} had not ended after {timeout} seconds.")
            yield min(pause, left)
            if interval is None:
                # Slowly: a thirtieth of the time that it has waited is as late as an end is noticed.
                pause = min(pause * random.uniform(1.02, 1.04), LONGEST_PAUSE)
            # Not `ready()`: to have the row read by the ORM takes three times as long.
            has_ended = statements.state(connections[settings.DATABASE], self.id) in states.FINISHED and self.ready()

    # For those who wait for several

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

    def revoke(self, terminate: bool = False, signal: str | int | None = None) -> None:
        """Cancel the job: it ends as REVOKED without a run, or is not repeated if it runs.

        With `terminate` a run is ended by `signal` (SIGTERM). Raises BrokerUnavailable, ValueError for no signal.
        """
        publish.revoke([self.id], (signal or "SIGTERM") if terminate else None)

    def forget(self) -> None:
        """Delete the finished job's row; a job that has not ended stays."""
        Job.objects.finished().filter(pk=self.id).delete()
        self._finished = None

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
        return _children_of(self.id)

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

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"


class GroupResult(ResultSet):
    """The results of a group's members, in its order. Equal to another with the same id and members."""

    def __init__(self, id: str | None = None, results: Iterable[Any] = (), parent: Any = None) -> None:
        super().__init__(results)
        self.id = id or ""
        self.known_parent = parent

    @property
    def parent(self) -> Any:
        """What stands before it in its canvas, if its caller knows."""
        return self.known_parent

    @parent.setter
    def parent(self, parent: Any) -> None:
        self.known_parent = parent

    @property
    def children(self) -> list[Any]:
        return self.results

    def raise_error_before(self) -> None:
        """Raise the error of the first job before it, of those that its caller knows, that has failed."""
        raise_first_error(self)

    def save(self, backend: Any = None) -> Self:
        """Store which jobs belong to it, so that `restore` finds them by its id."""
        text = json.dumps(self.as_tuple())
        JobGroup.objects.update_or_create(
            pk=self.id,
            defaults={"results": text},
            create_defaults={"results": text, "size": len(self), "remaining": 0, "finished_at": utc_now()},
        )
        return self

    def delete(self, backend: Any = None) -> None:
        """Forget what `save` has stored."""
        JobGroup.objects.filter(pk=self.id).update(results=None)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Any = None) -> GroupResult | None:
        """The group of that id, if it was saved or has been sent; None if not."""
        row = JobGroup.objects.filter(pk=id).values_list("results", flat=True).first()
        if row:
            return result_from_tuple(json.loads(row))  # type: ignore[no-any-return]
        members = _members_of(id)
        return cls(id, members) if members else None

    def as_tuple(self) -> tuple[Any, list[Any]]:
        """Celery's form: `((id, the parent's tuple or None), [the members' tuples])`."""
        parent = self.known_parent
        return (self.id, parent.as_tuple() if parent is not None else None), [each.as_tuple() for each in self.results]

    def as_list(self) -> list[Any]:
        """Its id and those of its members."""
        return [self.id, *(each.as_list() for each in self.results)]

    def collect(self, **options: Any) -> Iterator[tuple[Any, Any]]:
        """Each job that came of its members, with its value."""
        for each in self.results:
            yield from each.collect(**options)

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.id == other.id and self.results == other.results
        return self.id == other if isinstance(other, str) else super().__eq__(other)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(map(str, self.results))}]>"


def result_from_tuple(values: Any, app: Any = None) -> Any:
    """The handle that `as_tuple` was called on; a handle, or an id, is taken too."""
    if isinstance(values, (AsyncResult, ResultSet)):
        return values
    if isinstance(values, str):
        return AsyncResult(values)
    head, members = values
    own_id, parent = head if isinstance(head, (list, tuple)) else (head, None)
    before = result_from_tuple(parent) if parent else None
    if members is not None:
        return GroupResult(own_id, [result_from_tuple(each) for each in members], before)
    result: AsyncResult[Any] = AsyncResult(own_id)
    result.known_parent = before
    return result


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


def handle_on(
    message: Message, committed: Callable[[], bool] | None, holders: Mapping[str, str] | None = None
) -> AsyncResult[Any]:
    """The handle on a job that was just sent, or on the one of `holders` that has its unique key."""
    if holders and message.id in holders:
        return AsyncResult(holders[message.id], name=message.task)
    ignored = '"ignore_result":true' in message.options and not message.check
    handle: AsyncResult[Any] = AsyncResult(message.id, name=message.task, ignored=ignored, committed=committed)
    if message.unique_key is not None and committed is not None:
        outbox.handles[message.id] = handle
    return handle


def _members_of(group_id: str) -> list[AsyncResult[Any]]:
    """The members of a group whose rows are there, by their place: the last job of each."""
    found: dict[int, str] = {}
    for pk, options in Job.objects.filter(group_id=group_id).order_by("created_at", "id").values_list("pk", "options"):
        values = json.loads(options)
        if "chain" not in values and "index" in values:
            found.setdefault(values["index"], pk)
    return [AsyncResult(pk) for _index, pk in sorted(found.items())]


def _children_of(job_id: str) -> list[Any]:
    """What a job sent: jobs, and groups as a whole."""
    rows = Job.objects.filter(parent_id=job_id).order_by("created_at", "id").values_list("pk", "group_id")
    own_group, sent = Job.objects.filter(pk=job_id).values_list("group_id", "children").first() or (None, None)
    known = dict(json.loads(sent)) if sent else {}  # in the order in which they were sent, with rows or without
    found: dict[str, Any] = {}
    for pk, group_id in {**known, **dict(rows)}.items():
        if group_id is None or group_id == own_group:
            found[pk] = AsyncResult(pk)
        else:
            found.setdefault(group_id, GroupResult(group_id)).results.append(AsyncResult(pk))
    return list(found.values())
