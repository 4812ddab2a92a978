"""SQLite: one row a statement, prepared once, in one transaction; this machine's clock."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.message import Message, Outcome, microseconds
from djtasks.models.fields import as_parameter
from djtasks.models.statements.common import Lease, failure, has_ready, priority, record_by_count, sql, together

SAMPLE: Final = 1_000  # rows: a tenth of all is told to a tenth or so


def enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], lease: Lease) -> int:
    moment = datetime.now(UTC)
    stamp = microseconds(moment)
    rows = [(*lease[1:], *_row(m, moment, stamp + i, lease[0], connection)) for i, m in enumerate(messages)]
    with together(connection, len(rows)), connection.cursor() as cursor:
        cursor.executemany(sql("sqlite", "enqueue"), rows)
        return int(cursor.rowcount)


def _row(m: Message, moment: datetime, order_key: int, ready: str, connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    run_at = m.eta if m.countdown is None else moment + timedelta(seconds=m.countdown)
    expires_at = m.expires_at if m.expires_in is None else moment + timedelta(seconds=m.expires_in)
    state = "SCHEDULED" if run_at is not None and run_at > moment else ready
    return (
        m.id, m.task, m.queue, *priority(m), order_key, state, m.args, m.kwargs,
        as_parameter(run_at, connection), as_parameter(expires_at, connection), as_parameter(moment, connection),
        m.retries, m.parent_id, m.root_id, m.group_id, m.schedule, m.unique_key, m.sender, m.headers, m.options,
        m.version,
    )  # fmt: skip


def claim(
    connection: BaseDatabaseWrapper, statement: str, queue: str, limit: int, worker: str, values: list[str]
) -> list[tuple[Any, ...]]:
    if not has_ready(connection, queue):  # a look takes no lock, the UPDATE would take the one that writers wait for
        return []
    with connection.cursor() as cursor:
        cursor.execute(statement, [worker, queue, queue, *values, limit])
        return list(cursor.fetchall())


def record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    def write(cursor: Any, outcomes: Sequence[Outcome]) -> None:
        rows = [_outcome(outcome, worker, clock, connection) for outcome in outcomes]
        cursor.executemany(sql("sqlite", "record"), rows)

    return record_by_count(connection, outcomes, write)


def _outcome(outcome: Outcome, worker: str, clock: float, connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    finished_at = datetime.now(UTC) - timedelta(seconds=clock - outcome.ended)
    started_at = finished_at - timedelta(seconds=outcome.seconds) if outcome.seconds is not None else None
    return (
        outcome.state, outcome.result, outcome.seconds, as_parameter(started_at, connection),
        as_parameter(finished_at, connection), *failure(outcome), outcome.delivery.id, worker, outcome.delivery.token,
    )  # fmt: skip


def hand_over(connection: BaseDatabaseWrapper, worker: str, outcome: Outcome, clock: float) -> None:
    """No statement of SQLite changes and inserts."""


def estimate(connection: BaseDatabaseWrapper, states: Sequence[str]) -> Iterator[tuple[str, int]]:
    """By a sample: SQLite knows nothing without counting, but which numbers its rows have."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(rowid), max(rowid) FROM djtasks_job")
        first, last = cursor.fetchone()
        numbers = range(first or 0, (last or 0) + 1)
        sample = random.sample(numbers, min(SAMPLE, len(numbers)))
        cursor.execute(
            f"SELECT state, count(*) FROM djtasks_job WHERE rowid IN ({', '.join(map(str, sample))}) GROUP BY state"  # noqa: S608
        )
        found = dict(cursor.fetchall())
    for state in states:
        yield state, found.get(state, 0) * len(numbers) // max(1, len(sample))


def promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    moment = as_parameter(datetime.now(UTC), connection)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM djtasks_job WHERE state IN ('SCHEDULED', 'RETRY') AND run_at <= %s)", [moment]
        )
        if not cursor.fetchone()[0]:
            return []
        cursor.execute(sql("sqlite", "promote"), [moment, limit])
        return [queue for (queue,) in cursor.fetchall()]
