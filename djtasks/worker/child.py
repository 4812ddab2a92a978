"""One process that runs jobs: the main thread runs them, one I/O thread talks to the store.

The I/O thread loops: commit the ledger; claim; wait for a wake-up. It owns one connection; the
user's code has its own, in the main thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from django.db import DatabaseError, InterfaceError, close_old_connections, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks import signals, states
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, LeaseLost
from djtasks.execution import Execution
from djtasks.message import Delivery, Outcome
from djtasks.worker.consumer import Consumer
from djtasks.worker.descriptors import readable
from djtasks.worker.ledger import Ledger
from djtasks.worker.limits import Alarm
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots

logger = logging.getLogger("djtasks.worker")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
LONGEST_PAUSE: Final = 1.0  # seconds between two looks into the queues where a descriptor tells of new jobs
BLIND_PAUSES: Final = (0.005, 0.1)  # where nothing does: at first, and after a while without work
CHEAP_PAUSES: Final = (0.002, 0.01)  # between two looks that cost next to nothing, likewise
SLOWING: Final = 50  # a pause is this part of the time without work
LONGEST_BACKOFF: Final = 5.0  # seconds between two tries to reach a store that is down
MOST_STUMBLES: Final = 6  # unexpected errors one after another
CONNECTION_CHECK: Final = 1.0  # seconds between two checks of the user's connections


class Child:
    """The loop of one process. `owner` is its boot id, new at each fork; `index` its slot."""

    def __init__(self, owner: str, index: int, slots: Slots, options: WorkerOptions) -> None:
        self.owner = owner
        self.index = index
        self.slots = slots
        self.options = options
        self.broker = get_broker()
        self.ledger = Ledger(
            self.broker,
            owner,
            self.wake,
            wants=lambda messages: self.consumer.wants(messages),
            take=lambda deliveries: self.consumer.take(deliveries),
        )
        self.consumer = Consumer(
            self.broker, owner, options, is_fresh=self._is_fresh, wake=self.wake, unended=self.ledger.unended
        )
        self.alarm = Alarm(options.limits, clean=_close_all)
        self._wake_end, self._wake_source = os.pipe()
        os.set_blocking(self._wake_end, False)
        os.set_blocking(self._wake_source, False)
        self._asleep = False
        self._main_is_done = False
        self._pid = os.getpid()
        self.has_signals = False  # whether a stop comes to us as a signal
        self._reconnects = 0  # that the broker has made so far
        self._is_unsure = False  # after an error: a claim may have been made whose answer got lost
        self._checked_connections = 0.0
        self._worked = time.monotonic()  # when the I/O thread last saw work
        self._runs = 0

    def run(self, patience: float | None = None) -> bool:
        """Work until `stop` is called, then store what is finished, give back the rest and return.

        A store that does not answer then is waited for, `patience` seconds at most. Returns whether it came to that.
        """
        signals.worker_process_init.notify(sender=self)
        io = threading.Thread(target=self._serve, name="djtasks-io", daemon=True)
        io.start()
        while (delivery := self.consumer.next()) is not None:
            self._work(delivery)
        signals.worker_process_shutdown.notify(sender=self, pid=os.getpid(), exitcode=0)
        self._main_is_done = True
        self.wake()
        io.join(patience)
        connections.close_all()
        return not io.is_alive()

    def stop(self, number: int | None = None, _frame: object = None) -> None:
        """Ask for a warm stop. Safe in a signal handler, from any thread, and twice.

        A signal that comes to end the job that runs ends this process.
        """
        if number is not None and self.slots.is_condemned(self.index):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.consumer.stopping = True
        self._asleep = True
        self.wake()

    def wake(self) -> None:
        """End the I/O thread's wait, if it waits."""
        if self._asleep:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_source, b"\0")

    # The main thread

    def _work(self, delivery: Delivery) -> None:
        execution = Execution(
            delivery,
            hostname=self.options.hostname,
            report=lambda state, meta: self.ledger.report(delivery, state, meta),
            begin=lambda task: self._begin(delivery, task, execution.request.time_limit),
            limiter=self.alarm,
        )
        started = time.monotonic()
        outcome = execution.run()
        if os.getpid() != self._pid:
            os._exit(0)  # a copy that the task forked and let return: it has no lease and no I/O thread
        self.slots.clear(self.index, failed=outcome.state == states.FAILURE)
        self._note(delivery, outcome)
        self.ledger.record(outcome)
        self.slots.tell_unsettled(self.index, self.ledger.pending)
        self._clean()
        self.consumer.done(time.monotonic() - started)
        self._runs += 1
        self._recycle()

    def _recycle(self) -> None:
        """Stop after so many jobs, or once the process has grown too large; the supervisor replaces it."""
        if self.options.pool == "solo":
            return  # nobody would
        if self.options.max_tasks and self._runs >= self.options.max_tasks:
            self.stop()
        elif self.options.max_memory and (used := most_memory()) > self.options.max_memory:
            logger.info(
                "Child %d is replaced: it has taken %d KiB, and may take %d", self._pid, used, self.options.max_memory
            )
            self.stop()

    def _begin(self, delivery: Delivery, task: Any, time_limit: float | None) -> None:
        """Mark the job as begun; one that is acknowledged early is marked in the broker too, in one call."""
        if not task.acknowledges_late and not self.broker.start([delivery]):
            raise LeaseLost(f"Job {delivery.id} belongs to another worker by now.")
        self.slots.mark(self.index, delivery.id, delivery.token, time_limit)
        if settings.TASK_TRACK_STARTED if task.track_started is None else task.track_started:
            self.ledger.begin(delivery)

    def _note(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.count == "refusals":
            self.consumer.refuse(delivery.message.task, outcome.delay)

    def _clean(self) -> None:
        """Leave nothing of one job to the next: queries, transactions, broken or old connections."""
        reset_queries()
        if self.has_signals and signal.getsignal(signal.SIGTERM) != self.stop:
            take_signals(self.stop)
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block or (connection.connection is not None and not connection.get_autocommit()):
                logger.warning("A job left the connection %r inside a transaction; it is closed", connection.alias)
                _close(connection)
        now = time.monotonic()
        if now - self._checked_connections > CONNECTION_CHECK:
            self._checked_connections = now
            close_old_connections()

    # The I/O thread

    def _is_fresh(self) -> bool:
        """Whether the keeper's last beat is so recent that nobody can have taken this worker for dead."""
        return bool(self.slots.beat_age() < settings.WORKER_LOST_AFTER / 2)

    def _serve(self) -> None:
        with self.broker.patience(0.0):  # it has a patience of its own, between two tries
            self._loop()

    def _loop(self) -> None:
        pause, failures, stumbles = self.broker.first_pause, 0, 0
        while not self._is_finished():
            try:
                with self.slots.alone() if self.broker.one_writer else contextlib.nullcontext():
                    claimed = self._turn()
                if failures:
                    logger.info("The broker and the database answer again")
                self.slots.turn(self.index)
                failures = stumbles = 0
                if claimed or not self.consumer.is_idle:
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
        self.broker.close()

    def _turn(self) -> int:
        """One round: store, give back what waits too long, claim. Returns how many jobs came."""
        if self.broker.reconnects != self._reconnects:
            self._reconnects, self._is_unsure = self.broker.reconnects, True
        if self._is_unsure:
            # In this order: a job moves from the consumer to the ledger.
            known = self.consumer.known() | self.ledger.known()
            self.broker.forget_claims(self.owner, but=known)
            self._is_unsure = False
        self.ledger.commit()
        self.slots.tell_unsettled(self.index, self.ledger.pending)
        if self.consumer.stopping or self.consumer.is_stuck() or not self._is_fresh():
            self.ledger.tell_leases()
            self.consumer.release()
        if self.consumer.stopping:
            self.consumer.notify()
            return 0
        claimed = self.consumer.fill(self.ledger.pending)
        if self.options.burst and not claimed and self.consumer.is_idle and self._is_fresh():
            self.consumer.stopping = not self.ledger.pending
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
        return self._main_is_done and not self.ledger.pending and not self.consumer.held

    def _wait(self, pause: float) -> None:
        """Sleep until there is something to do: an outcome, a wake-up, a new job, or the end of `pause`."""
        self._asleep = True
        try:
            # An outcome that comes from here on ends the sleep; before it is asked, or the question would stay open.
            if self.ledger.pending or self._main_is_done:
                return
            # Who leaves jobs to others must not take the wake-up that is theirs.
            listens = self.consumer.is_idle and not self.consumer.refuses
            store = self.broker.wakeable(self.consumer.queues) if listens else None
            descriptors = [self._wake_end] if store is None else [self._wake_end, store]
            self._sleep(descriptors, self._patience(pause), looks=store is None and self.consumer.is_idle)
            if store is not None:
                self.broker.drain_wakeups()
        finally:
            self._asleep = self.consumer.stopping
            self._hush()

    def _patience(self, pause: float) -> float:
        if self.consumer.stopping:
            return 0.05
        if self.consumer.is_idle:
            return pause
        if self.consumer.held or not self.consumer.runs_long():
            return 0.02
        mark = self.ledger.next_mark()
        return LONGEST_PAUSE if mark is None else min(LONGEST_PAUSE, mark)

    def _sleep(self, descriptors: list[int], timeout: float, *, looks: bool) -> None:
        if not looks:
            readable(descriptors, timeout)
            return
        without_work = time.monotonic() - self._worked
        deadline = time.monotonic() + timeout
        while not readable(descriptors, _paced(CHEAP_PAUSES, without_work)):
            changed = self.broker.has_changed()
            if changed is None:
                readable(descriptors, _paced(BLIND_PAUSES, without_work))
                return
            if changed or time.monotonic() > deadline:
                return

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


def _close(connection: BaseDatabaseWrapper) -> None:
    """Close a connection whatever transaction it is in, so that its next use opens a new one."""
    # Within an atomic block Django would keep the closed connection until the block's end, which never comes.
    connection.in_atomic_block = False
    connection.savepoint_ids, connection.run_on_commit = [], []
    connection.needs_rollback = False
    connection.close()


def most_memory() -> int:
    """The most memory that this process has taken so far, in KiB (what of it is shared with others counts, too)."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most  # bytes there


def _close_all() -> None:
    """Close this thread's connections to databases: what they were doing was cut off."""
    for connection in connections.all(initialized_only=True):
        with contextlib.suppress(Exception):
            _close(connection)


def run_child(child: Child, patience: float | None = None) -> bool:
    """Run `child` as the process that it was forked for: signals, then work, as `Child.run` says."""
    child.has_signals = True
    take_signals(child.stop)
    # What a job forks, as multiprocessing does, must end at a SIGTERM, not ask this process to stop.
    os.register_at_fork(before=_hold_stops, after_in_parent=_release_stops, after_in_child=_become_ordinary)
    return child.run(patience)


def _hold_stops() -> None:
    """Let no stop come while a process is copied: the copy would hear it by our handler, which is gone by then."""
    _held.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _release_stops() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.before)


def _become_ordinary() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    _release_stops()


class _Held(threading.local):
    """The signals that this thread had blocked before it made a copy of the process."""

    before: set[signal.Signals | int] = set()


_held = _Held()


def take_signals(handler: Callable[[int, Any], None]) -> None:
    """Let `handler` take the signals that ask for a stop, those too that came while they were blocked."""
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
