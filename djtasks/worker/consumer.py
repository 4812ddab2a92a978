"""What a child has claimed and not begun: as much as will start soon, the rest goes back.

The I/O thread fills and releases, the main thread takes. A job leaves the deque either to start or to
be released, under one lock, never both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from djtasks import registry
from djtasks.brokers import Broker
from djtasks.message import Delivery, Message
from djtasks.queues import known_queues
from djtasks.worker.options import WorkerOptions

logger = logging.getLogger("djtasks.consumer")

AHEAD: Final = 0.05  # seconds: what is claimed ahead is to start within
MOST_AHEAD: Final = 200  # jobs
HEAD_START: Final = 2.0  # seconds that another worker has to claim what this one did not know: the longest it sleeps
SATED: Final = AHEAD  # seconds for which a queue that gave all that it had is taken to be empty
DISCOVERY: Final = 1.0  # seconds between two looks for queues that are new
_RECENT: Final = 0.2  # weight of the last run time in the moving average


class Consumer:
    """The jobs that one child (`worker`, its boot id) holds.

    `is_fresh` tells whether its leases are safe, `unended` which of claimed jobs are still to run.
    """

    def __init__(
        self,
        broker: Broker,
        worker: str,
        options: WorkerOptions,
        *,
        is_fresh: Callable[[], bool] = lambda: True,
        wake: Callable[[], None] = lambda: None,
        unended: Callable[[list[Delivery]], list[Delivery]] = lambda deliveries: deliveries,
    ) -> None:
        self.broker = broker
        self.worker = worker
        self.options = options
        self.stopping = False
        self._named = [name for name in (options.queues or known_queues()) if name not in options.excluded]
        self._queues = self._named
        self._turn = 0
        self._is_fresh = is_fresh
        self._wake = wake
        self._unended = unended
        self._changed = threading.Condition()
        self._waiting: deque[Delivery] = deque()
        self._running: Delivery | None = None
        self._running_since: float | None = None
        self._seconds: float | None = None  # moving average of run times
        self._discovered = 0.0
        self._alone = False  # what comes next must be the only one: its last run may have killed its process
        self._refused: dict[str, float] = {}  # task → until when it is not claimed
        self._emptied: dict[str, float] = {}  # queue → when it last gave some jobs, and had no more
        self._sated = 0.0  # when the last look found less than was wanted

    # The main thread

    def next(self) -> Delivery | None:
        """The next job to run; blocks until there is one. None when the child is to stop."""
        with self._changed:
            while not self.stopping:
                if self._waiting and self._is_fresh():
                    self._running_since = time.monotonic()
                    delivery = self._running = self._waiting.popleft()
                    break
                self._changed.wait(timeout=1.0)
            else:
                return None
        if self._wanted(0) > 0:
            self._wake()
        return delivery

    def done(self, seconds: float) -> None:
        """The job that `next` gave has ended after `seconds`."""
        self._running = self._running_since = None
        before = self._seconds
        self._seconds = seconds if before is None else before + _RECENT * (seconds - before)

    def refuse(self, task: str, seconds: float) -> None:
        """Leave jobs of a task that is unknown here to others, until one given back for `seconds` has met them."""
        self._refused[task] = max(self._refused.get(task, 0.0), time.monotonic() + seconds + HEAD_START)

    # The I/O thread

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing is held."""
        return self._running_since is None and not self._waiting

    @property
    def queues(self) -> list[str]:
        """The queues that it looks into now."""
        return self._queues

    @property
    def refuses(self) -> bool:
        """Whether there are tasks whose jobs are left to others now."""
        return bool(self._refused_now())

    @property
    def held(self) -> int:
        """How many jobs wait here."""
        return len(self._waiting)

    def notify(self) -> None:
        """Make `next` look again, after `stopping` was set."""
        with self._changed:
            self._changed.notify_all()

    def known(self) -> set[str]:
        """The ids of what waits and what runs here."""
        with self._changed:
            return {each.id for each in (*self._waiting, *([self._running] if self._running else []))}

    def ahead(self) -> int:
        """How many jobs will start within `AHEAD` seconds at the measured run time; at least one."""
        if self.options.ahead is not None:
            return self.options.ahead
        if self._seconds is None:
            return 1
        return max(1, min(MOST_AHEAD, int(AHEAD / max(self._seconds, 1e-6))))

    def fill(self, unsettled: int = 0) -> int:
        """Claim what will start soon; returns how many came. `unsettled`: outcomes that are not stored yet."""
        wanted = self._wanted(unsettled)
        if wanted <= 0:
            return 0
        if self.options.queues is None:
            self._discover()
        claimed = self._claim(wanted)
        to_run = self._unended(claimed)
        kept = self._without_dangerous(to_run, unsettled)
        with self._changed:
            self._waiting.extend(kept)
            self._changed.notify()
        return len(kept) + len(claimed) - len(to_run)

    def wants(self, messages: Sequence[Message]) -> list[Message]:
        """Those of new jobs that would come here next anyhow: nothing stands before them in their queues.

        A queue that has just given out a job, and had no more, is neither paused nor does anybody wait in it. What else
        comes within `SATED` seconds they may overtake, as what was claimed ahead may.
        """
        if self.stopping or self._alone or self.runs_long() or not (self._is_fresh() and self.broker.leases_unasked):
            return []
        since, known = time.monotonic() - SATED, self.known()
        return [
            each
            for each in messages
            if self._emptied.get(each.queue, 0.0) > since and _is_due(each) and self._may_lease(each)
            if each.id not in known
        ][: max(0, self.ahead() - len(self._waiting))]

    def _may_lease(self, message: Message) -> bool:
        """Whether a job can be leased by its row alone: not one that may wait in a queue of which rows say nothing.

        Nor one that is acknowledged before it runs, which the broker has to know for that.
        """
        task = registry.find(message.task)
        if task is None:
            return False
        return self.broker.transactional or (task.acknowledges_late and not message.check)

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take jobs that were leased to us without a claim."""
        with self._changed:
            self._waiting.extend(deliveries)
            self._changed.notify()

    def runs_long(self) -> bool:
        """What runs has run for so long that whatever came now would wait behind it."""
        since = self._running_since
        return since is not None and time.monotonic() - since > AHEAD

    def is_stuck(self) -> bool:
        """A long job runs and others wait behind it."""
        return bool(self._waiting) and self.runs_long()

    def release(self) -> None:
        """Give back all that has not begun."""
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
        if not waiting:
            return
        try:
            self.broker.release(waiting)
        except BaseException:
            with self._changed:
                self._waiting.extend(waiting)
            raise

    def _wanted(self, unsettled: int) -> int:
        if self.stopping or not self._is_fresh():
            return 0
        if self._alone:
            return 1 if self.is_idle and not unsettled else 0
        is_sated = time.monotonic() - self._sated < SATED  # then first what comes of what is at hand
        if self.runs_long() or (is_sated and (unsettled or not self.is_idle)):
            return 0
        ahead = self.ahead()
        missing = ahead - len(self._waiting) - (self._running_since is not None and ahead == 1)
        return missing if missing * 2 >= ahead else 0

    def _claim(self, wanted: int) -> list[Delivery]:
        refused = self._refused_now()
        claimed: list[Delivery] = []
        for queue in self._in_turn():
            if len(claimed) >= wanted:
                break
            limit = wanted - len(claimed)
            found = self.broker.claim(queue, limit=limit, worker=self.worker, refused=refused)
            self._emptied[queue] = time.monotonic() if 0 < len(found) < limit else 0.0
            claimed += found
        self._sated = time.monotonic() if len(claimed) < wanted else 0.0
        return claimed

    def _in_turn(self) -> list[str]:
        """The queues, each one first in its turn, so that none waits for another; in order if strict."""
        if self.options.strict or not self._queues:
            return self._queues
        self._turn = (self._turn + 1) % len(self._queues)
        return self._queues[self._turn :] + self._queues[: self._turn]

    def _refused_now(self) -> list[str]:
        if not self._refused:
            return []
        now = time.monotonic()
        self._refused = {task: until for task, until in self._refused.items() if until > now}
        return sorted(self._refused)

    def _discover(self) -> None:
        """Look for queues that nobody named, once in a while: they wait for no moment in which the others are empty."""
        now = time.monotonic()
        if now - self._discovered < DISCOVERY:
            return
        self._discovered = now
        # Those that were found before and are empty now go, or a look would cost more with each that ever was.
        found = [name for name in self.broker.queues() if name not in {*self._named, *self.options.excluded}]
        self._queues = [*self._named, *found]

    def _without_dangerous(self, claimed: list[Delivery], unsettled: int) -> list[Delivery]:
        """A job that was lost before is leased alone, so that its next loss is surely its own."""
        dangerous = [each for each in claimed if each.losses]
        if not dangerous:
            self._alone = self._alone and bool(claimed)
            return claimed
        if claimed[0].losses and self.is_idle and not unsettled:
            kept, rest = claimed[:1], claimed[1:]
        else:
            kept, rest = [each for each in claimed if not each.losses], dangerous
        self._alone = bool(set(rest) & set(dangerous))
        if rest:
            self.broker.release(rest)
        return kept


def _is_due(message: Message) -> bool:
    """Whether it may run at once and for ever: what is judged by the broker's clock goes by the broker."""
    times = (message.eta, message.countdown, message.expires_at, message.expires_in)
    return all(time is None for time in times) and message.unique_key is None
