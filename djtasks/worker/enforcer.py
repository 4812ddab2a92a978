"""Ends runs from outside, by a signal: those that have reached their hard time limit, and those that were revoked.

The supervisor calls it; what follows for the job is the keeper's to say, once the process is dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable
from typing import Final

from djtasks.worker.processes import Process, Sentence, kill_group, signal_group
from djtasks.worker.slots import Slots, Started

LAST_STORING: Final = 1.0  # seconds for which a child's unstored outcomes of other jobs are waited for
LAST_DEEDS: Final = 5.0  # seconds that a process has to end by a signal, before it is killed
CLOSE_LOOKS: Final = 0.02  # seconds between two looks meanwhile
STANDSTILL: Final = 0.2  # seconds until a process that was stopped stands still, unless the system holds it anyhow
REMEMBERED: Final = 60.0  # seconds; what was claimed begins, or is given back, long before


class Enforcer:
    """Watches what the children run, by their slots."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._revoked: dict[tuple[str, int], tuple[int, float]] = {}  # run → by which signal, and when it was asked for

    def revoke(self, runs: Iterable[tuple[str, int]], signal_name: str) -> None:
        """End these runs, given by id and token, or do so once they begin."""
        now = time.monotonic()
        number = getattr(signal, signal_name, signal.SIGTERM)
        self._revoked = {run: order for run, order in self._revoked.items() if now - order[1] < REMEMBERED}
        self._revoked.update(((job_id, token), (number, now)) for job_id, token in runs)

    def patience(self, children: Collection[Process]) -> float:
        """Seconds until it has to look again."""
        waits = [CLOSE_LOOKS for each in children if each.patience_ends is not None]
        indexes = [each.index for each in children if each.index is not None]
        left = [run.left for index in indexes for run in self.slots.running(index).values()]
        return max(0.0, min([*waits, *left], default=float("inf")))

    def enforce(self, children: Collection[Process]) -> None:
        """End what must not run on."""
        for process in children:
            if process.index is None:
                continue
            if not self._sentences(process.index):
                process.sentences, process.patience_ends = (), None
            elif process.sentences:
                if process.patience_ends is not None and time.monotonic() > process.patience_ends:
                    kill_group(process.pid)
            elif self._is_time(process, process.index):
                self._carry_out(process, process.index)

    def _sentences(self, index: int) -> dict[int, Sentence]:
        """What is to end of what runs in a child, by its mark. A time limit is a call's, and ends all its jobs."""
        running = self.slots.running(index)
        over = {started.place: started.time_limit for started in running.values() if started.left <= 0}
        found = {mark: self._sentence(started, over.get(started.place)) for mark, started in running.items()}
        return {mark: sentence for mark, sentence in found.items() if sentence is not None}

    def _sentence(self, started: Started, seconds: float | None) -> Sentence | None:
        if order := self._revoked.get((started.id, started.token)):
            return Sentence(started.id, started.token, order[0])
        return None if seconds is None else Sentence(started.id, started.token, seconds=seconds)

    def _is_time(self, process: Process, index: int) -> bool:
        """Whether nothing is left to wait for: what others of its jobs came to is stored, or cannot be stored now."""
        if not self.slots.unsettled(index):
            return True
        if process.patience_ends is None:
            process.patience_ends = time.monotonic() + LAST_STORING
        return time.monotonic() > process.patience_ends

    def _carry_out(self, process: Process, index: int) -> None:
        """Send the signal, if what is to end still runs: it may be ending just now, or the next job have begun."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
            _wait_for_standstill(process.pid)
            if sentences := self._sentences(index):
                process.sentences = tuple(sentences.values())
                process.patience_ends = time.monotonic() + LAST_DEEDS
                for mark in sentences:
                    self.slots.condemn(index, mark)
                numbers = [each.signum for each in process.sentences]
                signal_group(process.pid, signal.SIGKILL if signal.SIGKILL in numbers else numbers[0])
            os.kill(process.pid, signal.SIGCONT)


def _wait_for_standstill(pid: int) -> None:
    """Wait until a process that was told to stop has stopped, or died. Leaves its death to be told."""
    deadline = time.monotonic() + STANDSTILL
    wait = getattr(os, "waitid", None)  # macOS has it from Python 3.13 on
    while time.monotonic() < deadline:
        if wait is not None and wait(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return
        time.sleep(0.001)
