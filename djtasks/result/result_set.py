"""Several results as one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from asgiref.sync import sync_to_async

from djtasks import exceptions, publish, states
from djtasks.models import Job
from djtasks.result.row import FIELDS
from djtasks.result.waiting import check_join

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
        check_join(guarded)
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
        rows = _finished_rows(unknown)
        for each in unknown:
            each.keep(rows.get(each.id))
        return [each for each in unknown if not each.is_known()]

    def _looked_up(self) -> list[Any]:
        """The results; the rows of those that have ended are here then."""
        self._unfinished()
        return self.results

    # What is done with all of them

    def revoke(self, terminate: bool = False, signal: str | int | None = None) -> None:
        """Cancel all, as `AsyncResult.revoke` does one."""
        for ids in _portions([each for each in _flat(self.results) if each.is_stored]):
            publish.revoke(ids, (signal or "SIGTERM") if terminate else None)

    def forget(self) -> None:
        """Delete the rows of those that have ended."""
        jobs = [each for each in _flat(self.results) if each.is_stored]
        for ids in _portions(jobs):
            Job.objects.finished().filter(pk__in=ids).delete()
        for each in jobs:
            each.keep(None)

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


def _flat(results: Iterable[Any]) -> list[Any]:
    """The jobs, at any depth."""
    found: list[Any] = []
    for each in results:
        found.extend(_flat(each.results) if isinstance(each, ResultSet) else [each])
    return found


def _portions(jobs: Sequence[Any]) -> Iterator[list[str]]:
    """The ids of jobs, as many at a time as a statement takes well."""
    for at in range(0, len(jobs), BATCH):
        yield [each.id for each in jobs[at : at + BATCH]]


def _finished_rows(jobs: Sequence[Any]) -> dict[str, Job]:
    rows: dict[str, Job] = {}
    for ids in _portions(jobs):
        portion = Job.objects.filter(pk__in=ids, state__in=states.FINISHED)
        rows.update((row.pk, row) for row in portion.only(*FIELDS))
    return rows
