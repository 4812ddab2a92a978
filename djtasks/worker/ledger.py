"""The one door out: many outcomes become one transaction, and are then acknowledged.

Group commit: while one transaction runs, outcomes gather for the next. An outcome comes with all
that follows from it made ready, so that no user code runs here and none can hold up another's.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from django.db import InterfaceError, OperationalError, connections, transaction

from djtasks import follow_ups, outbox, states
from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.failure import failure_of
from djtasks.message import Delivery, Message, Outcome
from djtasks.models import Job, JobGroup, statements
from djtasks.models.attempts import attempts_after
from djtasks.models.fields import utc_now
from djtasks.models.job import message_of

logger = logging.getLogger("djtasks.ledger")

MOST_WAITING: Final = 256  # outcomes; `record` blocks beyond
MOST_BYTES: Final = 64 * 1024 * 1024  # of results in one transaction; PostgreSQL takes 1 GiB a statement
LARGE: Final = 1024 * 1024  # bytes; an outcome so large may be what the server hangs up on
LONGEST_LAG: Final = 1.0  # seconds that the oldest outcome may wait before `record` blocks
TRIES: Final = 5  # of one transaction: serialization failures, deadlocks, busy, lost connections
MARK_AFTER: Final = 0.02  # seconds; a job that has run so long is shown as STARTED


@dataclass(slots=True)
class _Begun:
    """A job that runs, since `since` (monotonic); `marked` once its row says so."""

    delivery: Delivery
    since: float
    marked: bool = False


class Ledger:
    """Records the outcomes of one owner of leases.

    `record`, `begin` and `report` are called by whoever runs jobs; `commit` by the one thread that
    owns the connection. `wake` is called when there is something to commit. Of what follows from outcomes, `wants`
    tells what would come here next anyhow; that is leased in their transaction, and handed on to `take`.
    """

    def __init__(
        self,
        broker: Broker,
        worker: str,
        wake: Callable[[], None] = lambda: None,
        *,
        wants: Callable[[Sequence[Message]], Sequence[Message]] = lambda _messages: (),
        take: Callable[[Sequence[Delivery]], None] = lambda _deliveries: None,
    ) -> None:
        self.broker = broker
        self.worker = worker
        self._wake = wake
        self._wants = wants
        self._take = take
        self._room = threading.Condition()
        self._gathered: list[Outcome] = []
        self._writing = 0
        self._begun: dict[str, _Begun] = {}
        self._reports: dict[str, tuple[Delivery, str | None, str]] = {}
        self._leasing: list[Delivery] = []  # in the transaction that is being written
        self._untold: dict[str, Delivery] = {}  # leased by us, which the broker need not know yet
        self._untold_since = 0.0
        # Recorded, but not yet told to the broker:
        self._ended: list[Delivery] = []
        self._again: list[tuple[Delivery, Message]] = []
        self._back: list[Outcome] = []

    def record(self, outcome: Outcome, *, block: bool = True) -> None:
        """Take an outcome to be stored. Blocks while 256 wait, or the oldest has waited for a second.

        The thread that commits must not block: nobody else would make room.
        """
        with self._room:
            while block and self._is_full():
                self._room.wait(timeout=0.1)
            self._begun.pop(outcome.delivery.id, None)
            self._gathered.append(outcome)
        self._wake()

    def begin(self, delivery: Delivery) -> None:
        """The job begins; its row will say STARTED once it has run for a moment."""
        self._begun[delivery.id] = _Begun(delivery, time.monotonic())

    def report(self, delivery: Delivery, state: str | None, meta: str) -> None:
        """What the task says of itself while it runs; the last word before a commit counts."""
        self._reports[delivery.id] = (delivery, state, meta)
        self._wake()

    @property
    def pending(self) -> int:
        """How many outcomes are not stored yet, or not told to the broker."""
        return len(self._gathered) + self._writing + len(self._ended) + len(self._again) + len(self._back)

    def known(self) -> set[str]:
        """The ids of the jobs that are not done with yet. Not for use during a commit."""
        with self._room:
            stored = [*self._ended, *(delivery for delivery, _ in self._again), *(each.delivery for each in self._back)]
            return {each.delivery.id for each in self._gathered} | {each.id for each in stored}

    def unended(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those of claimed jobs that are still to run, where the queue may hold others (rules 3 and 6).

        Of what was, or may have been, delivered before the row is looked at: what has ended is acknowledged, and a
        later try takes the place of an earlier one. Raises BrokerUnavailable.
        """
        doubtful = [each for each in deliveries if each.message.check or each.token > 1]
        if self.broker.transactional or not doubtful:
            return list(deliveries)
        with _named():
            again = self._overtaken(doubtful)
            ended = set(
                Job.objects.settled().filter(pk__in=[each.id for each in doubtful]).values_list("pk", flat=True)
            )
        self.broker.ack([each for each in doubtful if each.id in ended])
        self.broker.reschedule(again)
        ended |= {delivery.id for delivery, _message in again}
        return [each for each in deliveries if each.id not in ended]

    def oldest(self) -> Delivery | None:
        """The job whose outcome has waited for longest."""
        with self._room:
            return self._gathered[0].delivery if self._gathered else None

    def next_mark(self) -> float | None:
        """Seconds until the row of a running job is to say STARTED, or the broker to hear of it; None if none is."""
        waits = [each.since + MARK_AFTER - time.monotonic() for each in list(self._begun.values()) if not each.marked]
        if self._untold:
            waits.append(self._untold_since + MARK_AFTER - time.monotonic())
        return max(0.0, min(waits)) if waits else None

    def commit(self) -> int:
        """Store what has gathered and acknowledge it. Returns how many outcomes.

        Raises BrokerUnavailable when the store cannot be reached: nothing is lost, call it again.
        """
        self._mark_and_report()
        with self._room:
            outcomes, self._gathered = _portion(self._gathered)
            self._writing = len(outcomes)
        try:
            if outcomes:
                self._store(outcomes)
        except BaseException:
            with self._room:
                self._gathered[:0] = outcomes
            raise
        finally:
            with self._room:
                self._writing = 0
                self._room.notify_all()
        self._tell_broker()
        return len(outcomes)

    def _is_full(self) -> bool:
        if not self._gathered:
            return False
        lag = time.monotonic() - self._gathered[0].ended
        return len(self._gathered) + self._writing >= MOST_WAITING or lag > LONGEST_LAG

    def _mark_and_report(self) -> None:
        now = time.monotonic()
        due = [each for each in list(self._begun.values()) if not each.marked and now - each.since >= MARK_AFTER]
        reports, self._reports = self._reports, {}
        if not due and not reports:
            return
        try:
            with _named():
                self._mark(due)
                for delivery, state, meta in reports.values():
                    Job.objects.report(delivery, state, meta)
        except BrokerUnavailable:
            self._reports = {**reports, **self._reports}
            raise

    def _mark(self, due: Sequence[_Begun]) -> None:
        """Let the rows say that these jobs run."""
        if not self.broker.transactional:
            Job.objects.all().store([_begun(each) for each in due])
        elif due:
            clock, now = statements.now(connections[settings.DATABASE]), time.monotonic()
            for each in due:
                Job.objects.begin(each.delivery, clock - timedelta(seconds=now - each.since))
        for each in due:
            each.marked = True

    def _store(self, outcomes: Sequence[Outcome]) -> None:
        """Store all, or, if the data of one is to blame, all but that one, which then fails alone."""
        try:
            self._store_with_tries(outcomes)
        except Exception as error:  # an outcome that cannot be stored, for whatever reason, must not hold up others
            if isinstance(error, BrokerUnavailable) and not _may_be_to_blame(outcomes):
                raise
            if len(outcomes) > 1:
                middle = len(outcomes) // 2
                self._store(outcomes[:middle])
                self._store(outcomes[middle:])
                return
            logger.exception("The outcome of job %s cannot be stored", outcomes[0].delivery.id)
            self._store_failure(outcomes[0], error)

    def _store_failure(self, outcome: Outcome, error: Exception) -> None:
        """In place of an outcome that the database refuses: a failure that says why, if need be with less and less."""
        failed = _unstorable(outcome, error)
        for attempt in (follow_ups.ended(failed), failed):
            try:
                self._store_with_tries([attempt])
            except BrokerUnavailable:
                raise
            except Exception:  # the group's body, a later job's row
                logger.exception("What follows job %s cannot be stored", outcome.delivery.id)
            else:
                return
        self._ended.append(outcome.delivery)  # not even its row: it must not hold up all others for ever

    def _store_with_tries(self, outcomes: Sequence[Outcome]) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                self._write(outcomes)
            except (OperationalError, InterfaceError, BrokerUnavailable) as error:
                connections[settings.DATABASE].close_if_unusable_or_obsolete()
                if attempt == TRIES:
                    raise BrokerUnavailable(f"{len(outcomes)} outcomes could not be stored: {error}") from error
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
            else:
                return

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        self._leasing = []
        if len(outcomes) != 1 or not self._hand_over(outcomes[0]):
            self._write_all(outcomes)
        if self._leasing:
            if not self.broker.transactional:
                self._untold_since = self._untold_since if self._untold else time.monotonic()
                self._untold.update((each.id, each) for each in self._leasing)
            self._take(self._leasing)

    def _hand_over(self, outcome: Outcome) -> bool:
        """Record a step and lease the next one to ourselves by one statement, where there is one for that."""
        if not _is_step(outcome) or not (self.broker.transactional or outcome.delivery.id in self._untold):
            return False
        wanted = self._wants(outcome.follow_ups)
        written = Job.objects.all().hand_over(outcome, self.worker) if wanted else set()
        if outcome.delivery.id not in written:
            return False
        self._leasing = [Delivery(each, self.worker, 1) for each in wanted if each.id in written]
        if not self._leasing:
            _send([replace(each, check=True) for each in wanted])
        self._ended.append(outcome.delivery)
        return True

    def _write_all(self, outcomes: Sequence[Outcome]) -> None:
        final = [each for each in outcomes if each.state in states.SETTLED and not each.forget]
        is_plain = len(final) == len(outcomes) and not any(map(_has_consequences, final))
        write = self._write_rows if self.broker.transactional else self._store_rows
        with nullcontext() if is_plain else transaction.atomic(using=settings.DATABASE):
            again = write(outcomes, final)  # one statement is its own transaction
        self._again += again
        rescheduled = {delivery.id for delivery, _message in again}
        for each in outcomes:
            if _is_given_back(each):
                self._back.append(each)
            elif each.delivery.id not in rescheduled:
                self._ended.append(each.delivery)

    def _write_rows(self, outcomes: Sequence[Outcome], final: Sequence[Outcome]) -> list[tuple[Delivery, Message]]:
        """The queue is the job table: the rows are there, and a retry is one change of its row."""
        self._settle(final, Job.objects.record(self.worker, final))
        retries = [each for each in outcomes if each.next is not None]
        now = statements.now(connections[settings.DATABASE]) if retries else None
        for outcome in sorted(retries, key=lambda each: each.delivery.id):
            if now is not None:
                Job.objects.record_retry(outcome, now)
        for outcome in outcomes:
            if outcome.forget:
                Job.objects.held(outcome.delivery).delete()
        return []

    def _store_rows(self, outcomes: Sequence[Outcome], final: Sequence[Outcome]) -> list[tuple[Delivery, Message]]:
        """The queue is elsewhere: rows may have to be made. Returns the retries that are to be put in their place."""
        retries = [each for each in outcomes if each.next is not None]
        lasting = [*final, *retries]
        foreign = self._settle(lasting, Job.objects.all().store(lasting))
        if forgotten := [each.delivery.id for each in outcomes if each.forget]:
            unended = Job.objects.exclude(state__in=states.SETTLED)
            unended.filter(pk__in=forgotten, worker__in=(self.worker, "")).delete()
        if back := [each.delivery.id for each in outcomes if each.seconds is not None and _is_given_back(each)]:
            Job.objects.running().filter(worker=self.worker, pk__in=back).update(
                state=states.PENDING, worker="", started_at=None
            )
        others = {each.delivery.id for each in foreign}
        return [
            *((_with_attempt(each), each.next) for each in retries if each.next and each.delivery.id not in others),
            *self._overtaken([each.delivery for each in foreign]),
        ]

    def _overtaken(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Message]]:
        """Those whose row waits with a later try or claim than theirs, with that: the queue does not know of it.

        It was recorded and did not reach the queue, or the server came back with an older file.
        """
        rows = {row.pk: row for row in Job.objects.waiting().filter(pk__in=[each.id for each in deliveries])}
        return [
            (replace(each, attempts=row.attempts or each.attempts), message_of(row))
            for each in deliveries
            if (row := rows.get(each.id)) is not None and (row.retries, row.token) > (each.message.retries, each.token)
        ]

    def _settle(self, outcomes: Sequence[Outcome], new: set[str]) -> list[Outcome]:
        """Do what follows from outcomes that are recorded now, or were before. Returns those of other workers."""
        accepted = [each for each in outcomes if each.delivery.id in new]
        rest = [each for each in outcomes if each.delivery.id not in new]
        before = Job.objects.recorded(rest) if rest else set()
        foreign = [each for each in rest if each.delivery.id not in before]
        for each in foreign:
            logger.warning("Job %s belongs to another worker by now: outcome dropped", each.delivery.id)
        following = [message for each in accepted for message in each.follow_ups]
        following += [replace(m, check=True) for each in rest if each.delivery.id in before for m in each.follow_ups]
        if consequential := [each for each in accepted if _has_consequences(each)]:
            bodies = _conclude(consequential)
            if not self.broker.transactional:
                Job.objects.all().add_children(bodies)
            following += bodies
        self._lease([each for each in accepted if len(each.follow_ups) == 1])
        if self._leasing:
            here = {each.id for each in self._leasing}
            following = [message for message in following if message.id not in here]
        if following:
            _send(sorted(following, key=lambda message: message.id))
        return foreign

    def _lease(self, outcomes: Sequence[Outcome]) -> None:
        """Lease to ourselves what would come here next anyhow. (What one outcome spreads is for all workers.)"""
        wanted = self._wants([outcome.follow_ups[0] for outcome in outcomes])
        self._leasing = Job.objects.all().take(wanted, self.worker)

    def _tell_broker(self) -> None:
        """Acknowledge, put in place and give back what is recorded; what the broker does not take stays for later."""
        self._ended = [each for each in self._ended if self._untold.pop(each.id, None) is None]
        is_time = time.monotonic() - self._untold_since >= MARK_AFTER
        if self._untold and (self._again or self._back or is_time):
            self.tell_leases()
        if self._ended:
            self.broker.ack(self._ended)
            self._ended = []
        if self._again:
            self.broker.reschedule(self._again)
            self._again = []
        while self._back:
            outcome = self._back[0]
            self.broker.release([outcome.delivery], delay=outcome.delay, count=outcome.count)
            self._back.pop(0)

    def tell_leases(self) -> None:
        """Let the broker know what we hold that has never been in a queue; before any of it is given back, say.

        What ends within a moment it need not hear of: the row has the lease, for the keepers too.
        """
        if self._untold:
            self.broker.lease(list(self._untold.values()))
            self._untold = {}


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise BrokerUnavailable(f"The database cannot be reached: {error}") from error


