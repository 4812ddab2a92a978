"""What a process that runs jobs has to do with the store: it stores, gives back, claims, and waits for what is next.

Its I/O thread does, on one connection of its own, which it lends while it sleeps (`Lending`): where one thread runs
jobs, that one does all this while it has none. The user's code has its own connections, in the threads that run jobs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, NoReturn

from django.db import DatabaseError, InterfaceError, connections

from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.half_open import waiting_here
from djtasks.worker.consumer import Consumer
from djtasks.worker.counters import counters_of
from djtasks.worker.descriptors import Doorbell, readable
from djtasks.worker.gathering import Call
from djtasks.worker.ledger import Ledger
from djtasks.worker.lending import Lending
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots

logger = logging.getLogger("djtasks.worker")

LONGEST_PAUSE: Final = 1.0  # seconds between two looks into the queues where a descriptor tells of new jobs
BLIND_PAUSES: Final = (0.007, 0.25, 1 / 30)  # where nothing does: at first, at last, of the time without work
CHEAP_PAUSES: Final = (0.002, 0.1, 1 / 50)  # between two looks that cost next to nothing, likewise
NAP: Final = 0.02  # seconds between two looks at jobs that run and are short
LONGEST_BACKOFF: Final = 5.0  # seconds between two tries to reach a store that is down
MOST_STUMBLES: Final = 6  # unexpected errors one after another


class Exchange:
    """What the I/O thread of a child does, whose boot id is `owner` and whose slot is `index`."""

    def __init__(self, broker: Broker, owner: str, index: int, slots: Slots, options: WorkerOptions) -> None:
        self.broker = broker
        self.owner = owner
        self.index = index
        self.slots = slots
        self.options = options
        self.ledger = Ledger(
            broker,
            owner,
            self.wake,
            wants=lambda messages: self.consumer.wants(messages),
            take=lambda deliveries: self.consumer.take(deliveries),
            counters=counters_of(options),
        )
        self.consumer = Consumer(
            broker,
            owner,
            options,
            is_fresh=self.is_fresh,
            wake=self.wake,
            unended=self.ledger.unended,
            most=slots.width,
        )
        self._bell = Doorbell()  # what wakes the I/O thread
        self._asleep = False
        self._lending = Lending()
        self._is_shared = False  # whether the thread that runs jobs does the work of the I/O thread while it has none
        self._is_sought = False  # whether it has none now
        self._parked: SimpleQueue[None] = SimpleQueue()  # what ends the sleep of the I/O thread meanwhile
        self._is_parked = False  # whether it sleeps so
        self._listens = False  # whether the broker has been asked to wake us, and has not answered
        self._is_last = False  # whether nothing will be run any more
        self._changes = 0  # of the queues to serve that are known here
        self._reconnects = 0  # that the broker has made so far
        self._is_unsure = False  # after an error: a claim may have been made whose answer got lost
        self._worked = time.monotonic()  # when it last saw work
        self._thread = threading.Thread(target=self._serve, name="djtasks-io", daemon=True)

    def start(self) -> None:
        """Let the thread begin."""
        self._thread.start()

    def finish(self, patience: float | None) -> bool:
        """Wait until all is stored and given back, `patience` seconds at most. Returns whether it is."""
        self._is_last = True
        self.wake()
        self._thread.join(patience)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Claim nothing more, and give back what waits. Safe in a signal handler, from any thread, and twice."""
        self.consumer.stopping = True
        self._asleep = True
        self.wake()

    def wake(self) -> None:
        """End the wait, if it waits."""
        if self._asleep:
            self._bell.ring()

    def is_fresh(self) -> bool:
        """Whether the keeper's last beat is so recent that nobody can have taken this worker for dead."""
        return bool(self.slots.beat_age() < settings.WORKER_LOST_AFTER / 2)

    def next(self) -> Call | None:
        """The next call to run; None when the child is to stop. For the thread that runs jobs, where no other does.

        While there is none, this thread does the work of the I/O thread: what comes needs no hand-over then. Raises
        what a signal's handler raises that a job has left behind. The process is to end then: whatever this thread was
        at may be half done, and nobody would hear of it.
        """
        self._is_shared = True
        if (call := self.consumer.next(unless=lambda: True)) is not None:
            return call
        self._is_sought = True
        try:
            while not self.consumer.stopping:
                if (call := self._found() or self.consumer.next(unless=self._may_relieve)) is not None:
                    return call
            return None
        finally:
            self._is_sought = False
            self._resume()

    def _may_relieve(self) -> bool:
        return self.consumer.is_bare and self._lending.is_to_be_had

    def _found(self) -> Call | None:
        """What is to run once this thread has done the work of the I/O thread, if that sleeps, until a job is here."""
        if not self._may_relieve():
            return None
        with self._lending.borrowed() as is_ours:
            if is_ours:
                with self.broker.patience(0.0, self._waiting.elsewhere):
                    self._work(lambda: self.consumer.stopping or not self.consumer.is_bare, self._rest)
        call = self.consumer.next(unless=lambda: True)
        if call is None:
            self._resume()  # to see to what is here for later
        return call

    def _resume(self) -> None:
        """Wake the I/O thread, if it sleeps for as long as its work is done by us."""
        if self._is_parked:
            self._parked.put(None)

    def settle(self) -> None:
        """Store what has just ended: here, if nothing else is to run and the I/O thread naps, else by waking that.

        For the thread that ran it, where no other runs jobs.
        """
        is_alone = self.options.runs == 1 and not self.consumer.held and not self.consumer.stopping
        if not (is_alone and self._is_settled_here()) or (self.consumer.has_room and not self._is_shared):
            self.wake()

    def _is_settled_here(self) -> bool:
        """Store what there is in this thread, if the I/O thread's connection is to be had. Returns whether it is."""
        with self._lending.borrowed() as is_ours:
            if not is_ours:
                return False
            try:
                with self.broker.patience(0.0, self._waiting.elsewhere), self._alone():
                    self.ledger.commit(tries=1)
            except Exception:  # the I/O thread tries again, and knows what to do if it fails too
                logger.debug("The outcome of a job is left to the I/O thread", exc_info=True)
                self._is_unsure = True
        self.slots.tell_unsettled(self.index, self.ledger.pending)
        return not self.ledger.pending

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """The turn of this process, where one writes at a time."""
        return self.slots.alone() if self.broker.one_writer else contextlib.nullcontext()

    def _serve(self) -> None:
        self._waiting = waiting_here()
        with self.broker.patience(0.0, self._waiting.elsewhere):  # it has a patience of its own, between two tries
            self._loop()

    def _loop(self) -> None:
        self._lending.own(self._waiting)
        self._work(self._is_finished, self._wait)
        self._waiting.begins()
        self.ledger.finish()
        self._waiting.rests()
        self.broker.close()
        connections[settings.DATABASE].close()

    def _work(self, is_done: Callable[[], bool], wait: Callable[[float], None]) -> None:
        """Round by round, with `wait` between them, until `is_done`."""
        pause, failures, stumbles = self.broker.first_pause, 0, 0
        while not is_done():
            self._waiting.begins()
            try:
                with self._alone():
                    claimed = self.turn()
                self.slots.turn(self.index)
                if claimed or not self.consumer.has_room:
                    pause, self._worked = self.broker.first_pause, time.monotonic()
                if not is_done():
                    wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                if failures:
                    logger.info("The broker and the database answer again")
                failures = stumbles = 0
            except (BrokerUnavailable, DatabaseError, InterfaceError) as error:
                failures += 1
                self._recover(error, failures)
            except Exception:
                if threading.current_thread() is not self._thread:
                    self._accuse()
                    raise  # it may be a handler's
                stumbles += 1  # apart from the failures: an outage, however long, is no reason to give up
                self._stumble(stumbles)

    def _stumble(self, times: int) -> None:
        """Put up with an error that nobody expected, but not for ever."""
        self._is_unsure = True
        if times > MOST_STUMBLES:
            self._give_up("The I/O thread cannot go on")
        logger.exception("The I/O thread of %s stumbled; it goes on", self.owner)
        with contextlib.suppress(Exception):
            self.broker.close()  # a question may be open that another thread would never hear the answer to
        time.sleep(0.1 * times)

    def turn(self) -> int:
        """One round: store, give back what waits too long, claim. Returns how many jobs came."""
        if change := self.slots.changed_queues(self._changes):
            self._changes, named, excluded = change
            self.consumer.serve(named, excluded)
        if self.broker.reconnects != self._reconnects:
            self._reconnects, self._is_unsure = self.broker.reconnects, True
        if self._is_unsure:
            # In this order: a job moves from the consumer to the ledger.
            known = self.consumer.known() | self.ledger.known()
            self.broker.forget_claims(self.owner, but=known)
            self._is_unsure = False
        self.ledger.commit()
        self.slots.tell_unsettled(self.index, self.ledger.pending)
        goes_back = self.consumer.stopping or self.consumer.is_stuck() or not self.is_fresh()
        if goes_back or self.consumer.is_giving_back:
            self.ledger.tell_leases()
            self.consumer.release()
        if self.consumer.stopping:
            self.consumer.notify()
            return 0
        claimed = self.consumer.fill(self.ledger.pending)
        if self.options.burst and self.consumer.has_looked and not claimed and self.consumer.is_idle:
            self.consumer.stopping = not (self.ledger.pending or self.consumer.held)
            self.consumer.notify()
        return claimed

    def _give_up(self, why: str) -> NoReturn:
        """End the process: a new one has what a job has taken from this one, such as its descriptors."""
        logger.error("%s, so the process %s ends", why, self.owner, exc_info=sys.exc_info()[0] is not None)
        self._accuse()
        os._exit(1)

    def _accuse(self) -> None:
        """Let the first job that could not be stored, the likely culprit, count a loss as this process ends."""
        culprit = self.ledger.oldest()
        if culprit is not None:
            self.slots.mark(self.index, culprit.id, culprit.token)

    def _is_finished(self) -> bool:
        return self._is_last and not self.ledger.pending and not self.consumer.held

    def _wait(self, pause: float) -> None:
        """Sleep until there is something to do: an outcome, a wake-up, a new job, or the end of `pause`."""
        self._asleep = True
        try:
            if self._is_relieved():
                self._nap(0.0)
            else:
                self._rest(pause)
        finally:
            self._asleep = self.consumer.stopping

    def _rest(self, pause: float) -> None:
        """Listen, if a job may come, and sleep."""
        self._see_to_the_bell()
        # What comes from here on ends the sleep; before it is asked, or the question would stay open.
        if self.ledger.pending or self._is_last or self.consumer.has_missed:
            self._bell.hush()
            return
        # Who leaves jobs to others must not take the wake-up that is theirs.
        listens = self.consumer.has_room and not self.consumer.refuses
        store = self.consumer.listen() if listens else None
        if self._listens and not listens:
            self.consumer.hear()
        self._listens = listens
        woken = self._sleep(store, self._patience(pause))
        # A question that stays open costs nothing to who can take another job whenever it is answered.
        if store is not None and (store in woken or self.options.runs == 1):
            self._listens = False
            self.consumer.hear()
        if self._bell.descriptor in woken:
            self._bell.hush()

    @property
    def _wakers(self) -> list[int]:
        """The descriptor that `wake` makes readable, unless a job has closed it."""
        return [self._bell.descriptor] if self._bell.is_whole else []

    def _see_to_the_bell(self) -> None:
        """Have this process replaced, once what runs has ended, if a job has closed what wakes it."""
        if self._bell.is_whole or self.consumer.stopping:
            return
        why = "A job has closed descriptors that are not its own"
        if self.options.burst or not self.options.forks:  # nobody replaces a process that ends well
            self._give_up(why)
        logger.error("%s, so the process %s is replaced", why, self.owner)
        self.stop()
        self.consumer.notify()

    def _is_relieved(self) -> bool:
        """Whether the thread that runs jobs has none, and does the work of the I/O thread."""
        return self._is_sought and self.consumer.is_bare and not (self.consumer.stopping or self._is_last)

    def _nap(self, seconds: float) -> set[int]:
        """Sleep for so long, and lend what is ours; then on, while the thread that runs jobs does our work.

        A job that comes may soon end: so this thread goes on sleeping for a moment when one has.
        """
        woken: set[int] = set()
        with self._lending.lent():
            if self._is_relieved():
                self.consumer.notify()
            else:
                woken = readable(self._wakers, seconds)
            while self._is_relieved():
                self._is_parked = True
                if self._is_relieved():  # or it has just gone, and not seen that it is to wake us
                    self._parked.get()
                self._is_parked = False
                if not self.consumer.held:
                    woken = readable(self._wakers, NAP)
        return woken

    def _patience(self, pause: float) -> float:
        if self.consumer.stopping:
            return 0.05
        if self.consumer.is_idle:
            return min(pause, max(NAP, self.consumer.claims.until_discovery))
        if self.consumer.has_room:
            longest = pause
        elif self.consumer.held or not self.consumer.runs_long():
            return NAP
        else:
            longest = LONGEST_PAUSE
        waits = (longest, self.ledger.next_mark(), self.consumer.gathers_for)
        return min(each for each in waits if each is not None)

    def _sleep(self, store: int | None, timeout: float) -> set[int]:
        """Sleep until something wakes us: that is no wait for the database, and may last longer than one."""
        self._waiting.moves()
        self._waiting.rests()
        woken = self._woken(store, timeout)
        self._waiting.begins()
        return woken

    def _woken(self, store: int | None, timeout: float) -> set[int]:
        descriptors = self._wakers if store is None else [*self._wakers, store]
        if store is not None:
            return readable(descriptors, timeout)
        if not self.consumer.has_room:
            # After a longer sleep it is to look after what has come of the job at once.
            return self._nap(timeout) if timeout <= NAP else readable(descriptors, timeout)
        without_work = time.monotonic() - self._worked
        with self._waiting.asking():
            watcher = self.broker.watcher(self.consumer.claims.queues)
        if watcher is None:
            return readable(descriptors, min(timeout, _paced(BLIND_PAUSES, without_work)))
        pause = _paced(CHEAP_PAUSES if watcher.is_free else BLIND_PAUSES, without_work)
        deadline = time.monotonic() + timeout
        while not (woken := readable(descriptors, min(pause, timeout))):
            timeout = deadline - time.monotonic()
            if timeout <= 0:
                break
            with self._waiting.asking():
                if watcher.may_be_ready():
                    break
        return woken

    def _recover(self, error: Exception, failures: int) -> None:
        """Forget the connection and try again, a little later at each failure."""
        self._is_unsure = True
        delay = random.uniform(0, min(0.05 * 2 ** min(failures, 10), LONGEST_BACKOFF))
        logger.warning("The broker or the database did not answer, next try in %.1f s: %s", delay, error)
        for store in (self.broker, connections[settings.DATABASE]):
            with contextlib.suppress(Exception):
                store.close()
        if readable(self._wakers, delay):  # a stop ends it
            self._bell.hush()


def _paced(pauses: tuple[float, float, float], without_work: float) -> float:
    """A pause in seconds: the shortest while there is work, longer the longer there was none."""
    shortest, longest, part = pauses
    return min(max(without_work * part, shortest), longest)
