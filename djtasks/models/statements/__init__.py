"""The hot statements on the job table, by vendor; each is tested against what the ORM would do.

A statement stands in `sql/<vendor>/<name>.sql`, in `sql/common/` if all vendors take the same. What a
vendor lacks (arrays, RETURNING) is made up for here, so that whoever calls sees no difference. All run
on the connection that is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from types import ModuleType
from typing import Final, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.message import Delivery, Message, Outcome
from djtasks.models.fields import as_parameter, as_utc
from djtasks.models.statements import mysql, postgresql, sqlite
from djtasks.models.statements.common import BATCH, BATCH_SIZE, CLOCKS, VENDORS, delivery, ready_in, sql
from djtasks.models.statements.places import call_next, close_line, count_places, lock_limit, put_tickets
from djtasks.models.statements.postgresql import arrays, store
from djtasks.models.statements.workers import beat, beats, tell_of_worker

__all__ = [
    "BATCH",
    "BATCH_SIZE",
    "VENDORS",
    "arrays",
    "beat",
    "beats",
    "call_next",
    "claim",
    "close_line",
    "count_ended",
    "count_others",
    "count_places",
    "count_ready",
    "enqueue",
    "estimate",
    "glance",
    "hand_over",
    "is_paused",
    "limits_set",
    "lock_limit",
    "now",
    "oldest",
    "packet",
    "promote",
    "put_tickets",
    "queues",
    "queues_set",
    "ready_in",
    "record",
    "schedules_due",
    "sql",
    "state",
    "store",
    "tell_of_worker",
    "until_due",
]

PACKET: Final = 2**30  # bytes of a message that PostgreSQL takes: a constant of its source
_VENDORS: Final[dict[str, ModuleType]] = {"postgresql": postgresql, "sqlite": sqlite, "mysql": mysql}


def now(connection: BaseDatabaseWrapper) -> datetime:
    """The time by the database's clock, aware; by this machine's where the database is a file."""
    if connection.vendor not in CLOCKS:
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {CLOCKS[connection.vendor]}")
        (moment,) = cursor.fetchone()
    return as_utc(moment, connection) or datetime.now(UTC)


def packet(connection: BaseDatabaseWrapper) -> int | None:
    """Bytes that a statement may have; None where no server hangs up on one for its size."""
    if connection.vendor != "mysql":
        return PACKET if connection.vendor == "postgresql" else None
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        return int(cursor.fetchone()[0])


def schedules_due(connection: BaseDatabaseWrapper, moment: datetime) -> tuple[datetime, bool]:
    """`now`, and whether any schedule is due by `moment`."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {CLOCKS.get(connection.vendor, 'NULL')}, EXISTS "  # noqa: S608
            "(SELECT 1 FROM djtasks_periodictask WHERE enabled AND next_run_at <= %s)",
            [as_parameter(moment, connection)],
        )
        clock, is_any = cursor.fetchone()
    return as_utc(clock, connection) or datetime.now(UTC), bool(is_any)


def enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], worker: str = "") -> int | None:
    """Insert a row for each message whose id is free; in one transaction. Returns how many, None if it cannot tell.

    With `worker`, what is due at once is leased to it, as by a first claim.
    """
    lease = ("RECEIVED", worker, 1) if worker else ("PENDING", "", 0)
    count: int | None = _VENDORS[connection.vendor].enqueue(connection, messages, lease)
    return count


def claim(
    connection: BaseDatabaseWrapper,
    queue: str,
    limit: int,
    worker: str,
    refused: Collection[str],
    only: str | None = None,
) -> list[Delivery]:
    """Lease up to `limit` ready jobs of `queue` to `worker`, in the order in which they are to run.

    None of `refused` tasks; with `only`, those of that task which stand among the first in the queue.
    """
    filters, values = "", list(refused)
    if refused:
        filters = f"AND task NOT IN ({', '.join(['%s'] * len(refused))})"
    if only is not None:
        filters, values = f"{filters} {sql(connection.vendor, 'claim_only')}", [*values, only, queue]
    statement = sql(connection.vendor, "claim").replace("/* filters */", filters)
    rows = _VENDORS[connection.vendor].claim(connection, statement, queue, limit, worker, values)
    rows.sort(key=itemgetter(24, 25))  # RETURNING promises no order
    return [delivery(row, worker, connection) for row in rows]


def record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    """Record how jobs ended, if `worker` still holds them with that token. Returns the ids that were.

    `clock` is the monotonic time now, to which `Outcome.ended` is compared.
    """
    recorded: set[str] = _VENDORS[connection.vendor].record(connection, worker, outcomes, clock)
    return recorded


