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
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.message import Delivery, Message, Outcome
from djtasks.models.fields import as_utc
from djtasks.models.statements import mysql, postgresql, sqlite
from djtasks.models.statements.common import BATCH, BATCH_SIZE, VENDORS, delivery, sql
from djtasks.models.statements.postgresql import arrays, hand_over, store

__all__ = [
    "BATCH",
    "BATCH_SIZE",
    "VENDORS",
    "arrays",
    "claim",
    "enqueue",
    "hand_over",
    "now",
    "promote",
    "queues",
    "record",
    "sql",
    "store",
]

_VENDORS: Final[dict[str, ModuleType]] = {"postgresql": postgresql, "sqlite": sqlite, "mysql": mysql}


def now(connection: BaseDatabaseWrapper) -> datetime:
    """The time by the database's clock, aware; by this machine's where the database is a file."""
    if connection.vendor == "sqlite":
        return datetime.now(UTC)
    question = "SELECT utc_timestamp(6)" if connection.vendor == "mysql" else "SELECT clock_timestamp()"
    with connection.cursor() as cursor:
        cursor.execute(question)
        (moment,) = cursor.fetchone()
    return as_utc(moment, connection) or datetime.now(UTC)


def enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], worker: str = "") -> int | None:
    """Insert a row for each message whose id is free; in one transaction. Returns how many, None if it cannot tell.

    With `worker`, what is due at once is leased to it, as by a first claim.
    """
    lease = ("RECEIVED", worker, 1) if worker else ("PENDING", "", 0)
    count: int | None = _VENDORS[connection.vendor].enqueue(connection, messages, lease)
    return count


def claim(
    connection: BaseDatabaseWrapper, queue: str, limit: int, worker: str, refused: Collection[str]
) -> list[Delivery]:
    """Lease up to `limit` ready jobs of `queue` to `worker`, in the order in which they are to run."""
    filtered = f"AND task NOT IN ({', '.join(['%s'] * len(refused))})" if refused else ""
    statement = sql(connection.vendor, "claim").replace("/* refused */", filtered)
    rows = _VENDORS[connection.vendor].claim(connection, statement, queue, limit, worker, list(refused))
    rows.sort(key=itemgetter(24, 25))  # RETURNING promises no order
    return [delivery(row, worker, connection) for row in rows]


def record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    """Record how jobs ended, if `worker` still holds them with that token. Returns the ids that were.

    `clock` is the monotonic time now, to which `Outcome.ended` is compared.
    """
    recorded: set[str] = _VENDORS[connection.vendor].record(connection, worker, outcomes, clock)
    return recorded


def promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    """Make up to `limit` due jobs ready. Returns the queue of each."""
    promoted: list[str] = _VENDORS[connection.vendor].promote(connection, limit)
    return promoted


def queues(connection: BaseDatabaseWrapper) -> list[str]:
    """The names of the queues that hold ready jobs: one look into the index for each, whatever the backlog."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "queues"))
        return [name for (name,) in cursor.fetchall()]
