"""Rates and concurrency limits where the queue is the job table.

Who decides on a limit has locked its row. A job that waits is SCHEDULED: for its slot, or, for a place, without a time.
A place is held by the job's own row, while that says that it runs; so none can leak.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Max, Q, Value, When

from djtasks import states
from djtasks.brokers.base import FARTHEST, NEXT_TRY, LimitStanding
from djtasks.conf import settings
from djtasks.message import CONCURRENCY, RATE, Delivery, Grant, Wait, microseconds, moment
from djtasks.models import Job, Limit, Ticket, statements
from djtasks.models.fields import UTCDateTimeField

SECOND: Final = 1_000_000  # µs
BATCH: Final = 500
LONGEST_LEAD: Final = 1.0  # seconds


# Of a job that is to wait. One that was revoked since it was leased comes at once, as it would if it waited already.
_WAITS: Final = Case(When(revoked=True, then=Value(states.PENDING)), default=Value(states.SCHEDULED))


class Lead:
    """How long it takes, in seconds, until a slot that was given is known: who asks gets none that is over by then."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def learn(self, took: float) -> None:
        """Take what it took this time."""
        self.seconds = min(LONGEST_LEAD, max(took, 0.9 * self.seconds))


def defer(
    deliveries: Sequence[Delivery], key: str, interval: float, ahead: float, most: int, lead: Lead
) -> tuple[list[Delivery], list[str]]:
    """`Broker.defer`; also the queue of each that has become ready, of the old line or for a place that is free."""
    limit, step = RATE + key, round(interval * SECOND)
    granted: list[Delivery] = []
    deferred: list[tuple[Delivery, int]] = []
    with _atomic():
        row = statements.lock_limit(_connection(), key)
        clock = _Clock()
        tickets = {each.pk: each for each in Ticket.objects.filter(pk__in=[each.id for each in deliveries])}
        reserved = [each.slot for each in tickets.values() if each.limit == limit]
        latest, last, recalled = clock.now + round(max(ahead, FARTHEST) * SECOND), row.next_slot, []
        was_put_back = max(last, *reserved, 0) > latest  # the clock
        if was_put_back or row.interval not in (0, step):
            last, recalled = min(last, clock.now) if was_put_back else last, _recall(limit)
            tickets = {pk: each for pk, each in tickets.items() if each.limit != limit}
        first = clock.now + round(lead.seconds * SECOND)
        line = Ticket.objects.filter(limit=limit, standing=Ticket.WAITS).aggregate(last=Max("slot"))["last"] or 0
        for each in deliveries:
            slot = max(first, last + step)
            if (ticket := tickets.get(each.id)) is not None:
                slot = max(slot, ticket.slot if ticket.limit == limit else 0)
            elif all(grant.limit != limit for grant in each.grants):
                slot = max(slot, line + step)
            if slot <= first + ahead * SECOND and len(granted) < most:
                last = slot
                granted.append(_with(each, Grant(limit, slot, step, clock.monotonic(slot), clock.spread)))
            else:
                line = max(line, slot)
                deferred.append((each, slot))
        Limit.objects.filter(pk=key).update(next_slot=last, interval=step)
        if begun := [each.id for each in granted if each.id in tickets]:
            Ticket.objects.filter(pk__in=begun, limit=limit).delete()
        _defer(limit, deferred, round(ahead * SECOND / 2), clock.now + round(NEXT_TRY * SECOND))
    lead.learn(time.monotonic() - clock.answered)
    return granted, recalled + give_back([each for each, _slot in deferred], begun=True)


def _defer(limit: str, deferred: Sequence[tuple[Delivery, int]], lead: int, soonest: int) -> None:
    if not deferred:
        return
    whens = [When(pk=each.id, then=Value(moment(max(slot - lead, soonest)))) for each, slot in deferred]
    at = Case(*whens, output_field=UTCDateTimeField())
    several = [each for each, _slot in deferred]
    _held(several).update(state=_WAITS, run_at=at, worker="", started_at=None)
    revoked = set(_rows(several).filter(revoked=True).values_list("pk", flat=True))
    waiting = [(each.id, limit, Ticket.WAITS, 0, slot) for each, slot in deferred if each.id not in revoked]
    statements.put_tickets(_connection(), waiting)


class _Clock:
    """The database's time, in µs, and how it stands to this machine's monotonic clock."""

    def __init__(self) -> None:
        asked = time.monotonic()
        self.now = _now()
        self.answered = time.monotonic()
        self.spread = self.answered - asked

    def monotonic(self, at: int) -> float:
        return self.answered + (at - self.now) / SECOND


