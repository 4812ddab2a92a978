"""Where the faults strike: what they may reach, and how long it takes until all works again."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing, suppress

import redis
from django.db import DatabaseError, InterfaceError, connections

from djtasks.models import Job
from tests.faults.fleet import Fleet
from tests.faults.plan import Figures, Pace
from tests.faults.runs import Run
from tests.faults.stores import Store

RECOVERY_TIMEOUT = 90.0  # seconds


class Stage:
    """One run's store and fleet, and what is measured of each kind of fault."""

    def __init__(self, store: Store, fleet: Fleet, pace: Pace, say: Callable[[str], None]) -> None:
        self.store = store
        self.fleet = fleet
        self.pace = pace
        self.say = say
        self.figures: dict[str, Figures] = defaultdict(Figures)
        self.outages: list[tuple[float, float]] = []  # when a store did not answer as it should: from, to
        self.problems: list[str] = []
        self._lock = threading.Lock()

    # What happened

    def struck(self, kind: str) -> None:
        with self._lock:
            self.figures[kind].struck += 1

    def time(self, kind: str, since: float, is_over: Callable[[], bool]) -> None:
        """Wait until it is over, and note how long that took since then (monotonic)."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT
        while not self.holds(is_over):
            if time.monotonic() > deadline:
                with self._lock:
                    self.problems.append(f"no recovery within {RECOVERY_TIMEOUT:.0f} s from: {kind}")
                return
            time.sleep(0.02)
        seconds = time.monotonic() - since
        with self._lock:
            self.figures[kind].seconds.append(seconds)
        self.say(f"{kind}: {seconds:.1f} s")

    def holds(self, condition: Callable[[], bool]) -> bool:
        """Whether it is so; not if a server does not answer."""
        try:
            return condition()
        except (DatabaseError, InterfaceError, redis.RedisError, OSError):
            with suppress(Exception):
                connections[self.store.alias].close()
            return False

    # Processes

    def end(self, kind: str, pids: Iterable[int], victims: Iterable[int] | None = None) -> None:
        """Kill processes (`victims`, if these take the others with them), time until what ran there runs again."""
        pids = list(pids)
        cut_off = self.fleet.runs.running(set(pids))
        at = self.fleet.kill(pids if victims is None else victims, dead=pids)
        self.await_reruns(kind, at, cut_off)

    def await_reruns(self, kind: str, at: float, cut_off: list[Run]) -> None:
        if cut_off:
            self.time(kind, at, lambda: all(self._is_again(run, at) for run in cut_off))

    def _is_again(self, run: Run, at: float) -> bool:
        if run.ended is not None or any(other.began > at for other in self.fleet.runs.of(run.job)):
            return True
        return Job.objects.finished().filter(pk=run.job).exists()

    def victim(self, chance: random.Random) -> int:
        """A child, one that runs a job if there is any."""
        children = [pid for name in self.fleet.names for pid in self.fleet.children(name)]
        busy = [run.pid for run in self.fleet.runs.running(set(children))]
        return chance.choice(busy or children)

    def restart(self, name: str) -> None:
        """Start a worker whose supervisor was killed; return when it is up."""
        worker = self.fleet.workers[name]
        worker.process.wait()
        pid = self.fleet.start(name).pid
        self.fleet.wait_for_beat(name, pid, RECOVERY_TIMEOUT)

    # Servers

    def works_again(self, kind: str, since: float) -> None:
        """Time until every process of each worker has got through, twice, and an outcome was stored between."""
        first: list[tuple[float, int]] = []  # when all had got through once, and how many jobs were finished then

        def is_over() -> bool:
            if not first:
                if self.fleet.all_turned_since(since):
                    first.append((time.monotonic(), Job.objects.finished().count()))
                return False
            moment, finished = first[0]
            return self.fleet.all_turned_since(moment) and Job.objects.finished().count() > finished

        self.time(kind, since, is_over)

    def outage(self, begin: Callable[[], object], end: Callable[[], object], seconds: float) -> float:
        """Break something for so long. Returns when it was whole again (monotonic)."""
        began = time.monotonic()
        begin()
        time.sleep(seconds)
        end()
        ended = time.monotonic()
        with self._lock:
            self.outages.append((began, ended))
        return ended

    def hold_write_lock(self, seconds: float) -> float:
        """Keep everybody else from writing to SQLite. Returns when that was over (monotonic)."""
        with closing(sqlite3.connect(self.store.file, timeout=60, isolation_level=None)) as connection:
            return self.outage(lambda: connection.execute("BEGIN IMMEDIATE"), connection.rollback, seconds)
