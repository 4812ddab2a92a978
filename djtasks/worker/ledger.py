"""The one door out: many outcomes become one transaction, and are then acknowledged.

Group commit: while one transaction runs, outcomes gather for the next. An outcome comes with all
that follows from it made ready, so that no user code runs here and none can hold up another's.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from typing import Final

from django.db import DatabaseError, DataError, InterfaceError, connections

from djtasks import follow_ups, reports, states
from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.failure import failure_of
from djtasks.message import Delivery, Message, Outcome
from djtasks.models import Job, statements
from djtasks.worker.blame import is_of_the_data, may_have_hung_up
from djtasks.worker.counters import Counters
from djtasks.worker.entry import Entry, Writer, bared, overtaken
from djtasks.worker.tally import Tally

logger = logging.getLogger("djtasks.ledger")

MOST_WAITING: Final = 256  # outcomes; `record` blocks beyond
MOST_BYTES: Final = 64 * 1024 * 1024  # of results in one transaction; PostgreSQL takes 1 GiB a statement
QUOTED: Final = 4  # bytes of a statement that one of an outcome may take: a quotation mark in JSON
LONGEST_LAG: Final = 1.0  # seconds that the oldest outcome may wait before `record` blocks
TRIES: Final = 5  # of one transaction: serialization failures, deadlocks, busy, lost connections
MARK_AFTER: Final = 0.02  # seconds; a job that has run so long is shown as STARTED


@dataclass(slots=True)
class _Begun:
    """A job that runs, or is to run here, since `since` (monotonic); `marked` once its row says so.

    If it is not `tracked`, its row says so only if the task has something to say.
    """

    delivery: Delivery
    since: float
    marked: bool = False
    tracked: bool = True


_Run = tuple[str, int]  # id and token
_Report = tuple[_Begun, str | None, str]  # its state, None if it has none of its own, and its meta


class Ledger:
    """Records the outcomes of one owner of leases.

    `record`, `begin` and `report` are called by whoever runs jobs; `commit` by one thread at a time. `wake` is called
    when a commit is waited for. Of what follows from outcomes, `wants` tells what would come here next anyhow; that
    is leased in their transaction, and handed on to `take`.
    """

    def __init__(
        self,
        broker: Broker,
        worker: str,
        wake: Callable[[], None] = lambda: None,
        *,
        wants: Callable[[Sequence[Message]], Sequence[Message]] = lambda _messages: (),
        take: Callable[[Sequence[Delivery]], None] = lambda _deliveries: None,
        counters: Counters | None = None,
    ) -> None:
        self.broker = broker
        self.worker = worker
        self._wake = wake
        self._writer = Writer(broker, worker, wants)
        self._take = take
        self._tally = Tally()
        self._counters = counters  # for `runworker --metrics-port`
        self._room = threading.Condition()
        self._gathered: list[Outcome] = []
        self._writing = 0
        self._begun: dict[str, _Begun] = {}
        self._reports: dict[_Run, _Report] = {}
        self._untold: dict[str, _Begun] = {}  # leased by us, which the broker need not know yet
        self._with_rows: set[str] = set()  # jobs whose rows we have made before their ends
        # Recorded, but not yet told to the broker:
        self._ended: list[Delivery] = []
        self._again: list[tuple[Delivery, Message]] = []
        self._back: list[Outcome] = []
        self._failed: list[Outcome] = []  # recorded, but not yet reported

    def record(self, outcome: Outcome, *, block: bool = True) -> None:
        """Take an outcome, which the next commit stores. Blocks while 256 wait, or the oldest has waited for a second.

        The thread that commits must not block: nobody else would make room.
        """
        with self._room:
            while block and self._is_full():
                self._wake()
                self._room.wait(timeout=0.1)
            self._begun.pop(outcome.delivery.id, None)
            self._gathered.append(outcome)

    def begin(self, delivery: Delivery, *, tracked: bool = True) -> None:
        """The job begins; if it is tracked, its row will say STARTED once it has run for a moment."""
        self._begun[delivery.id] = _Begun(delivery, time.monotonic(), tracked=tracked)

    def report(self, delivery: Delivery, state: str | None, meta: str) -> None:
        """What the task says of itself while it runs; the last word before a commit counts."""
        begun = self._begun.get(delivery.id)
        if begun is None or begun.delivery.token != delivery.token:  # it comes late, of what has ended: no row is made
            begun = _Begun(delivery, time.monotonic(), marked=True)
        # Without a lock: a signal's handler may end this call, or it may be in a copy that the task has forked.
        self._reports[delivery.id, delivery.token] = (begun, state, meta)
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
            again = overtaken(doubtful)
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
        unmarked = [each for each in list(self._begun.values()) if each.tracked and not each.marked]
        waits = [each.since + MARK_AFTER - time.monotonic() for each in (*unmarked, *self._untold.values())]
        return max(0.0, min(waits)) if waits else None

    def commit(self, tries: int = TRIES) -> int:
        """Store what has gathered and acknowledge it. Returns how many outcomes.

        `tries`: of one transaction. Raises BrokerUnavailable when the store cannot be reached: nothing is lost, call
        it again.
        """
        with self._room:
            outcomes, self._gathered = self._portion(self._gathered)
            self._writing = len(outcomes)
        try:
            self._mark_and_report()  # after these have been taken: whatever their jobs said has been said
            if outcomes:
                self._store(outcomes, tries)
                self._tally.add(outcomes)
                if self._counters is not None:
                    self._counters.add(outcomes)
        except BaseException:
            with self._room:
                self._gathered[:0] = outcomes
            raise
        finally:
            with self._room:
                self._writing = 0
                self._room.notify_all()
        self._tell_broker()
        self._tally.write()
        if self._counters is not None:
            self._counters.send()
        if self._failed:
            failed, self._failed = self._failed, []
            reports.note(failed)
        return len(outcomes)

    def finish(self) -> None:
        """After the last commit: write what else has been counted."""
        self._tally.write(at_once=True)
        if self._counters is not None:
            self._counters.send(at_once=True)

    def _is_full(self) -> bool:
        if not self._gathered:
            return False
        lag = time.monotonic() - self._gathered[0].ended
        return len(self._gathered) + self._writing >= MOST_WAITING or lag > LONGEST_LAG

    def _mark_and_report(self) -> None:
        reports = dict(self._reports.popitem() for _ in range(len(self._reports)))
        now = time.monotonic()
        due = {
            (each.delivery.id, each.delivery.token): each
            for each in list(self._begun.values())
            if each.tracked and not each.marked and now - each.since >= MARK_AFTER
        }
        # What a job says needs a row to stand in.
        due |= {call: begun for call, (begun, _state, _meta) in reports.items() if not begun.marked}
        if not due and not reports:
            return
        try:
            self._tell_rows(due, reports)
        except BrokerUnavailable as error:
            longest = _longest(error)
            self._keep_words(reports, longest)
            if not self.broker.transactional:
                for each in due.values():  # the server may have hung up on its size: its row comes when it ends
                    each.marked = each.marked or each.delivery.message.size > longest
            raise

    def _tell_rows(self, due: Mapping[_Run, _Begun], reports: Mapping[_Run, _Report]) -> None:
        """Let rows say that jobs run, and what these say. What is refused for its data is left out."""
        try:
            with _named():
                self._mark(list(due.values()))
                for begun, state, meta in reports.values():
                    Job.objects.report(begun.delivery, state, meta)
        except DatabaseError:
            runs = due.keys() | reports.keys()
            if len(runs) > 1:
                for run in runs:
                    self._tell_rows(
                        {run: due[run]} if run in due else {}, {run: reports[run]} if run in reports else {}
                    )
                return
            for job, _token in runs:
                logger.warning("The row of job %s cannot say how far it is", job, exc_info=True)
            for each in due.values():
                each.marked = True  # or it would be tried for ever; its row comes when it ends

    def _keep_words(self, reports: Mapping[_Run, _Report], longest: float) -> None:
        """Put words back that could not be stored, but for those of more than `longest` bytes."""
        for run, report in reports.items():
            begun, _state, meta = report
            if len(meta) <= longest:
                self._reports.setdefault(run, report)
            else:
                logger.warning("The meta of job %s has %d bytes and could not be stored", begun.delivery.id, len(meta))

    def _mark(self, due: Sequence[_Begun]) -> None:
        """Let the rows say that these jobs run."""
        if not self.broker.transactional:
            self._with_rows.update(each.delivery.id for each in due)
            Job.objects.all().store([_begun(each) for each in due])
        elif due:
            clock, now = statements.now(connections[settings.DATABASE]), time.monotonic()
            first = min(each.since for each in due)
            Job.objects.begin([each.delivery for each in due], clock - timedelta(seconds=now - first))
        for each in due:
            each.marked = True

    def _portion(self, gathered: list[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
        """What one transaction takes, and the rest."""
        size = 0
        for count, outcome in enumerate(gathered):
            size += self._size_of(outcome)
            if count and size > MOST_BYTES:
                return gathered[:count], gathered[count:]
        return gathered, []

    def _size_of(self, outcome: Outcome) -> int:
        """Bytes, about, of what is written with it: where a row may have to be made, its arguments, too."""
        return outcome.size + (0 if self.broker.transactional else outcome.delivery.message.size)

    def _may_be_to_blame(self, outcomes: Sequence[Outcome], error: BrokerUnavailable) -> bool:
        """Whether the server may have hung up on the size of these, as MySQL does."""
        return sum(map(self._size_of, outcomes)) > _longest(error)

    def _store(self, outcomes: Sequence[Outcome], tries: int) -> None:
        """Store all, or, if the data of one is to blame, all but that one, which then fails alone."""
        try:
            self._store_with_tries(outcomes, tries)
        except Exception as error:  # an outcome that cannot be stored, for whatever reason, must not hold up others
            # A single try may have met a deadlock, or an end to the session: no reason to blame anybody.
            if isinstance(error, BrokerUnavailable) and (tries < TRIES or not self._may_be_to_blame(outcomes, error)):
                raise
            if len(outcomes) > 1:
                middle = len(outcomes) // 2
                self._store(outcomes[:middle], tries)
                self._store(outcomes[middle:], tries)
                return
            logger.exception("The outcome of job %s cannot be stored", outcomes[0].delivery.id)
            self._store_failure(outcomes[0], error)

    def _store_failure(self, outcome: Outcome, error: Exception) -> None:
        """In place of an outcome that the database refuses: a failure that says why, if need be with less and less.

        Raises BrokerUnavailable if it is the store that is to blame: if that takes not even what has nothing in it.
        """
        failed = _unstorable(outcome, error)
        bare = bared(failed)
        for attempt in (follow_ups.ended(failed), failed, bare):
            try:
                self._store_with_tries([attempt])
            except BrokerUnavailable as unavailable:
                if attempt is bare or not self._may_be_to_blame([attempt], unavailable):
                    raise
                logger.exception("The end of job %s cannot be stored with all that it has", outcome.delivery.id)
            except Exception as refusal:  # of the group's body, a later job's row, or of the database whatever comes
                if attempt is bare and isinstance(refusal, DatabaseError) and not isinstance(refusal, DataError):
                    raise BrokerUnavailable(f"The database takes no end of a job: {refusal}") from refusal
                logger.exception("What follows job %s cannot be stored", outcome.delivery.id)
            else:
                return
        # Not even its row, as of a message with an id that no column takes: it must not hold up all others for ever.
        self._ended.append(outcome.delivery)

    def _store_with_tries(self, outcomes: Sequence[Outcome], tries: int = TRIES) -> None:
        for attempt in range(1, tries + 1):
            try:
                entry = self._writer.write(outcomes, self._untold, self._with_rows)
            except (DatabaseError, InterfaceError, BrokerUnavailable) as error:
                if _is_usable_still() and is_of_the_data(error):
                    raise
                if attempt == tries:
                    raise BrokerUnavailable(f"{len(outcomes)} outcomes could not be stored: {error}") from error
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
            else:
                self._with_rows.difference_update(each.delivery.id for each in outcomes)
                self._keep(entry)
                return

    def _keep(self, entry: Entry) -> None:
        """What an entry leaves to be done outside of its transaction."""
        self._ended += entry.ended
        self._again += entry.again
        self._back += entry.back
        self._failed += entry.failed
        if entry.leased:
            if not self.broker.transactional:
                now = time.monotonic()
                self._untold.update((each.id, _Begun(each, now)) for each in entry.leased)
                self._with_rows.update(each.id for each in entry.leased)
            self._take(entry.leased)

    def _tell_broker(self) -> None:
        """Acknowledge, put in place and give back what is recorded; what the broker does not take stays for later."""
        self._ended = [each for each in self._ended if self._untold.pop(each.id, None) is None]
        first = min((each.since for each in self._untold.values()), default=inf)
        if self._again or self._back or time.monotonic() - first >= MARK_AFTER:
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
            self.broker.lease([each.delivery for each in self._untold.values()])
            self._untold = {}


@contextmanager
def _named() -> Iterator[None]:
    """Raises what the database does about the data, and BrokerUnavailable for all else that it raises."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        if is_of_the_data(error):
            raise
        raise BrokerUnavailable(f"The database cannot be reached: {error}") from error


