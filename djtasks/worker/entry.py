"""One entry of the ledger: outcomes, and all that follows from them, in one transaction.

Rows of jobs are written first, by id, then groups are counted down, by id, then what follows is inserted, by id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Final

from django.db import connections, transaction

from djtasks import outbox, registry, states
from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.message import Delivery, Failure, Message, Outcome
from djtasks.models import Job, JobGroup, statements
from djtasks.models.attempts import attempts_after
from djtasks.models.fields import utc_now
from djtasks.models.job import NOT_KEPT, message_of

logger = logging.getLogger("djtasks.ledger")

MOST_TOLD: Final = 1000  # characters of why an outcome is not there


@dataclass(slots=True)
class Entry:
    """What is to be done once it is committed: acknowledge, put in place, give back, run, report."""

    ended: list[Delivery] = field(default_factory=list)
    again: list[tuple[Delivery, Message]] = field(default_factory=list)
    back: list[Outcome] = field(default_factory=list)
    leased: list[Delivery] = field(default_factory=list)  # that come here next anyhow
    failed: list[Outcome] = field(default_factory=list)


class Writer:
    """Writes entries of one owner of leases. Of what follows, `wants` tells what would come here next anyhow."""

    def __init__(self, broker: Broker, worker: str, wants: Callable[[Sequence[Message]], Sequence[Message]]) -> None:
        self.broker = broker
        self.worker = worker
        self._wants = wants

    def write(self, outcomes: Sequence[Outcome], by_row: Container[str], with_rows: Container[str] = ()) -> Entry:
        """Write outcomes in one transaction.

        `by_row`: the ids of jobs that are leased by their rows alone; `with_rows`: of those whose rows were made here,
        where the queue is elsewhere. Raises what the database does, and BrokerUnavailable; then nothing is written.
        """
        if len(outcomes) == 1 and _is_step(outcomes[0]) and not _is_to_forget(outcomes[0]):
            outcome = outcomes[0]
            has_row = self.broker.transactional or (outcome.delivery.id in by_row and not outcome.sent)
            if has_row and (entry := self._hand_over(outcome)):
                return entry
        traceless = [] if self.broker.transactional else [each for each in outcomes if _is_traceless(each, with_rows)]
        if not traceless:
            return self._write(outcomes)
        gone = {each.delivery.id for each in traceless}
        lasting = [each for each in outcomes if each.delivery.id not in gone]
        entry = self._write(lasting) if lasting else Entry()
        entry.ended += [each.delivery for each in traceless]
        return entry

    def _hand_over(self, outcome: Outcome) -> Entry | None:
        """Record a step and lease the next one to ourselves by one statement, where there is one for that."""
        wanted = self._wants(outcome.follow_ups)
        written = Job.objects.all().hand_over(outcome, self.worker) if wanted else set()
        if outcome.delivery.id not in written:
            return None
        leased = [Delivery(each, self.worker, 1) for each in wanted if each.id in written]
        if not leased:
            _send([replace(each, check=True) for each in wanted])
        return Entry(ended=[outcome.delivery], leased=leased)

    def _write(self, outcomes: Sequence[Outcome]) -> Entry:
        final = [each for each in outcomes if each.state in states.SETTLED and not each.forget]
        private = {each.delivery.id for each in final if _is_to_forget(each)}
        is_plain = len(final) == len(outcomes) and not private and not any(map(_changes_more, final))
        entry = Entry(back=[each for each in outcomes if _is_given_back(each)])
        with nullcontext() if is_plain else transaction.atomic(using=settings.DATABASE):
            if self.broker.transactional:  # one statement is its own transaction
                self._record(outcomes, final, private, entry)
            else:
                self._store(outcomes, final, private, entry)
        rescheduled = {delivery.id for delivery, _message in entry.again}
        kept = [each.delivery for each in outcomes if not _is_given_back(each)]
        entry.ended = [each for each in kept if each.id not in rescheduled]
        return entry

    def _record(self, outcomes: Sequence[Outcome], final: Sequence[Outcome], private: Set[str], entry: Entry) -> None:
        """The queue is the job table: the rows are there, and a retry is one change of its row.

        `private`: the ids of those whose arguments are not kept.
        """
        recorded = Job.objects.record(self.worker, final)
        Job.objects.all().clear_arguments(sorted(private & recorded))
        if ended := [each.delivery.id for each in final if _is_unique(each) and each.delivery.id in recorded]:
            Job.objects.filter(pk__in=ended).update(unique_key=None)
        self._settle(final, recorded, entry)
        retries = [each for each in outcomes if each.next is not None]
        now = statements.now(connections[settings.DATABASE]) if retries else None
        for outcome in sorted(retries, key=lambda each: each.delivery.id):
            if now is not None:
                Job.objects.record_retry(outcome, now)
        Job.objects.all().forget(self.worker, [each.delivery for each in outcomes if each.forget])

    def _store(self, outcomes: Sequence[Outcome], final: Sequence[Outcome], private: Set[str], entry: Entry) -> None:
        """The queue is elsewhere: rows may have to be made, and retries are put in the place of their jobs there."""
        retries = [each for each in outcomes if each.next is not None]
        ended = [_without_arguments(each) if each.delivery.id in private else each for each in final]
        lasting = [*ended, *retries]
        foreign = self._settle(lasting, Job.objects.all().store(lasting), entry)
        if forgotten := [each.delivery.id for each in outcomes if each.forget]:
            unended = Job.objects.exclude(state__in=states.SETTLED)
            unended.filter(pk__in=forgotten, worker__in=(self.worker, "")).delete()
        if back := [each.delivery.id for each in entry.back if each.seconds is not None]:
            Job.objects.running().filter(worker=self.worker, pk__in=back).update(
                state=states.PENDING, worker="", started_at=None
            )
        others = {each.delivery.id for each in foreign}
        own = [(_with_attempt(each), each.next) for each in retries if each.next and each.delivery.id not in others]
        entry.again = [*own, *overtaken([each.delivery for each in foreign])]

    def _settle(self, outcomes: Sequence[Outcome], new: set[str], entry: Entry) -> list[Outcome]:
        """Do what follows from outcomes that are recorded now, or were before. Returns those of other workers."""
        accepted = [each for each in outcomes if each.delivery.id in new]
        rest = [each for each in outcomes if each.delivery.id not in new]
        entry.failed = [each for each in accepted if each.state == states.FAILURE]
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
        # What one outcome spreads is for all workers.
        if steps := [each.follow_ups[0] for each in accepted if len(each.follow_ups) == 1]:
            entry.leased = Job.objects.all().take(self._wants(steps), self.worker)
        here = {each.id for each in entry.leased}
        if others := [message for message in following if message.id not in here]:
            _send(sorted(others, key=lambda message: message.id))
        return foreign


def overtaken(deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Message]]:
    """Those whose row waits with a later try or claim than theirs, with that: the queue does not know of it.

    It was recorded and did not reach the queue, or the server came back with an older file.
    """
    if not deliveries:
        return []  # at almost every commit: Django would build a query to find that out
    rows = {row.pk: row for row in Job.objects.waiting().filter(pk__in=[each.id for each in deliveries])}
    return [
        (replace(each, attempts=row.attempts or each.attempts), message_of(row))
        for each in deliveries
        if (row := rows.get(each.id)) is not None and (row.retries, row.token) > (each.message.retries, each.token)
    ]


def _is_traceless(outcome: Outcome, with_rows: Container[str]) -> bool:
    """Whether it leaves no row, and there is none: no run before this one can have made it."""
    return outcome.forget and outcome.delivery.token == 1 and outcome.delivery.id not in with_rows


def _is_to_forget(outcome: Outcome) -> bool:
    """Whether its arguments must not be kept once it has ended."""
    task = registry.find(outcome.delivery.message.task)
    return task is not None and not task.store_arguments


def _without_arguments(outcome: Outcome) -> Outcome:
    """The outcome, of a job whose row is not to say what it was called with."""
    message = replace(outcome.delivery.message, args=NOT_KEPT, kwargs=NOT_KEPT)
    return replace(outcome, delivery=replace(outcome.delivery, message=message))


def bared(outcome: Outcome) -> Outcome:
    """A failure without all that its caller gave the job: what is left is short, ASCII, and nobody's data."""
    lean, failure = _without_arguments(outcome).delivery, outcome.failure
    message = replace(lean.message, headers="{}", options="{}", sender="")
    if failure is not None:
        text = failure.message.encode("ascii", "backslashreplace").decode()
        failure = Failure(failure.kind, text[:MOST_TOLD])
    return replace(outcome, delivery=replace(lean, message=message), failure=failure)


