"""The signals that ask a process for its end: who takes them, and what its copies do with them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def take_signals(handler: Callable[[int, Any], None]) -> None:
    """Let `handler` take the signals that ask for a stop, those too that came while they were blocked."""
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def spare_copies() -> None:
    """What a job forks, as multiprocessing does, is to end at a SIGTERM, not to ask this process to stop."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_hold_stops, after_in_parent=_release_stops, after_in_child=_become_ordinary)


def _hold_stops() -> None:
    """Let no stop come while a process is copied: the copy would hear it by our handler, which is gone by then."""
    _held.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _release_stops() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.before)


def _become_ordinary() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    _release_stops()


class _Held(threading.local):
    """The signals that this thread had blocked before it made a copy of the process."""

    before: set[signal.Signals | int] = set()


_held = _Held()