def _is_usable_still() -> bool:
    """Whether the connection outlives an error; else the next use of it makes a new one."""
    connection = connections[settings.DATABASE]
    is_usable = connection.connection is not None and connection.is_usable()
    connection.close_if_unusable_or_obsolete()  # it may be usable, and yet older than CONN_MAX_AGE says
    return is_usable


def _longest(error: BrokerUnavailable) -> float:
    """Of how many bytes the server takes what is to be written, if it may be for more that it hung up; else inf."""
    if not may_have_hung_up(error.__cause__):
        return inf
    _is_usable_still()
    try:
        most = statements.packet(connections[settings.DATABASE])
    except (DatabaseError, InterfaceError):  # it is away, whatever the size
        return inf
    return inf if most is None else most / QUOTED


def _begun(each: _Begun) -> Outcome:
    """A job that runs, in the form of an outcome."""
    return Outcome(delivery=each.delivery, state=states.STARTED, seconds=time.monotonic() - each.since)


def _unstorable(outcome: Outcome, error: Exception) -> Outcome:
    """In place of an outcome that the database refuses: a failure that says why, and nothing that follows it."""
    failed = replace(outcome, state=states.FAILURE, result=None, next=None, failure=failure_of(error), forget=False)
    return replace(failed, follow_ups=(), groups=(), also=(), counts=None, grows=None, stands_for=())
