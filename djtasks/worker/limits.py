"""Soft time limits: what is raised inside a task that has run for long enough.

A thread keeps the time and sends this process a signal, whose handler raises in the main thread. It raises only while
the limit that was set for this very call stands: that is set just before the task's own code and is gone first thing
after it, and nothing is raised while our queues, the ledger or logging are at work, deeper in that call. In a
coroutine nothing is raised from outside: its event loop wakes it with the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import threading
import time
import types
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.exceptions import SoftTimeLimitExceeded
from djtasks.limits import UNLIMITED, Limiter, Limits, Unlimited

# Ignored where nobody handles it, and used by next to nothing; SIGALRM and SIGUSR1 stay the user's.
SIGNAL: Final = getattr(signal, "SIGURG", 0)
FIRST_PAUSE: Final = 0.005  # seconds until it rings again, should it have rung at a bad moment, doubled to
LONGEST_PAUSE: Final = 0.1
CANCELLING: Final = 1.0  # seconds that a server has to cancel a query
_OURS: Final = re.compile(r"(djtasks\.(brokers|outbox|publish|worker)|logging|importlib)(\.|$)")


class SoftLimit(Unlimited):
    """A limit of `seconds` for one call, which is raised once. `fired` tells whether it was."""

    def __init__(self, alarm: Alarm, seconds: float) -> None:
        self.alarm = alarm
        self.seconds = seconds
        self.deadline = float("inf")  # monotonic
        self.pause = FIRST_PAUSE
        self.due = False
        self.over = False
        self.fired = False

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not self.alarm.can_ring():
            return function(*args, **kwargs)
        self.alarm.watch(self)
        try:
            try:
                self.alarm.current = self
                return function(*args, **kwargs)
            finally:
                self.alarm.current = None  # nothing may come before this
        finally:
            self._end()

    def call_async(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        try:
            return super().call_async(function, args, kwargs)
        finally:
            self._end()

    async def awaited(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is awaited by a task
        timer = asyncio.get_running_loop().call_later(self.seconds, self._ring_in, task)
        try:
            return await self._driven(function(*args, **kwargs), task)
        finally:
            timer.cancel()

    def error(self) -> SoftTimeLimitExceeded:
        return SoftTimeLimitExceeded(self.seconds)

    def _end(self) -> None:
        self.over = True
        if self.fired:
            self.alarm.clean()

    def _ring_in(self, task: asyncio.Task[Any]) -> None:
        self.fired = True
        task.cancel()

    @types.coroutine
    def _driven(self, awaitable: Awaitable[Any], task: asyncio.Task[Any]) -> Generator[Any, Any, Any]:
        """Await it; the cancellation that comes of the limit reaches it as SoftTimeLimitExceeded."""
        steps: Any = awaitable.__await__()
        error: BaseException | None = None
        value: Any = None
        told = False
        while True:
            try:
                awaited = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            value = error = None
            try:
                value = yield awaited
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as raised:
                error = raised
            if self.fired and not told:
                told = True
                task.uncancel()
                error = self.error()


class Alarm(Limiter):
    """Raises in the main thread of this process when a soft limit is over.

    `clean` is called after a call in which it did, before anything else: what was interrupted may be half done.
    """

    def __init__(self, general: Limits | None = None, clean: Callable[[], object] = lambda: None) -> None:
        self.general = general
        self.current: SoftLimit | None = None  # for which it may raise now
        self.clean = clean
        self._watched: SoftLimit | None = None
        self._wakes = 0.0  # when the thread looks next (monotonic)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def limit(self, seconds: float | None) -> Unlimited:
        return SoftLimit(self, seconds) if seconds else UNLIMITED

    def can_ring(self) -> bool:
        """Whether code in this thread can be interrupted: signals reach the main thread alone."""
        return bool(SIGNAL) and threading.current_thread() is threading.main_thread()

    def watch(self, limit: SoftLimit) -> None:
        """From now on the time of this limit runs. For the main thread."""
        if signal.getsignal(SIGNAL) != self._ring:
            signal.signal(SIGNAL, self._ring)
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_time, name="djtasks-limits", daemon=True)
            self._thread.start()
        limit.deadline = time.monotonic() + limit.seconds
        with self._changed:
            self._watched = limit
            if limit.deadline < self._wakes:
                self._changed.notify()

    def _keep_time(self) -> None:
        main = threading.main_thread().ident or 0
        while True:
            with self._changed:
                limit = self._watched
                self._wakes = float("inf") if limit is None or limit.over or limit.fired else limit.deadline
                pause = self._wakes - time.monotonic()
                if limit is None or pause > 0:
                    self._changed.wait(min(pause, threading.TIMEOUT_MAX))
                    continue
                limit.due = True
                limit.deadline = time.monotonic() + limit.pause  # once more, unless it was heard
                limit.pause = min(limit.pause * 2, LONGEST_PAUSE)
            signal.pthread_kill(main, SIGNAL)

    def _ring(self, _number: int, frame: FrameType | None) -> None:
        limit = self.current
        if limit is None or not limit.due or is_ours(frame, SoftLimit.call.__code__):
            return  # it came too late, from somebody else, or at a bad moment: then it rings again
        self.current = None
        limit.fired = True
        _cut_off_queries(frame)
        raise limit.error()


def is_ours(frame: FrameType | None, call: CodeType, ours: re.Pattern[str] = _OURS) -> bool:
    """Whether what is interrupted, within `call`, must not be: our own code, a lock that others need, a finalizer."""
    while frame is not None and frame.f_code is not call:
        if frame.f_code.co_name == "__del__" or ours.match(frame.f_globals.get("__name__", "")):
            return True
        frame = frame.f_back
    return False


def _cut_off_queries(frame: FrameType | None) -> None:
    """Cancel the query that is interrupted, and close its connection: it waits for an answer that nobody will read.

    The task may catch the error, and ask the database something else.
    """
    while frame is not None and frame.f_code is not SoftLimit.call.__code__:
        if frame.f_globals.get("__name__", "").startswith("django.db.backends."):
            used = frame.f_locals.get("self")
            used = getattr(used, "db", used)
            if isinstance(used, BaseDatabaseWrapper):
                _cut_off(used)
        frame = frame.f_back


def _cut_off(connection: BaseDatabaseWrapper) -> None:
    cancel = getattr(connection.connection, "cancel_safe", None)  # psycopg 3.2 has it
    with contextlib.suppress(Exception):
        if cancel is not None:
            cancel(timeout=CANCELLING)
    with contextlib.suppress(Exception):
        connection.close()