def hand_over(connection: BaseDatabaseWrapper, worker: str, outcome: Outcome, clock: float) -> set[str] | None:
    """Record how a job ended and insert the one that follows, leased to `worker`, if the first is held.

    Returns the ids that were written; None where there is no statement for both. One round trip and one commit: the
    steps of a chain wait for nothing else.
    """
    written: set[str] | None = _VENDORS[connection.vendor].hand_over(connection, worker, outcome, clock)
    return written


def until_due(connection: BaseDatabaseWrapper) -> float | None:
    """Seconds until the first of the scheduled jobs is due, at most 0 if it is; None if none is scheduled."""
    moment = [as_parameter(datetime.now(UTC), connection)] if connection.vendor == "sqlite" else []
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "until_due"), moment)
        row = cursor.fetchone()
    return None if row is None or row[0] is None else float(row[0])


class Glance(NamedTuple):
    """What there is to do."""

    commands: str | None  # JSON list
    has_unsent: bool  # the outbox
    has_running: bool
    has_parked: bool  # jobs that wait for places


def glance(connection: BaseDatabaseWrapper, worker: str) -> Glance:
    """What there is to do for a worker, in one question."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "glance"), [worker])
        commands, *others = cursor.fetchone()
    return Glance(commands, *map(bool, others))


class LimitsSet(NamedTuple):
    """The limits that an operator has set."""

    rates: dict[str, str]  # by task
    queues: dict[str, tuple[str, int | None]]  # by queue: its rate ("" for none), how many at a time


def limits_set(connection: BaseDatabaseWrapper) -> LimitsSet:
    """What an operator has set of limits, in one question."""
    found = LimitsSet({}, {})
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "limits_set"))
        for is_queue, name, rate, places in cursor.fetchall():
            if is_queue:
                found.queues[name] = rate, places
            else:
                found.rates[name] = rate
    return found


class QueueSet(NamedTuple):
    """How a queue is set."""

    name: str
    default_priority: int | None
    aging: float | None  # seconds of waiting that count as one priority


def queues_set(connection: BaseDatabaseWrapper) -> list[QueueSet]:
    """The queues that have a default priority, or in which jobs age."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "queues_set"))
        return [QueueSet(*row) for row in cursor.fetchall()]


def promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    """Make up to `limit` due jobs ready. Returns the queue of each."""
    promoted: list[str] = _VENDORS[connection.vendor].promote(connection, limit)
    return promoted


def state(connection: BaseDatabaseWrapper, job_id: str) -> str | None:
    """Where a job stands, for who asks again and again; None if it has no row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT state FROM djtasks_job WHERE id = %s", [job_id])
        row = cursor.fetchone()
    return row[0] if row else None


def is_paused(connection: BaseDatabaseWrapper, queue: str) -> bool:
    """Whether that queue gives out nothing for now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM djtasks_queue WHERE name = %s AND paused", [queue])
        return cursor.fetchone() is not None


def count_ended(
    connection: BaseDatabaseWrapper, begin: datetime, end: datetime
) -> list[tuple[str, str, str, int | None, int | None, int]]:
    """What ended from `begin` until before `end`: task, queue, state, buckets of run time and wait, number."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "count_ended"), [as_parameter(each, connection) for each in (begin, end)])
        return list(cursor.fetchall())


def queues(connection: BaseDatabaseWrapper) -> list[str]:
    """The names of the queues that hold ready jobs: one look into the index for each, whatever the backlog."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "queues"))
        return [name for (name,) in cursor.fetchall()]


def count_ready(connection: BaseDatabaseWrapper, most: int) -> dict[str, int]:
    """How many jobs are ready in each queue that holds any; no queue is counted beyond `most`."""
    one = sql(connection.vendor, "count_ready")
    names, found = queues(connection), dict[str, int]()
    with connection.cursor() as cursor:
        for at in range(0, len(names), BATCH):
            some = names[at : at + BATCH]
            values = [each for name in some for each in (name, name, most)]
            cursor.execute(" UNION ALL ".join([one] * len(some)), values)
            found.update(cursor.fetchall())
    return found


def estimate(connection: BaseDatabaseWrapper, states: Sequence[str]) -> dict[str, int]:
    """About how many jobs are in each of these states, by what the database knows without counting."""
    return dict(_VENDORS[connection.vendor].estimate(connection, states))


def count_others(connection: BaseDatabaseWrapper, most: int) -> tuple[dict[str, int], dict[str, int]]:
    """How many jobs of each queue are for later, and how many run.

    Of the former no more than `most` of all queues together are counted.
    """
    found: tuple[dict[str, int], dict[str, int]] = {}, {}
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "count_others"), [most])
        for queue, runs, count in cursor.fetchall():
            found[runs][queue] = count
    return found


def oldest(connection: BaseDatabaseWrapper) -> dict[str, int]:
    """Since when (µs) the job of each queue has been ready that has been so for longest; whatever the backlog."""
    found: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "oldest"))
        for queue, since in cursor.fetchall():
            found[queue] = min(since, found.get(queue, since))
    return found
