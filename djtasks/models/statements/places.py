"""Places under a limit on how many jobs run at a time. Whoever calls these holds the limit's row locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.models.statements.common import BATCH, repeated, sql

TicketRow = tuple[str, str, int, int, int]  # job, limit, standing, rank, slot


class LimitRow(NamedTuple):
    """How many may run at a time, whether jobs wait for a place; the slot given last, the time between two, in µs."""

    places: int | None
    parked: bool
    next_slot: int
    interval: int


class Counts(NamedTuple):
    """How many hold a place, were called to one, and wait."""

    holding: int
    called: int
    waiting: int


def lock_limit(connection: BaseDatabaseWrapper, key: str) -> LimitRow:
    """Lock a limit, made if need be, until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "lock_limit"), [key])
        row = cursor.fetchone()
        if row is None:
            cursor.execute(sql(connection.vendor, "make_limit"), [key])
            cursor.execute(sql(connection.vendor, "lock_limit"), [key])
            row = cursor.fetchone()
    return LimitRow(row[0], bool(row[1]), row[2], row[3])


def count_places(connection: BaseDatabaseWrapper, limit: str, others_than: Sequence[str], most: int) -> Counts:
    """How a limit stands but for `others_than`, one job at least.

    `most` is how far those without a place are counted.
    """
    others = f"AND ticket.job NOT IN ({', '.join(['%s'] * len(others_than))})"
    statement = sql(connection.vendor, "count_places").replace("/* others */", others)
    of_limit = [limit, *others_than]
    with connection.cursor() as cursor:
        cursor.execute(statement, [*of_limit, *of_limit, most, *of_limit, most])
        return Counts(*cursor.fetchone())


def put_tickets(connection: BaseDatabaseWrapper, tickets: Sequence[TicketRow]) -> None:
    """Give jobs tickets, each in the place of what it had."""
    with connection.cursor() as cursor:
        for at in range(0, len(tickets), BATCH):
            rows = tickets[at : at + BATCH]
            statement = repeated(connection.vendor, "put_tickets", len(rows), ", ")
            cursor.execute(statement, [value for row in rows for value in row])


def call_next(connection: BaseDatabaseWrapper, limit: str, places: int, most: int) -> list[str]:
    """Make those ready, up to `most`, who are first in the line for the places that are free. Returns their queues."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(sql("postgresql", "call_next"), [limit, most, places, limit, limit])
            return [queue for (queue,) in cursor.fetchall()]
        cursor.execute(sql(connection.vendor, "first_in_line"), [limit, limit, limit, min(most, places)])
        line = list(cursor.fetchall())
        first = line[: max(0, places - line[0][2] - line[0][3])] if line else []
        if first:
            ids = [row[0] for row in first]
            marks = ", ".join(["%s"] * len(ids))
            cursor.execute(f"UPDATE djtasks_ticket SET standing = 1 WHERE job IN ({marks})", ids)  # noqa: S608
            ready = f"UPDATE djtasks_job SET state = 'PENDING' WHERE state = 'SCHEDULED' AND id IN ({marks})"  # noqa: S608
            cursor.execute(ready, ids)
    return [row[1] for row in first]


def close_line(connection: BaseDatabaseWrapper, key: str, limit: str) -> None:
    """Note that nobody waits for a place any more, if that is so."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "close_line"), [key, limit])
