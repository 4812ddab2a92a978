"""Where a child claims from: its queues in their turn, new ones as they come, but no task that it leaves to others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

from djtasks.brokers import Broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Delivery
from djtasks.queues import known_queues
from djtasks.worker.options import WorkerOptions

AHEAD: Final = 0.05  # seconds: what is claimed ahead is to start within
HEAD_START: Final = 2.0  # seconds that another worker has to claim what this one did not know: the longest it sleeps
SATED: Final = AHEAD  # seconds for which a queue that gave all that it had is taken to be empty
DISCOVERY: Final = 1.0  # seconds between two looks for queues that are new
EARLY: Final = 0.15  # of these: a look that is due so soon needs no sleep of its own, as Redis ends one after 0.9
AGAIN: Final = 0.25  # seconds until such a look that failed is made again
KEPT: Final = 10.0  # seconds for which a queue so found is known after it held something: from a limit jobs return
MOST_KEPT: Final = 8  # of these


class Claims:
    """The claims of `worker`, a child's boot id. For its I/O thread."""

    def __init__(self, broker: Broker, worker: str, options: WorkerOptions) -> None:
        self.broker = broker
        self.worker = worker
        self.options = options
        self.sated = 0.0  # when the last look found less than was wanted (monotonic)
        self._named = self.queues = _named(options)
        self._turn = 0
        self._discovered = 0.0
        self._used: dict[str, float] = {}  # queue that nobody named → when it last held something
        self._listens: tuple[Sequence[str], int] = (), 0  # into which queues it listens, for how many
        self._refused: dict[str, float] = {}  # task → until when it is not claimed
        self._emptied: dict[str, float] = {}  # queue → when it was last seen empty, not paused

    def serve(self, options: WorkerOptions) -> None:
        """Claim from the queues of these options from now on."""
        self.options = options
        self._named = self.queues = _named(options)
        self._emptied = {}
        self._used = {}
        self._discovered = 0.0

    def claim(self, wanted: int) -> list[Delivery]:
        """Claim up to `wanted` jobs."""
        self._discover()
        refused = self.refused()
        claimed: list[Delivery] = []
        for queue in self._in_turn():
            if len(claimed) >= wanted:
                break
            limit = wanted - len(claimed)
            found = self.broker.claim(queue, limit=limit, worker=self.worker, refused=refused)
            if found:
                self._uses(queue)
            self._emptied[queue] = time.monotonic() if self._is_emptied(queue, len(found), limit, refused) else 0.0
            claimed += found
        self.sated = time.monotonic() if len(claimed) < wanted else 0.0
        return claimed

    def listen(self, wanted: int) -> int | None:
        """A descriptor that becomes readable when there may be a job; up to `wanted` may be claimed with it."""
        self._discover()
        if not wanted:
            return self.broker.wakeable(self.queues)
        self._listens = self._in_turn(), wanted
        return self.broker.wakeable(self._listens[0], worker=self.worker, limit=wanted)

    def heard(self) -> list[Delivery] | None:
        """What was claimed with the wake-up, and listen no more; None if nobody has looked."""
        claimed = self.broker.drain_wakeups()
        if claimed is None:
            return None
        queues, limit = self._listens
        for queue in queues:
            found = sum(each.message.queue == queue for each in claimed)
            if found:
                self._uses(queue)
                self._emptied[queue] = time.monotonic() if found < limit else 0.0
            limit -= found
        self.sated = time.monotonic() if limit > 0 else 0.0
        return claimed

    def claim_of(self, task: str, queue: str, wanted: int) -> list[Delivery]:
        """Claim up to `wanted` jobs of one task from one queue, if they stand among the first in it."""
        return self.broker.claim(queue, limit=wanted, worker=self.worker, only=task)

    def is_emptied(self, queue: str) -> bool:
        """Whether that queue had no more than it gave, a moment ago."""
        return self._emptied.get(queue, 0.0) > time.monotonic() - SATED

    def refuse(self, task: str, seconds: float) -> None:
        """Leave jobs of a task that is unknown here to others, until one given back for `seconds` has met them."""
        self._refused[task] = max(self._refused.get(task, 0.0), time.monotonic() + seconds + HEAD_START)

    def refused(self) -> list[str]:
        """The tasks whose jobs are left to others now."""
        if not self._refused:
            return []
        now = time.monotonic()
        self._refused = {task: until for task, until in self._refused.items() if until > now}
        return sorted(self._refused)

    def _is_emptied(self, queue: str, found: int, limit: int, refused: Sequence[str]) -> bool:
        """Whether a queue gave some jobs, and had no more; or was just found so, and has none yet."""
        if found or refused or not self.is_emptied(queue):
            return 0 < found < limit
        return not self.broker.is_paused(queue)

    def _in_turn(self) -> list[str]:
        """The queues, each one first in its turn, so that none waits for another; in order if strict."""
        if self.options.strict or not self.queues:
            return self.queues
        self._turn = (self._turn + 1) % len(self.queues)
        return self.queues[self._turn :] + self.queues[: self._turn]

    @property
    def until_discovery(self) -> float:
        """Seconds until queues are looked for that are new."""
        if self.options.queues is not None:
            return math.inf
        return max(0.0, self._discovered + DISCOVERY - time.monotonic())

    def _discover(self) -> None:
        """Look for queues that nobody named, once in a while: they wait for no moment in which the others are empty."""
        if self.until_discovery > EARLY:
            return
        try:
            found = {*self.broker.queues()}.difference(self._named, self.options.excluded)
        except BrokerUnavailable:
            if not self._discovered:
                raise
            # Until then those that are known: it may be this question alone.
            self._discovered = time.monotonic() - DISCOVERY + AGAIN
            return
        now = time.monotonic()
        self._used.update(dict.fromkeys(found, now))
        # Those that hold nothing any more go in the end, or a look would cost more with each that ever was.
        kept = sorted(self._used.keys() - found, key=self._used.__getitem__)[-MOST_KEPT:]
        self._used = {
            name: used for name, used in self._used.items() if name in found or (name in kept and now - used < KEPT)
        }
        self.queues = [*self._named, *sorted(self._used)]
        served = {*self.queues}
        self._emptied = {name: since for name, since in self._emptied.items() if name in served}
        self._discovered = now

    def _uses(self, queue: str) -> None:
        if queue in self._used:
            self._used[queue] = time.monotonic()


def _named(options: WorkerOptions) -> list[str]:
    """The queues that are looked into whether or not they hold anything."""
    names = known_queues() if options.queues is None else options.queues
    return [name for name in names if name not in options.excluded]
