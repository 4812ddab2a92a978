"""What the scenarios know of a queue. A new peer is one file with a subclass, and a line in `peers/__init__.py`."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

CHILDREN = 2  # processes that run jobs, the same for all peers
PYTHON = sys.executable


class Peer(ABC):
    """A queue and its worker, with their best reasonable settings. Lives for one session, in a process of its own."""

    results: ClassVar[bool] = True  # whether `result` can be asked
    composes: ClassVar[bool] = False  # whether `chord` and `chain` can
    schedules: ClassVar[bool] = False  # whether `schedule` can
    limits: ClassVar[bool] = False  # whether `send_limited` can
    steps: ClassVar[bool] = False  # whether `send_scheduled`, `store_finished`, `one_turn` and `wear` can

    def prepare(self) -> None:
        """Leave empty queues, whatever a run that was killed has left."""

    @abstractmethod
    def worker_command(self) -> list[str]:
        """The command line of a worker with CHILDREN processes that logs warnings only."""

    @abstractmethod
    def send(self, number: int, seconds: float = 0.0) -> Any:
        """Enqueue one job, which takes so long, as a web request would, and return the handle on it."""

    @abstractmethod
    def send_many(self, numbers: Sequence[int], seconds: float = 0.0) -> None:
        """Enqueue many jobs, each of which takes so long, in the fastest way that the peer offers."""

    def send_limited(self, kind: str, numbers: Sequence[int]) -> None:
        """`send_many` of jobs that are "plain", "rated", "placed" or "unique"; nothing holds them back."""
        raise NotImplementedError

    def result(self, handle: Any) -> Any:
        """Wait for the result of a job that `send` gave the handle on. Raises an exception after 10 s."""
        raise NotImplementedError

    def chord(self, members: int) -> int:
        """Run `members` no-ops and then a job that counts their results; return the count."""
        raise NotImplementedError

    def chain(self, steps: int) -> int:
        """Run `steps` jobs, each of which adds 1 to the result of the one before; return the last result."""
        raise NotImplementedError

    def schedule(self, numbers: Sequence[int], seconds: float) -> datetime:
        """Make a schedule of one a minute for each number, all due in `seconds` at least; return when they are."""
        raise NotImplementedError

    def sent_after(self, due: datetime) -> list[float]:
        """How many ms after `due` the job of each schedule was enqueued."""
        raise NotImplementedError

    def send_scheduled(self, jobs: int) -> None:
        """Enqueue jobs for next year, more urgent than all others."""
        raise NotImplementedError

    def store_finished(self, jobs: int) -> None:
        """Store so many jobs that have ended."""
        raise NotImplementedError

    def settle(self) -> None:
        """Clear up after what has ended, as the database does by itself now and then."""
        raise NotImplementedError

    def one_turn(self, numbers: Sequence[int]) -> Iterator[Callable[[], object]]:
        """The steps of a worker's turn, to be called one after another: enqueue these, claim as many, finish them."""
        raise NotImplementedError

    def wear(self) -> Mapping[str, float | None]:
        """What the jobs so far have left in the table of jobs. `dead`: rows that nobody sees, % of all.

        `indexes`: their size, times what it is when they are built anew. None where that cannot be told.
        """
        raise NotImplementedError

    def settled(self) -> int | None:
        """How many jobs have their result stored, all in all; None where a job leaves nothing behind."""
        return None

    def durability(self) -> str:
        """How safe a job and its result are against a crash of the machine: the servers' settings that decide it."""
        return ""

    def clean_up(self) -> None:
        """Remove all that was made. Called after the worker's end, also after an error."""
