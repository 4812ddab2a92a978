"""Handles on several jobs: any set of them, or the members of a group."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

from asgiref.sync import sync_to_async

from djtasks import exceptions, states
from djtasks.models import Job, JobGroup
from djtasks.models.fields import utc_now
from djtasks.result import job
from djtasks.result.eager import EagerResult
from djtasks.result.job import AsyncResult

BATCH: Final = 500  # rows
FIRST_PAUSE: Final = 0.002  # seconds between looks at what has not ended, growing to
LONGEST_PAUSE: Final = 0.25


class ResultSet:
    """Several results, in order; its parts may be jobs or sets themselves."""

    def __init__(self, results: Iterable[Any] = ()) -> None:
        self.results = list(results)

    def add(self, result: Any) -> None:
        """Add a result, unless it is there."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Take a result, or the one of that id, out. Raises KeyError if it is not there."""
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    discard = remove

    def update(self, results: Iterable[Any]) -> None:
        """Add all that are not there."""
        for each in results:
            self.add(each)

    def clear(self) -> None:
        """Take all out."""
        self.results.clear()

    # How they stand

    def ready(self) -> bool:
        """Whether all have ended."""
        return not self._unfinished()

    def waiting(self) -> bool:
        """Whether any has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have succeeded."""
        return all(each.successful() for each in self._looked_up())

    def failed(self) -> bool:
        """Whether any has failed."""
        return any(each.failed() for each in self._looked_up())

    def completed_count(self) -> int:
        """How many have succeeded."""
        return sum(1 for each in self._looked_up() if each.successful())

    # Waiting for them

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        callback: Callable[[str, Any], object] | None = None,
        disable_sync_subtasks: bool = True,
        **_options: Any,
    ) -> list[Any]:
        """Wait for all to end and return their values, in order; raise the first error if `propagate`.

        `timeout` and `interval` are seconds; `callback(id, value)` is called for each in its turn, and then nothing
        is returned. Raises TimeoutError, and RuntimeError as `AsyncResult.get`.
        """
        with self._first_error_first():
            for pause in self._pauses(timeout, propagate, interval, disable_sync_subtasks):
                time.sleep(pause)
            return self._values(propagate, callback)

    join = join_native = get

    async def aget(self, timeout: float | None = None, propagate: bool = True, interval: float | None = None) -> Any:
        """`get`, awaitable."""
        pauses = self._pauses(timeout, propagate, interval, True)
        while (pause := await sync_to_async(lambda: next(pauses, None))()) is not None:
            await asyncio.sleep(pause)
        return await sync_to_async(self._values_or_first_error)(propagate)

    def iterate(self, timeout: float | None = None, propagate: bool = True) -> Iterator[tuple[str, Any]]:
        """(id, value) of each, as they end. Raises as `get`."""
        left = list(self.results)
        deadline = None if timeout is None else time.monotonic() + timeout
        while left:
            unfinished = {str(each) for each in ResultSet(left)._unfinished()}
            for each in [each for each in left if str(each) not in unfinished]:
                yield str(each), each.get(propagate=propagate)
                left.remove(each)
            if left and deadline is not None and time.monotonic() > deadline:
                raise exceptions.TimeoutError(f"{len(left)} result(s) had not come after {timeout} seconds.")
            time.sleep(LONGEST_PAUSE / 5 if left else 0)

    iter_native = iterate

    def _pauses(self, timeout: float | None, propagate: bool, interval: float | None, guarded: bool) -> Iterator[float]:
        job.check_join(guarded)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = interval or FIRST_PAUSE
        left = self._unfinished()
        while left:
            if propagate:
                for each in _flat(self.results):
                    each.raise_if_known()
            left[0].raise_if_uncommitted()
            seconds = LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
            if seconds <= 0:
                raise exceptions.TimeoutError(f"{len(left)} of {len(self.results)} had not ended in {timeout} seconds.")
            yield min(pause, seconds)
            pause = pause if interval else min(pause * 1.1, LONGEST_PAUSE)
            left = self._unfinished(left)

    def _values_or_first_error(self, propagate: bool) -> list[Any]:
        with self._first_error_first():
            return self._values(propagate, None)

    @contextmanager
    def _first_error_first(self) -> Iterator[None]:
        """Of an error, raise the one before it that has led to it."""
        try:
            yield
        except exceptions.TimeoutError:
            raise
        except Exception:
            self.raise_error_before()
            raise

    def _values(self, propagate: bool, callback: Callable[[str, Any], object] | None) -> list[Any]:
        self._looked_up()
        values = [each.get(propagate=propagate, disable_sync_subtasks=False) for each in self.results]
        if callback is None:
            return values
        for each, value in zip(self.results, values, strict=True):
            callback(str(each), value)
        return []

    def _unfinished(self, among: Sequence[Any] | None = None) -> list[Any]:
        """The jobs in it, or `among` them, that have not ended; asks for many rows at once."""
        jobs = _flat(self.results) if among is None else among
        unknown = [each for each in jobs if not each.is_known()]
        rows = _finished_rows([each.id for each in unknown])
        for each in unknown:
            each.keep(rows.get(each.id))
        return [each for each in unknown if not each.is_known()]

    def _looked_up(self) -> list[Any]:
        """The results; the rows of those that have ended are here then."""
        self._unfinished()
        return self.results

    # What is done with all of them

    def revoke(self, terminate: bool = False, **options: Any) -> None:
        """Cancel all. Raises BrokerUnavailable."""
        for each in self.results:
            each.revoke(terminate=terminate)

    def forget(self) -> None:
        """Delete the rows of those that have ended."""
        for each in self.results:
            each.forget()

    def committed_when(self, committed: Callable[[], bool] | None) -> None:
        """`committed` tells whether what was sent has been committed."""
        for each in self.results:
            each.committed_when(committed)

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> None:
        """Raise the error of the first that has failed."""
        for each in self._looked_up() if propagate else ():
            if each.failed():
                each.raise_error_before()
            each.maybe_throw()

    maybe_reraise = maybe_throw

    def raise_error_before(self) -> None:
        """Nothing stands before a set."""

    @property
    def supports_native_join(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(map(str, self.results))}]>"


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
        job.raise_first_error(self)

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


def _flat(results: Iterable[Any]) -> list[Any]:
    """The jobs, at any depth."""
    found: list[Any] = []
    for each in results:
        found.extend(_flat(each.results) if isinstance(each, ResultSet) else [each])
    return found


def _finished_rows(ids: Sequence[str]) -> dict[str, Job]:
    rows: dict[str, Job] = {}
    for at in range(0, len(ids), BATCH):
        portion = Job.objects.filter(pk__in=ids[at : at + BATCH], state__in=states.FINISHED)
        rows.update((row.pk, row) for row in portion.only(*job.FIELDS))
    return rows


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
    own_group = Job.objects.filter(pk=job_id).values_list("group_id", flat=True).first()
    found: dict[str, Any] = {}
    for pk, group_id in rows:
        if group_id is None or group_id == own_group:
            found[pk] = AsyncResult(pk)
        else:
            found.setdefault(group_id, GroupResult(group_id)).results.append(AsyncResult(pk))
    return list(found.values())


job.children_of = _children_of

__all__ = ["EagerResult", "GroupResult", "ResultSet", "result_from_tuple"]
