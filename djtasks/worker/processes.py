"""The processes of a worker, as their supervisor knows them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

from djtasks.worker.slots import Started


@dataclass(frozen=True, slots=True)
class Sentence:
    """Why the run of a job is ended from outside: after `seconds`, its time limit; or, None, because it was revoked.

    By the signal `signum`, to the process that runs it and all that it has started.
    """

    id: str
    token: int
    signum: int = signal.SIGKILL
    seconds: float | None = None

    def is_of(self, started: Started) -> bool:
        """Whether it is this run that is to end."""
        return (self.id, self.token) == (started.id, started.token)


@dataclass(slots=True)
class Process:
    """A process that was forked: a child, or the keeper (`index` None)."""

    pid: int
    owner: str
    index: int | None
    born: float = field(default_factory=time.monotonic)
    sentence: Sentence | None = None  # which is being carried out
    patience_ends: float | None = None  # when its unstored outcomes, or its reaction, are waited for no longer


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a child and what its jobs have started: it leads a process group of its own."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, number)
            return


def kill_group(pid: int) -> None:
    """End a child and what its jobs have started, whether or not it leads its group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def cause(code: int) -> str:
    """What a process ended by."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
