"""What ran, as the tasks themselves have noted it (`tasks.note`)."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Run:
    """One run of one try of a job. Times are monotonic; `ended` is None of one that was cut off, or still runs."""

    job: str
    retries: int
    pid: int
    parent: int  # the supervisor's pid
    began: float
    ended: float | None = None


class Runs:
    """Reads the journal as it grows. Safe in several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._all: list[Run] = []
        self._deaths: dict[int, float] = {}
        self._born: dict[int, float] = {}
        self._open: dict[int, Run] = {}  # by process
        self._of: dict[str, list[Run]] = defaultdict(list)
        self._file = path.open("rb")
        self._rest = b""
        self._lock = threading.Lock()

    def of(self, job: str) -> list[Run]:
        """The runs of a job, in the order of their beginnings."""
        with self._lock:
            self._read()
            return list(self._of.get(job, ()))

    def all(self) -> list[Run]:
        """All runs, in the order of their beginnings."""
        with self._lock:
            self._read()
            return list(self._all)

    def deaths(self) -> dict[int, float]:
        """The processes that ended themselves, and when."""
        with self._lock:
            self._read()
            return dict(self._deaths)

    def running(self, pids: set[int] | None = None) -> list[Run]:
        """What runs now; in these processes."""
        with self._lock:
            self._read()
            return [run for pid, run in self._open.items() if pids is None or pid in pids]

    def born(self) -> set[int]:
        """The processes that run jobs, or did."""
        with self._lock:
            self._read()
            return set(self._born)

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            self._take(*line.decode().split())

    def _take(self, word: str, job: str, retries: str, pid: str, parent: str, at: str) -> None:
        process, when = int(pid), float(at)
        if word == "born":
            self._born[process] = when
        elif word == "dies":
            self._deaths[process] = when
        elif word == "begin":
            run = Run(job, int(retries), process, int(parent), when)
            self._all.append(run)
            self._of[job].append(run)
            self._open[process] = run
        elif process in self._open:
            self._open.pop(process).ended = when
