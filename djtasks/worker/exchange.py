"""The I/O thread of a process that runs jobs: it stores, gives back, claims, and waits for what is next.

It owns one connection to the store, which it lends while it sleeps (`Lending`). The user's code has its own, in the
threads that run jobs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from typing import Final, NoReturn

from django.db import DatabaseError, InterfaceError, connections

from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.half_open import waiting_here
from djtasks.worker.consumer import Consumer
from djtasks.worker.counters import counters_of
from djtasks.worker.descriptors import readable
from djtasks.worker.ledger import Ledger
from djtasks.worker.lending import Lending
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots

logger = logging.getLogger("djtasks.worker")

LONGEST_PAUSE: Final = 1.0  # seconds between two looks into the queues where a descriptor tells of new jobs
BLIND_PAUSES: Final = (0.005, 0.2)  # where nothing does: at first, and after a while without work
CHEAP_PAUSES: Final = (0.002, 0.05)  # between two looks that cost next to nothing, likewise
SLOWING: Final = 50  # a pause is this part of the time without work
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
        self._wake_end, self._wake_source = os.pipe()
        os.set_blocking(self._wake_end, False)
        os.set_blocking(self._wake_source, False)
        self._asleep = False
        self._lending = Lending()
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
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_source, b"\0")

    def is_fresh(self) -> bool:
        """Whether the keeper's last beat is so recent that nobody can have taken this worker for dead."""
        return bool(self.slots.beat_age() < settings.WORKER_LOST_AFTER / 2)

    def settle(self) -> None:
        """Store what has just ended: here, if nothing else is to run and the I/O thread naps, else by waking that.

        For the thread that ran it, where no other runs jobs.
        """
        is_alone = self.options.runs == 1 and not self.consumer.held and not self.consumer.stopping
        if not (is_alone and self._is_settled_here()) or self.consumer.has_room:
            self.wake()

    def _is_settled_here(self) -> bool:
        """Store what there is in this thread, if the I/O thread's connection is to be had. Returns whether it is."""
        with self._lending.borrowed() as is_ours:
            if not is_ours:
                return False
            try:
                with self.broker.patience(0.0), self._alone():
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
        with self.broker.patience(0.0):  # it has a patience of its own, between two tries
            self._loop()

    def _loop(self) -> None:
        pause, failures, stumbles = self.broker.first_pause, 0, 0
        waiting = waiting_here()
        self._lending.own(waiting)
        while not self._is_finished():
            waiting.moves()
            try:
                with self._alone():
                    claimed = self.turn()
                if failures:
                    logger.info("The broker and the database answer again")
                self.slots.turn(self.index)
                failures = stumbles = 0
                if claimed or not self.consumer.has_room:
                    pause, self._worked = self.broker.first_pause, time.monotonic()
                self._wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            except (BrokerUnavailable, DatabaseError, InterfaceError) as error:
                failures += 1
                self._recover(error, failures)
            except Exception:
                stumbles += 1  # apart from the failures: an outage, however long, is no reason to give up
                self._is_unsure = True
                if stumbles > MOST_STUMBLES:
                    self._give_up()
                logger.exception("The I/O thread of %s stumbled; it goes on", self.owner)
                time.sleep(0.1 * stumbles)
        self.ledger.finish()
        waiting.rests()
        self.broker.close()
        connections[settings.DATABASE].close()

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

    def _give_up(self) -> NoReturn:
        """End the process: a new one has what a job has taken from this one, such as its descriptors.

        The first job that could not be stored is the likely culprit, and counts a loss.
        """
        logger.exception("The I/O thread of %s cannot go on; the process ends", self.owner)
        culprit = self.ledger.oldest()
        if culprit is not None:
            self.slots.mark(self.index, culprit.id, culprit.token)
        os._exit(1)

    def _is_finished(self) -> bool:
        return self._is_last and not self.ledger.pending and not self.consumer.held

    def _wait(self, pause: float) -> None:
        """Sleep until there is something to do: an outcome, a wake-up, a new job, or the end of `pause`."""
        self._asleep = True
        try:
            # What comes from here on ends the sleep; before it is asked, or the question would stay open.
            if self.ledger.pending or self._is_last or self.consumer.has_missed:
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
        finally:
            self._asleep = self.consumer.stopping
            self._hush()

    def _patience(self, pause: float) -> float:
        if self.consumer.stopping:
            return 0.05
        if self.consumer.is_idle:
            return pause
        if self.consumer.has_room:
            longest = pause
        elif self.consumer.held or not self.consumer.runs_long():
            return NAP
        else:
            longest = LONGEST_PAUSE
        waits = (longest, self.ledger.next_mark(), self.consumer.gathers_for)
        return min(each for each in waits if each is not None)

    def _sleep(self, store: int | None, timeout: float) -> set[int]:
        descriptors = [self._wake_end] if store is None else [self._wake_end, store]
        if store is not None:
            return readable(descriptors, timeout)
        if not self.consumer.has_room:
            # After a longer sleep it is to look after what has come of the job at once.
            with self._lending.lent() if timeout <= NAP else contextlib.nullcontext():
                return readable(descriptors, timeout)
        without_work = time.monotonic() - self._worked
        deadline = time.monotonic() + timeout
        while not (woken := readable(descriptors, _paced(CHEAP_PAUSES, without_work))):
            changed = self.broker.has_changed()
            if changed is None:
                return readable(descriptors, min(timeout, _paced(BLIND_PAUSES, without_work)))
            if changed or time.monotonic() > deadline:
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
        try:
            if readable([self._wake_end], delay):  # a stop ends it
                self._hush()
        except OSError:  # a job has closed the pipe; `_wait` meets that too, and is counted
            time.sleep(delay)

    def _hush(self) -> None:
        """Take what `wake` has written."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_end, 4096)


def _paced(pauses: tuple[float, float], without_work: float) -> float:
    """A pause in seconds: the shortest while there is work, longer the longer there was none."""
    shortest, longest = pauses
    return min(max(without_work / SLOWING, shortest), longest)
