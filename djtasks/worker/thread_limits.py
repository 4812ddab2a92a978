"""Soft time limits in threads that are not the main one, which signals do not reach.

A thread keeps the time and has the interpreter raise the error in the thread in question, between two of its
bytecodes; so nothing is raised out of a call that blocks, but when it returns. As everywhere: only while the limit of
this very call stands, and not while our own code, a database driver, logging or an import is at work in it.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from djtasks.exceptions import SoftTimeLimitExceeded
from djtasks.limits import UNLIMITED, Limits, Unlimited
from djtasks.worker.limits import LONGEST_PAUSE, Alarm, SoftLimit, is_ours

SPARED: Final = re.compile(
    r"(djtasks\.(brokers|outbox|publish|worker)|logging|importlib|django\.db\.(backends|transaction)"
    r"|psycopg|pymysql|MySQLdb|redis)(\.|$)"
)


class ThreadLimit(SoftLimit):
    """A limit of `seconds` for one call in whatever thread."""

    def __init__(self, alarm: ThreadAlarm, seconds: float) -> None:
        super().__init__(alarm, seconds)
        self.bells = alarm
        self.thread = 0  # its ident
        self.lock = threading.Lock()  # held by whoever rings, or ends it

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            try:
                self.bells.watch(self)
                return function(*args, **kwargs)
            finally:
                self._leave()  # nothing comes after this
        finally:
            self._end()

    def ring(self) -> None:
        """Raise the error in the thread, unless this is a bad moment. For the thread that keeps the time."""
        with self.lock:
            frame = sys._current_frames().get(self.thread)
            if self.over or self.fired or frame is None or is_ours(frame, ThreadLimit.call.__code__, SPARED):
                return
            at = frame.f_lasti
            _raise_in(self.thread, ctypes.py_object(error_class(self.seconds)))
            # If the thread has moved on between our look and this, it may be anywhere by now.
            self.fired = sys._current_frames().get(self.thread) is frame and frame.f_lasti == at
            if not self.fired:
                _take_back(self.thread)

    def _leave(self) -> None:
        with self.lock:
            self.over = True
        if self.fired:
            _take_back(self.thread)


class ThreadAlarm(Alarm):
    """Raises in the threads of this process whose soft limits are over; `clean` is called in them, after the call."""

    def __init__(self, general: Limits | None = None, clean: Callable[[], object] = lambda: None) -> None:
        super().__init__(general, clean)
        self._limits: set[ThreadLimit] = set()

    def limit(self, seconds: float | None) -> Unlimited:
        return ThreadLimit(self, seconds) if seconds else UNLIMITED

    def watch(self, limit: SoftLimit) -> None:
        """From now on the time of this limit runs, in this thread."""
        assert isinstance(limit, ThreadLimit)  # noqa: S101 - no others are made here
        limit.thread = threading.get_ident()
        limit.deadline = time.monotonic() + limit.seconds
        with self._changed:
            self._limits.add(limit)
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_time, name="djtasks-limits", daemon=True)
                self._thread.start()
            if limit.deadline < self._wakes:
                self._changed.notify()

    def _keep_time(self) -> None:
        while True:
            with self._changed:
                self._limits = {each for each in self._limits if not (each.over or each.fired)}
                self._wakes = min((each.deadline for each in self._limits), default=float("inf"))
                pause = self._wakes - time.monotonic()
                if pause > 0:
                    self._changed.wait(min(pause, threading.TIMEOUT_MAX))
                due = [each for each in self._limits if each.deadline <= time.monotonic()]
            for limit in due:
                limit.ring()
                limit.deadline = time.monotonic() + limit.pause  # once more, unless it was heard
                limit.pause = min(limit.pause * 2, LONGEST_PAUSE)


def _raise_in(thread: int, error: Any) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


def _take_back(thread: int) -> None:
    """What has not been raised in that thread yet, never will be.

    Up to Python 3.12 the interpreter goes on looking for what was taken back, until some thread has raised something;
    3.11 does so for ever, at the first function that begins, while it is traced, as debuggers and coverage do.
    """
    own = ctypes.c_ulong(threading.get_ident())
    set_error = ctypes.pythonapi.PyThreadState_SetAsyncExc
    try:
        set_error(ctypes.c_ulong(thread), ctypes.py_object())  # NULL; no function of Python may begin after this
        set_error(own, ctypes.py_object(_TakenBack))
        while True:  # the end of a loop is where the interpreter looks
            pass
    except _TakenBack:
        return


class _TakenBack(BaseException):
    """Raised and caught at once."""


@lru_cache(maxsize=1000)
def error_class(seconds: float) -> type[SoftTimeLimitExceeded]:
    """SoftTimeLimitExceeded that knows its seconds: the interpreter makes an instance without arguments."""

    class Exceeded(SoftTimeLimitExceeded):
        def __init__(self) -> None:
            super().__init__(seconds)

    for name in ("__module__", "__qualname__", "__name__", "__doc__"):
        setattr(Exceeded, name, getattr(SoftTimeLimitExceeded, name))
    return Exceeded