def take_places(deliveries: Sequence[Delivery], key: str, places: int, most: int) -> tuple[list[Delivery], list[str]]:
    """`Broker.take_places`; also the queue of each that has become ready."""
    limit = CONCURRENCY + key
    with _atomic():
        row = statements.lock_limit(_connection(), key)
        known, parked = row.places, row.parked
        turn = _turn(deliveries, limit, places, parked=parked)
        taken, soon = turn.may[:most], turn.may[most:]
        denied = [each for each in deliveries if each not in taken]
        rows = {row.pk: row for row in _rows(denied).only("rank", "order_key", "revoked")} if denied else {}
        # Revoked since they were leased: they wait for nothing.
        leaving = [each for each in denied if each.id in rows and rows[each.id].revoked]
        rest = [each for each in denied if each not in leaving]
        waiting = [each for each in rest if each not in soon]
        holding = [(each.id, limit, Ticket.HOLDS, 0, 0) for each in taken]
        statements.put_tickets(_connection(), [*holding, *_line(rest, limit, rows, turn.line)])
        if leaving:
            _held(leaving).update(state=_WAITS, worker="", started_at=None)
        if waiting:
            _held(waiting).update(state=_WAITS, run_at=None, worker="", started_at=None)
        if soon:
            at = moment(_now() + round(NEXT_TRY * SECOND))
            _held(soon).update(state=_WAITS, run_at=at, worker="", started_at=None)
        if (known, parked) != (places, parked or bool(rest)):
            Limit.objects.filter(pk=key).update(max_concurrency=places, parked=parked or bool(rest))
        left = turn.free - len(turn.may)
        queues = statements.call_next(_connection(), limit, places, left) if waiting and left > 0 else []
    return [_with(each, Grant(limit)) for each in taken], queues


class _Turn(NamedTuple):
    """Who of those who ask may have a place now; how many are free; where those stood that were in the line before."""

    may: list[Delivery]
    free: int
    line: dict[str, tuple[int, int]]  # id → rank, order


def _turn(deliveries: Sequence[Delivery], limit: str, places: int, *, parked: bool) -> _Turn:
    ids = [each.id for each in deliveries]
    counts = statements.count_places(_connection(), limit, ids, places if parked else 0)
    free = max(0, places - counts.holding)
    before = Ticket.objects.filter(pk__in=ids, limit=limit).values_list("pk", "standing", "rank", "slot")
    called = {pk: (standing, rank, slot) for pk, standing, rank, slot in before} if parked else {}
    first = [each for each in deliveries if each.id in called][:free]
    owed = min(counts.called, free) + min(counts.waiting, free)
    new = [each for each in deliveries if each.id not in called][: max(0, free - owed - len(first))]
    chosen = {each.id for each in (*first, *new)}
    line = {pk: (rank, slot) for pk, (standing, rank, slot) in called.items() if standing != Ticket.HOLDS}
    return _Turn([each for each in deliveries if each.id in chosen], free, line)


def _line(
    deliveries: Sequence[Delivery], limit: str, rows: Mapping[str, Job], before: Mapping[str, tuple[int, int]]
) -> list[tuple[str, str, int, int, int]]:
    """The tickets with which these wait; what has waited for this limit before keeps its place in the line."""
    ranks = {each.id: (rows[each.id].rank, rows[each.id].order_key) for each in deliveries if each.id in rows}
    ranks.update((pk, place) for pk, place in before.items() if pk in ranks)
    return [(pk, limit, Ticket.WAITS, rank, order) for pk, (rank, order) in ranks.items()]


def give_back(deliveries: Iterable[Delivery], *, begun: bool) -> list[str]:
    """Free the places of these, whose leases have ended; what has not begun leaves its slot, too. Returns queues.

    These are the queues of what has become ready.
    """
    queues: list[str] = []
    freed: dict[str, list[str]] = {}
    for each in deliveries:
        for grant in each.grants:
            if grant.limit.startswith(CONCURRENCY):
                freed.setdefault(grant.limit, []).append(each.id)
            elif not begun:
                _leave_slot(each, grant)
    for limit, ids in sorted(freed.items()):
        with _atomic():
            row = statements.lock_limit(_connection(), limit.removeprefix(CONCURRENCY))
            held = Ticket.objects.filter(pk__in=ids, limit=limit, standing=Ticket.HOLDS)
            if begun:
                held.delete()
            else:  # it comes again, and has its turn
                held.update(standing=Ticket.CALLED)
            if row.parked:
                queues += _fill(limit, row.places)
    return queues