def _is_given_back(outcome: Outcome) -> bool:
    return outcome.next is None and outcome.state not in states.SETTLED


def _is_unique(outcome: Outcome) -> bool:
    """Whether a unique key ends with it."""
    message = outcome.delivery.message
    if message.unique_key is None or outcome.state == states.REPLACED:
        return False
    return message.uniqueness.seconds is None


def _is_step(outcome: Outcome) -> bool:
    """Whether it has succeeded, and one job follows from that and nothing else."""
    if outcome.delivery.message.unique_key is not None:
        return False
    others = (outcome.counts, outcome.grows, outcome.also, outcome.stands_for, outcome.groups, outcome.forget)
    return outcome.state == states.SUCCESS and len(outcome.follow_ups) == 1 and not any(others)


def _has_consequences(outcome: Outcome) -> bool:
    """Whether more than the one row changes with it."""
    return bool(
        outcome.follow_ups or outcome.counts or outcome.grows or outcome.also or outcome.stands_for or outcome.groups
    )


def _changes_more(outcome: Outcome) -> bool:
    """Whether more than one statement is to be done for it."""
    return _is_unique(outcome) or _has_consequences(outcome)


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


def _with_attempt(outcome: Outcome) -> Delivery:
    return replace(outcome.delivery, attempts=attempts_after(outcome, utc_now()))
