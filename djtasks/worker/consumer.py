"""What a child has claimed and not begun: as much as will start soon, the rest goes back.

The I/O thread fills and releases, whoever runs jobs takes. A job leaves the deque either to start or to
be released, under one lock, never both. What is taken is a call: a job, or several of a batch task.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from djtasks import registry
from djtasks.batches import MOST
from djtasks.brokers import Broker
from djtasks.message import Delivery, Message
from djtasks.worker.claims import AHEAD, SATED, Claims
from djtasks.worker.gathering import Call, Gathered, Gathering
from djtasks.worker.options import WorkerOptions
from djtasks.worker.restraining import READ_IDLE, Held, Restraints, next_of
from djtasks.worker.solitude import Solitude

logger = logging.getLogger("djtasks.consumer")

MOST_AHEAD: Final = 200  # jobs
FIRST_LOOK: Final = 1.0  # seconds after which who waits for a job looks unasked whether there is one, or the end
SATISFIED: Final = SATED * 0.6  # seconds until it is looked at again, so that this is known without a gap
_RECENT: Final = 0.2  # weight of the last run time in the moving average


class Consumer:
    """The jobs that one child (`worker`, its boot id) holds.

    `is_fresh` tells whether its leases are safe, `unended` which of claimed jobs are still to run; `most` is how many
    may run in one call. `patience` is how many seconds `next` waits before it looks unasked; None: until it is told.
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
        most: int = MOST,
    ) -> None:
        self.broker = broker
        self.worker = worker
        self.options = options
        self.stopping = False
        self.has_looked = False  # whether the last `fill` saw what there is: not if nothing may begin here now
        self.claims = Claims(broker, worker, options)
        self._is_fresh = is_fresh
        self._wake = wake
        self._unended = unended
        self._restraints = Restraints(broker, options.runs)
        self._changed = threading.Condition()
        self.patience: float | None = FIRST_LOOK
        self._runs = options.runs
        self._waiting: deque[Call] = deque()
        self._gathering = Gathering(most)
        self._for_slots: list[Held] = []  # a heap: jobs that may begin at their slots of rates
        self._late: list[Delivery] = []  # that could not
        self._leaving: list[Delivery] = []  # that are being given back: none of them begins here any more
        self._running: dict[int, tuple[Call, float]] = {}  # by `id()`, each with its start (monotonic)
        self._seconds: float | None = None  # moving average of run times
        self._most_ahead: float = MOST_AHEAD if options.ahead is None else options.ahead * options.runs
        self._solitude = Solitude(broker, options.runs)
        self._heard: int | None = None  # how many have come with the wake-up; None: nobody has looked
        self._passed_on = 0  # how many to claim after some of which limits let none through

    # Who runs jobs

    def next(self, unless: Callable[[], bool] = lambda: False) -> Call | None:
        """The next call to run; blocks until there is one, or `unless` holds. None then, and when the child is to stop.

        Not for more than `runs` at a time: a place for it must be free.
        """
        with self._changed:
            while not self.stopping:
                call, pause = self._first() if self._is_fresh() else (None, self.patience)
                if call is not None:
                    self._running[id(call)] = call, time.monotonic()
                    break
                if unless():
                    return None
                self._changed.wait(timeout=pause)
            else:
                return None
        if self._wanted(0) > 0:
            self._wake()
        return call

    def _first(self) -> tuple[Call | None, float | None]:
        """Take what is to begin now; or the seconds until there may be something."""
        pause = self.patience
        if self._for_slots:
            delivery, late, until = next_of(self._for_slots)
            if late:
                self._late += late
                self._wake()
            if delivery is not None:
                self._changed.notify()  # somebody else is to wait for the next one
                return (delivery,), None
            if until is not None:
                pause = until if pause is None else min(pause, until)
        return (self._waiting.popleft(), None) if self._waiting else (None, pause)

    def done(self, call: Call, seconds: float) -> None:
        """The call that `next` gave has ended after `seconds`."""
        self._running.pop(id(call), None)
        before = self._seconds
        self._seconds = seconds if before is None else before + _RECENT * (seconds - before)
        if self.options.ahead is None:
            self._most_ahead = min(MOST_AHEAD, self._runs * max(1.0, AHEAD / max(self._seconds, 1e-6)))

    def refuse(self, task: str, seconds: float) -> None:
        """Leave jobs of a task that is unknown here to others, until one given back for `seconds` has met them."""
        self.claims.refuse(task, seconds)

    # The I/O thread

    def serve(self, queues: Sequence[str] | None, excluded: Sequence[str]) -> None:
        """Claim from these queues from now on (None: all), but for the excluded ones; what is claimed is run."""
        self.options = replace(self.options, queues=None if queues is None else tuple(queues), excluded=tuple(excluded))
        self.claims.serve(self.options)

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing is held."""
        return not (self._running or self._waiting or self._gathering)

    @property
    def is_bare(self) -> bool:
        """Nothing runs and nothing is here, not even for later or to be given back."""
        held = self._running or self._waiting or self._for_slots or self._late or self._leaving
        return not (held or self._gathering)

    @property
    def has_room(self) -> bool:
        """A job that came now would start at once."""
        return not self._waiting and len(self._running) < self._runs

    @property
    def refuses(self) -> bool:
        """Whether there are tasks whose jobs are left to others now."""
        return bool(self.claims.refused())

    @property
    def held(self) -> int:
        """How many jobs wait here."""
        waiting = sum(map(len, list(self._waiting))) + len(self._gathering)
        return waiting + len(self._for_slots) + len(self._late) + len(self._leaving)

    @property
    def has_missed(self) -> bool:
        """Whether jobs that could not begin at their slots need others."""
        return bool(self._late)

    @property
    def gathers_for(self) -> float | None:
        """Seconds until a batch that gathers here is to begin as it is; None if none does."""
        return self._gathering.patience()

    @property
    def is_giving_back(self) -> bool:
        """Whether the broker has not said yet that it has what was given back."""
        return bool(self._leaving)

    def notify(self) -> None:
        """Make `next` look again, after `stopping` was set."""
        with self._changed:
            self._changed.notify_all()

    def known(self) -> set[str]:
        """The ids of what waits and what runs here."""
        with self._changed:
            return {each.id for each in self._all()}

    def _all(self) -> list[Delivery]:
        """What waits and what runs here."""
        calls = [*self._waiting, *(call for call, _since in list(self._running.values()))]
        in_calls = [delivery for call in calls for delivery in call]
        gathered = self._gathering.deliveries()
        return [*in_calls, *gathered, *(each.delivery for each in self._for_slots), *self._late]

    def ahead(self) -> int:
        """How many jobs, beside those for which a place is free, will start within `AHEAD` seconds.

        By the measured run time: a place in which a job has run for longer than that is not counted on.
        """
        if self.options.ahead is not None:
            return self.options.ahead * self._runs if self.options.ahead > 1 else 0
        if self._seconds is None:
            return 0
        soon = int(self._soon() * max(1.0, AHEAD / max(self._seconds, 1e-6)))
        return min(MOST_AHEAD, soon) if soon > 1 else 0  # a single one is not worth a claim

    def _soon(self) -> int:
        """In how many places another job will begin within `AHEAD` seconds."""
        free = self._runs - len(self._running)
        seconds = self._seconds or 0.0
        now = time.monotonic()
        earliest, latest = now - max(seconds, AHEAD), now - seconds + AHEAD
        return free + sum(earliest <= since <= latest for _call, since in list(self._running.values()))

    def fill(self, unsettled: int = 0) -> int:
        """Claim what will start soon; returns how many came. `unsettled`: outcomes that are not stored yet."""
        self._restraints.watch()
        if self._late:
            self._try_again()
        wanted, heard = self._wanted(unsettled), self._heard
        self._heard = None
        came = heard or 0
        self.has_looked = wanted > 0
        if wanted > 0 and heard != 0:  # else the broker has just looked
            came += self._accept(self.claims.claim(max(wanted, self._passed_on)), unsettled)
        if not came and self.is_idle:
            self._restraints.look(READ_IDLE)
        return came + sum(map(self._complete, self._gathering.open()))

    def listen(self) -> int | None:
        """A descriptor that becomes readable when there may be a job to claim; None if nothing tells."""
        # Where several run, the question stays open while places are taken: what came with its answer might not fit.
        return self.claims.listen(self._wanted(0) if self._runs == 1 else 0)

    def hear(self) -> None:
        """Take what was claimed with the wake-up, and listen no more."""
        claimed = self.claims.heard()
        self._heard = None if claimed is None else self._accept(claimed, 0)

    def _accept(self, claimed: list[Delivery], unsettled: int) -> int:
        """Take what has been claimed, but for what is not to run here. Returns how many came."""
        to_run = self._unended(claimed)
        kept = self._solitude.choose(to_run, lambda: self._may_run_alone() and not unsettled)
        taken = self._take(kept)
        # Where limits let nothing through, the next look goes further: what they hold back holds up nobody.
        self._passed_on = 0 if taken or not kept else min(MOST_AHEAD, 2 * len(kept))
        return len(kept) + len(claimed) - len(to_run)

    def _take(self, claimed: list[Delivery]) -> int:
        """Take claimed jobs, but for those that a limit lets wait. Returns how many."""
        free, held = self._let_through(claimed) if claimed else (claimed, 0)
        calls = self._gathering.add(free, self._solitude.is_for)
        calls = [self._as_it_stands(each) if len(each) > 1 else each for each in calls]
        with self._changed:
            self._waiting.extend(calls)
            self._changed.notify(len(calls))
        return len(free) + held

    def _let_through(self, claimed: list[Delivery]) -> tuple[list[Delivery], int]:
        """Those of claimed jobs that limits let begin; and how many are held here for their slots."""
        self._restraints.look()
        if not self._restraints.are_on(claimed):
            return claimed, 0
        held: list[Held] = []

        def hold(some: Sequence[Held]) -> None:
            held.extend(some)
            self._hold(some)

        with self._changed:
            here, count = self._all(), len(self._for_slots)
        free = self._restraints.let_through(claimed, hold, held=count, here=here, seconds=self._seconds)
        return free, len(held)

    def _hold(self, held: Sequence[Held]) -> None:
        """Keep jobs here until their slots."""
        with self._changed:
            for each in held:
                heapq.heappush(self._for_slots, each)
            self._changed.notify(bool(held))

    def _complete(self, gathered: Gathered) -> int:
        """Look for company for what gathers, and let it begin if it is time. Returns how many came."""
        # What must run alone waits for nobody's company, nor does who stops when nothing is left.
        is_time = gathered.until <= time.monotonic() or self._solitude.is_sought or self.options.burst
        came = self._join(gathered) if is_time or self._may_find_company(gathered) else 0
        if is_time and gathered in self._gathering.open():
            call = self._as_it_stands(self._gathering.take(gathered))
            with self._changed:
                self._waiting.appendleft(call)  # the first of it came before what waits
                self._changed.notify()
        return came

    def _may_find_company(self, gathered: Gathered) -> bool:
        return not self.claims.is_emptied(gathered.queue) and gathered.looks_at <= time.monotonic()

    def _join(self, gathered: Gathered) -> int:
        """Claim others of its task. Returns how many came."""
        room = gathered.room
        found = self._unended(self.claims.claim_of(gathered.task, gathered.queue, room))
        if len(found) < room:
            gathered.looks_at = time.monotonic() + SATED
        return self._take(self._solitude.choose(found, lambda: False)) if found else 0

    def _as_it_stands(self, call: Call) -> Call:
        """A batch in which those are flagged that were revoked while they waited for company."""
        revoked = self.broker.revoked([each.id for each in call])
        return tuple(replace(each, revoked=True) if each.id in revoked else each for each in call)

    def _try_again(self) -> None:
        """What missed its slot needs another one."""
        with self._changed:
            late, self._late = self._late, []
        try:
            self._take(late)
        except BaseException:
            with self._changed:
                self._late += late
            raise

    def wants(self, messages: Sequence[Message]) -> list[Message]:
        """Those of new jobs that would come here next anyhow: nothing stands before them in their queues.

        A queue that has just given out a job, and had no more, is neither paused nor does anybody wait in it. What else
        comes within `SATED` seconds they may overtake, as what was claimed ahead may.
        """
        if self.stopping or self.runs_long() or self._solitude.is_sought or self._solitude.is_kept(self.known):
            return []
        if not (self._is_fresh() and self.broker.leases_unasked):
            return []
        known = self.known()
        return [
            each
            for each in messages
            if self.claims.is_emptied(each.queue) and _is_due(each) and self._may_lease(each)
            if each.id not in known
        ][: max(0, max(1, self._runs - len(self._running), self.ahead()) - len(self._waiting))]

    def _may_lease(self, message: Message) -> bool:
        """Whether a job can be leased by its row alone: not one that may wait in a queue of which rows say nothing.

        Nor one that is acknowledged before it runs, which the broker has to know for that.
        """
        self._restraints.heed()
        task = registry.find(message.task)
        if task is None or task.batch is not None or self._restraints.on(message) is not None:
            return False
        return self.broker.transactional or (task.acknowledges_late and not message.check)

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take jobs that were leased to us without a claim."""
        with self._changed:
            self._waiting.extend((each,) for each in deliveries)
            self._changed.notify(len(deliveries))

    def runs_long(self) -> bool:
        """What runs has run for so long, in each place, that whatever came now would wait behind it."""
        return len(self._running) >= self._runs and not self._soon()

    def is_stuck(self) -> bool:
        """Long jobs run and others wait behind them."""
        return bool(self.held) and self.runs_long()

    def release(self) -> None:
        """Give back all that has not begun, and once more what the broker has not confirmed.

        It may have others by then, though its answer got lost: so it never begins here.
        """
        with self._changed:
            slots, self._for_slots = self._for_slots, []
            late, self._late = self._late, []
            waiting = [delivery for call in self._waiting for delivery in call] + self._gathering.clear()
            self._waiting.clear()
        # Who came last leaves its slot first, so that the one before it is the last then.
        self._leaving += [*waiting, *late, *(each.delivery for each in sorted(slots, reverse=True))]
        if self._leaving:
            self.broker.release(self._leaving)
            self._leaving = []

    def _wanted(self, unsettled: int) -> int:
        free, waiting = self._runs - len(self._running), len(self._waiting)
        is_sated = time.monotonic() - self.claims.sated < SATISFIED  # then first what comes of what is at hand
        if is_sated and (unsettled or waiting or free <= 0) and not self._solitude.is_sought:
            return 0
        if self.stopping or (free <= waiting and waiting * 2 > self._most_ahead) or not self._is_fresh():
            return 0
        if self._solitude.is_kept(self.known):
            return 0
        if self._solitude.is_sought:
            return 1 if self._may_run_alone() and not unsettled else 0
        if self.runs_long():
            return 0
        most = max(free, self.ahead())
        return most - waiting if free > waiting or waiting * 2 <= most else 0

    def _may_run_alone(self) -> bool:
        """Whether nothing runs, or what runs takes so long that it is not waited for."""
        if self.held:  # for its slot, too: that would begin beside it
            return False
        return not self._running or (self.has_room and self._solitude.is_long_sought)


def _is_due(message: Message) -> bool:
    """Whether it may run at once and for ever: what is judged by the broker's clock goes by the broker."""
    times = (message.eta, message.countdown, message.expires_at, message.expires_in)
    return all(time is None for time in times) and message.unique_key is None