def _leave_slot(delivery: Delivery, grant: Grant) -> None:
    """Its slot is free again, if it was the last that was given; it keeps its turn, before those that came later."""
    with _atomic():
        given = Limit.objects.filter(pk=grant.key, next_slot=grant.slot)
        given.update(next_slot=grant.slot - grant.interval)
        statements.put_tickets(_connection(), [(delivery.id, grant.limit, Ticket.WAITS, 0, grant.slot)])


def fill_places() -> list[str]:
    """`Broker.fill_places`. Returns the queues of what has become ready."""
    queues: list[str] = []
    for key in Limit.objects.filter(parked=True).values_list("pk", flat=True):
        with _atomic():
            row = statements.lock_limit(_connection(), key)
            queues += _fill(CONCURRENCY + key, row.places)
    return queues


def _fill(limit: str, places: int | None) -> list[str]:
    """Call so many as there are free places. Returns the queue of each."""
    queues = statements.call_next(_connection(), limit, BATCH if places is None else places, BATCH)
    if not queues:
        statements.close_line(_connection(), limit.removeprefix(CONCURRENCY), limit)
    return queues


def recall(limit: str) -> list[str]:
    """`Broker.recall`. Returns the queue of each that has become ready."""
    with _atomic():
        statements.lock_limit(_connection(), limit.partition(":")[2])
        return _recall(limit)


def _recall(limit: str) -> list[str]:
    queues: list[str] = []
    while ids := list(Ticket.objects.filter(limit=limit, standing=Ticket.WAITS).values_list("pk", flat=True)[:BATCH]):
        waiting = Job.objects.filter(pk__in=ids, state=states.SCHEDULED)
        queues += waiting.order_by().values_list("queue", flat=True)
        waiting.update(state=states.PENDING)
        Ticket.objects.filter(pk__in=ids).delete()
    return queues


def standings() -> list[LimitStanding]:
    """`Broker.limits`."""
    found: dict[str, LimitStanding] = {}
    for key, slot in Limit.objects.filter(next_slot__gt=0).values_list("pk", "next_slot"):
        found[RATE + key] = LimitStanding(RATE + key, last_slot=slot)
    for limit in Ticket.objects.order_by().values_list("limit", flat=True).distinct():
        waiting = sum(Ticket.objects.all().of(limit, each).count() for each in (Ticket.WAITS, Ticket.CALLED))
        holding = Ticket.objects.all().of(limit, Ticket.HOLDS).count()
        before = found.get(limit, LimitStanding(limit))
        found[limit] = replace(before, waiting=waiting, holding=holding)
    return [found[limit] for limit in sorted(found)]


def waits(ids: Sequence[str]) -> dict[str, Wait]:
    """`Broker.waits`."""
    rows = Ticket.objects.filter(pk__in=ids, standing=Ticket.WAITS).values_list("pk", "limit", "slot")
    waiting = set(Job.objects.waiting().filter(pk__in=ids).values_list("pk", flat=True))
    return {
        pk: Wait(limit, moment(slot) if limit.startswith(RATE) else None) for pk, limit, slot in rows if pk in waiting
    }


def forget(ids: Sequence[str]) -> None:
    """These jobs wait for no limit any more."""
    Ticket.objects.filter(pk__in=ids, standing=Ticket.WAITS).delete()


def _rows(deliveries: Sequence[Delivery]) -> Any:
    return Job.objects.filter(pk__in=[each.id for each in deliveries])


def _held(deliveries: Sequence[Delivery]) -> Any:
    """The rows of deliveries, all of one worker, that are still held."""
    tokens = Q()
    for each in deliveries:
        tokens |= Q(pk=each.id, token=each.token)
    return Job.objects.running().filter(tokens, worker=deliveries[0].worker)


def _with(delivery: Delivery, grant: Grant) -> Delivery:
    others = tuple(each for each in delivery.grants if each.limit != grant.limit)
    return replace(delivery, grants=(*others, grant))


def _now() -> int:
    return microseconds(statements.now(_connection()))


def _connection() -> BaseDatabaseWrapper:
    return connections[settings.DATABASE]


def _atomic() -> Any:
    return transaction.atomic(using=settings.DATABASE)