def _is_given_back(outcome: Outcome) -> bool:
    return outcome.next is None and outcome.state not in states.SETTLED


def _is_step(outcome: Outcome) -> bool:
    """Whether it has succeeded, and one job follows from that and nothing else."""
    others = (outcome.counts, outcome.grows, outcome.also, outcome.stands_for, outcome.groups, outcome.forget)
    return outcome.state == states.SUCCESS and len(outcome.follow_ups) == 1 and not any(others)


def _has_consequences(outcome: Outcome) -> bool:
    """Whether more than the one row changes with it."""
    return bool(
        outcome.follow_ups or outcome.counts or outcome.grows or outcome.also or outcome.stands_for or outcome.groups
    )


def _conclude(outcomes: Sequence[Outcome]) -> list[Message]:
    """End what ends with these outcomes, count them in their groups. Returns what follows the groups that are done."""
    also = [other for each in outcomes for other in each.also]
    Job.objects.all().store(also)
    Job.objects.all().end_replaced([each for each in (*outcomes, *also) if each.stands_for])
    JobGroup.objects.all().begin([group for each in outcomes for group in each.groups])
    ended = [(each.counts, (each.stands_for or (each.delivery.id,))[0]) for each in outcomes if each.counts]
    grown = [each.grows for each in outcomes if each.grows]
    return JobGroup.objects.all().count_down(ended, grown) if ended or grown else []


