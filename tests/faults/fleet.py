"""The workers and the producer of a run, and what was done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from djtasks.worker import health
from djtasks.worker.health import Health
from tests.faults.runs import Runs
from tests.faults.stores import Store
from tests.faults.tasks import JOURNAL
from tests.processes import ROOT, WorkerProcess
from tests.waiting import wait_until

CHILDREN = 2
PRODUCER = "import django; django.setup(); from tests.faults import producer; producer.main({!r}, {}, {}, {})"


@dataclass(frozen=True, slots=True)
class Death:
    """A process that was killed: when (monotonic)."""

    pid: int
    at: float


class Fleet:
    """`size` workers and one producer. Whatever is killed is started again by who kills it, as systemd would."""

    def __init__(self, store: Store, folder: Path, size: int = 2) -> None:
        self.store = store
        self.folder = folder
        self.runs = Runs(folder / "journal")
        self.names = [f"faults{os.getpid()}-{number}" for number in range(size)]
        self.workers: dict[str, WorkerProcess] = {}
        self.deaths: list[Death] = []
        self.producer: subprocess.Popen[str] | None = None
        self._started: list[WorkerProcess] = []
        self._lock = threading.Lock()
        self._order = (0, 0.0, 0.0)

    def start(self, name: str) -> WorkerProcess:
        """Start the worker of that name."""
        log = self.folder / f"{name}.log"
        options = ["-c", str(CHILDREN), "-n", name, "--max-memory-per-child", "250000", "-l", "INFO"]
        with log.open("a") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "django", "runworker", *options],
                env=self.store.environment(self.store.worker_ways) | {JOURNAL: str(self.runs.path)},
                cwd=ROOT,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers[name] = worker = WorkerProcess(process, log)
        self._started.append(worker)
        return worker

    def start_producer(self, seed: int, rate: float, long: float) -> None:
        """Start the producer; its ledger goes on where another one was killed."""
        self._order = (seed, rate, long)
        self.producer = subprocess.Popen(
            [sys.executable, "-c", PRODUCER.format(str(self.ledger), seed, rate, long)],
            env=self.store.environment(self.store.producer_ways),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            text=True,
            stderr=(self.folder / "producer.log").open("a"),
        )

    def restart_producer(self) -> None:
        """Kill the producer, wherever it is, and start another one."""
        if self.producer is not None:
            self.producer.kill()
            self.producer.communicate()
        seed, rate, long = self._order
        self.start_producer(seed + 1, rate, long)

    def ask(self, kind: str) -> None:
        """Ask the producer for a special job."""
        if self.producer is not None and self.producer.stdin is not None:
            with suppress(BrokenPipeError):
                print(kind, file=self.producer.stdin, flush=True)

    def end_producer(self, seconds: float = 30.0) -> None:
        if self.producer is not None and self.producer.stdin is not None:
            self.producer.stdin.close()
            try:
                self.producer.wait(seconds)
            except subprocess.TimeoutExpired:
                self.producer.kill()
                self.producer.wait()
            self.producer = None

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    # What is done to them

    def family(self, name: str) -> list[int]:
        """The processes of a worker: the supervisor, the keeper, the children."""
        worker = self.workers[name]
        with suppress(FileNotFoundError, ProcessLookupError):
            return [worker.pid, *worker.children()]
        return [worker.pid]

    def children(self, name: str) -> list[int]:
        """The processes that run jobs."""
        born = self.runs.born()
        return [pid for pid in self.family(name)[1:] if pid in born]

    def keeper(self, name: str) -> int:
        """The process that runs none."""
        return wait_until(lambda: self._alone(name), 30, what="a keeper")

    def _alone(self, name: str) -> int | None:
        others = set(self.family(name)[1:]) - self.runs.born()
        return others.pop() if len(others) == 1 else None  # a child that is just being born is another

    def kill(self, pids: Iterable[int], dead: Iterable[int] = ()) -> float:
        """Kill processes, note their deaths and those of who dies with them, return when (monotonic)."""
        pids, now = list(pids), time.monotonic()
        with self._lock:
            self.deaths += [Death(pid, now) for pid in {*pids, *dead}]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return now

    def signal(self, pids: Iterable[int], number: signal.Signals) -> float:
        now = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return now

    def health(self) -> dict[str, Health]:
        """How the workers are, by name, as they say themselves."""
        return {each.worker: each for each in health.living() if each.worker in self.names}

    def all_turned_since(self, moment: float) -> bool:
        """Whether each keeper has beaten, and each child that waits has asked for jobs, since then (monotonic)."""
        age = time.monotonic() - moment
        found = self.health()
        return all(
            (each := found.get(name)) is not None
            and each.beat_age is not None
            and each.beat_age < age
            and (each.claim_age is None or each.claim_age < age)
            for name in self.names
        )

    def wait_for_beat(self, name: str, pid: int, seconds: float) -> None:
        """Wait until the worker of that name is this process, and has beaten."""
        wait_until(
            lambda: (found := self.health().get(name)) and found.pid == pid and found.beat_age is not None,
            seconds,
            what=f"a beat of {name}",
        )

    # The end

    def stop(self, seconds: float) -> dict[str, int | None]:
        """Warm stop of all. Returns the exit codes; None of one that had to be killed."""
        for worker in self.workers.values():
            worker.process.terminate()
        codes: dict[str, int | None] = {}
        for name, worker in self.workers.items():
            try:
                codes[name] = worker.process.wait(seconds)
            except subprocess.TimeoutExpired:
                codes[name] = None
        return codes

    def close(self) -> None:
        """End whatever still runs."""
        self.end_producer(0.0)
        for worker in self._started:
            if worker.process.poll() is None:
                with suppress(FileNotFoundError, ProcessLookupError):
                    for pid in worker.children():
                        os.kill(pid, signal.SIGKILL)
                worker.process.kill()
                worker.process.wait()
