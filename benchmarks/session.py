"""One peer, one round, in a process of its own: runs the scenarios and prints what they found, a line of JSON each.

Started by `python -m benchmarks`, which puts into the environment what `settings.py` and the peer read.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import django

from benchmarks import work
from benchmarks.figures import Plan
from benchmarks.peers import PEERS
from benchmarks.peers.base import Peer
from benchmarks.processes import WorkerProcess
from benchmarks.scenarios import SCENARIOS

FIRST_JOB = 30.0  # seconds that a worker may take from its start to its first job
WARM_UP = 50  # jobs


@dataclass
class Bench:
    """What a scenario works with: the peer, its worker, the marks, and how much to do."""

    peer: Peer
    plan: Plan
    marks: work.Marks
    files: Path
    sent: int = 0
    worker: WorkerProcess | None = None
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def waiting(self) -> int:
        """How many jobs were sent and have not begun."""
        return self.sent - self.marks.count()

    def send(self) -> tuple[int, Any]:
        """Enqueue one job. Returns its number and the handle on it."""
        self.sent += 1
        number = next(self._numbers)
        return number, self.peer.send(number)

    def send_many(self, jobs: int, seconds: float = 0.0) -> None:
        """Enqueue `jobs` jobs, each of which takes so long, in the peer's fastest way."""
        self.peer.send_many(self.numbers(jobs), seconds)

    def numbers(self, jobs: int) -> list[int]:
        """The numbers of `jobs` jobs that are sent by somebody else."""
        self.sent += jobs
        return [next(self._numbers) for _ in range(jobs)]

    def start_worker(self) -> WorkerProcess:
        """Start the worker anew. It begins with what waits as soon as it is up."""
        self.stop_worker()
        self.worker = WorkerProcess(self.peer.worker_command(), self.files / "worker.log")
        return self.worker

    def ready_worker(self) -> WorkerProcess:
        """A worker that is warm and has nothing to do: the one that runs, if one does."""
        worker = self.worker or self.start_worker()
        self.wait_for(self.sent)
        for _ in range(WARM_UP):
            self.send()
        self.wait_for(self.sent)
        return worker

    def wait_for(self, begun: int) -> None:
        """Return when `begun` jobs have begun, all in all. Raises RuntimeError with the worker's last words."""
        try:
            self.marks.wait_for(begun, FIRST_JOB)
        except TimeoutError as error:
            raise RuntimeError(f"{error}. The worker's last words: {self.last_words()}") from error

    def last_words(self) -> str:
        return self.worker.last_words() if self.worker else "there is none"

    def stop_worker(self) -> None:
        """End the worker and all its processes, if there is one."""
        if self.worker is not None:
            self.worker.stop()
            self.worker = None


def main(name: str, plan: Plan) -> None:
    """Measure the peer `name`."""
    signal.signal(signal.SIGTERM, _leave)
    django.setup()
    peer: Peer = import_module(PEERS[name].module).PEER()
    with _bench(peer, plan) as bench:
        _say(durability=peer.durability())
        for scenario in plan.scenarios:
            _say(step=scenario)
            _say(figures=SCENARIOS[scenario].measure(bench))


@contextmanager
def _bench(peer: Peer, plan: Plan) -> Iterator[Bench]:
    """A peer with empty queues; afterwards nothing is left of it."""
    files = Path(os.environ["DJTASKS_BENCH_FILES"])
    bench = Bench(peer, plan, work.Marks(Path(os.environ[work.VARIABLE])), files)
    try:
        peer.prepare()
        yield bench
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave a worker behind
        bench.stop_worker()
        peer.clean_up()


def _say(**word: Any) -> None:
    print(json.dumps(word), flush=True)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Plan(**json.loads(sys.argv[2])))
    except ModuleNotFoundError as error:
        _say(missing=f'{error.name} is not installed: pip install ".[bench]"')
    except Exception as error:
        traceback.print_exc()
        _say(failed=f"{type(error).__name__}: {error}")