def _send(messages: Sequence[Message]) -> None:
    """Send what follows, with the transaction. Its size was looked at in the run, or when its group was stored."""
    outbox.send(messages, using=settings.DATABASE, on_commit="outbox", checked=True)


def _begun(each: _Begun) -> Outcome:
    """A job that runs, in the form of an outcome."""
    return Outcome(delivery=each.delivery, state=states.STARTED, seconds=time.monotonic() - each.since)


def _with_attempt(outcome: Outcome) -> Delivery:
    return replace(outcome.delivery, attempts=attempts_after(outcome, utc_now()))


def _portion(gathered: list[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """What one transaction takes, and the rest."""
    size = 0
    for count, outcome in enumerate(gathered):
        size += outcome.size
        if count and size > MOST_BYTES:
            return gathered[:count], gathered[count:]
    return gathered, []


def _may_be_to_blame(outcomes: Sequence[Outcome]) -> bool:
    """Whether the store, which answers a small question, may have hung up on the size of an outcome, as MySQL does."""
    if all(each.size < LARGE for each in outcomes):
        return False
    try:
        statements.now(connections[settings.DATABASE])
    except (OperationalError, InterfaceError):
        return False
    return True


def _unstorable(outcome: Outcome, error: Exception) -> Outcome:
    """In place of an outcome that the database refuses: a failure that says why, and nothing that follows it."""
    failed = replace(outcome, state=states.FAILURE, result=None, next=None, failure=failure_of(error), forget=False)
    return replace(failed, follow_ups=(), groups=(), also=(), counts=None, grows=None, stands_for=())
