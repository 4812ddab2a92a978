"""PostgreSQL: one statement for all rows, a column an array."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.message import Message, Outcome
from djtasks.models.statements import prepared
from djtasks.models.statements.common import Lease, failure, priority, sql


def arrays(rows: Sequence[Sequence[Any]]) -> list[str]:
    """The columns of `rows`, each as the text of an array: the driver takes ten times as long to write a list."""
    return [f"{{{','.join(map(_quoted, column))}}}" for column in zip(*rows, strict=True)]


def _quoted(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return value.isoformat() if isinstance(value, datetime) else str(value)


def enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], lease: Lease) -> int:
    if len(messages) == 1:
        return len(prepared.execute(connection, _enqueue_one(), _row(messages[0], lease)))
    columns = arrays([_columns(each) for each in messages])
    with connection.cursor() as cursor:
        cursor.execute(sql("postgresql", "enqueue"), [*lease, *columns])
        return int(cursor.rowcount)


@cache
def _enqueue_one() -> str:
    return f"{sql('postgresql', 'enqueue_one')} RETURNING id"


def _row(m: Message, lease: Lease) -> tuple[Any, ...]:
    return (
        m.id, m.task, m.queue, *priority(m), m.eta, m.countdown, *lease, m.args, m.kwargs, m.eta,
        m.countdown, m.expires_at, m.expires_in, m.retries, m.parent_id, m.root_id, m.group_id, m.schedule,
        m.unique_key, m.sender, m.headers, m.options, m.version,
    )  # fmt: skip


def _columns(m: Message) -> tuple[Any, ...]:
    return (
        m.id, m.task, m.queue, m.priority, m.prioritized, m.args, m.kwargs, m.eta, m.countdown, m.expires_at,
        m.expires_in, m.retries, m.parent_id, m.root_id, m.group_id, m.schedule, m.unique_key, m.sender,
        m.headers, m.options, m.version,
    )  # fmt: skip


def claim(
    connection: BaseDatabaseWrapper, statement: str, queue: str, limit: int, worker: str, values: list[str]
) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, [queue, queue, *values, limit, worker])
        return list(cursor.fetchall())


def record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    if len(outcomes) == 1:
        recorded = prepared.execute(connection, sql("postgresql", "record_one"), _outcome(outcomes[0], worker, clock))
        return {job_id for (job_id,) in recorded}
    rows = [
        (o.delivery.id, o.delivery.token, o.state, o.result, o.seconds, clock - o.ended, *failure(o)) for o in outcomes
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql("postgresql", "record"), [*arrays(rows), worker])
        return {job_id for (job_id,) in cursor.fetchall()}


def _outcome(outcome: Outcome, worker: str, clock: float) -> tuple[Any, ...]:
    age = clock - outcome.ended
    begun = None if outcome.seconds is None else outcome.seconds + age
    return (
        outcome.state, outcome.result, outcome.seconds, begun, age, *failure(outcome), outcome.delivery.id, worker,
        outcome.delivery.token,
    )  # fmt: skip


def promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(sql("postgresql", "promote"), [limit])
        return [queue for (queue,) in cursor.fetchall()]


def estimate(connection: BaseDatabaseWrapper, states: Sequence[str]) -> Iterator[tuple[str, int]]:
    """By the statistics that ANALYZE gathers."""
    with connection.cursor() as cursor:
        for state in states:
            cursor.execute("EXPLAIN (FORMAT JSON) SELECT 1 FROM djtasks_job WHERE state = %s", [state])
            (plan,) = cursor.fetchone()
            (found,) = json.loads(plan) if isinstance(plan, str) else plan
            yield state, found["Plan"]["Plan Rows"]


def store(connection: BaseDatabaseWrapper, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert or overwrite these rows of `recording.columns_of`, unless what stands there is final or later. PostgreSQL.

    Returns the ids that were written.
    """
    if len(rows) == 1:
        return {job_id for (job_id,) in prepared.execute(connection, sql("postgresql", "store_one"), rows[0])}
    with connection.cursor() as cursor:
        cursor.execute(sql("postgresql", "store"), arrays([tuple(row.values()) for row in rows]))
        return {job_id for (job_id,) in cursor.fetchall()}


def hand_over(connection: BaseDatabaseWrapper, worker: str, outcome: Outcome, clock: float) -> set[str]:
    row = _row(outcome.follow_ups[0], ("RECEIVED", worker, 1))
    written = prepared.execute(connection, _hand_over(), (*_outcome(outcome, worker, clock), *row))
    return {job_id for (job_id,) in written}


@cache
def _hand_over() -> str:
    following = sql("postgresql", "enqueue_one").replace("/* after */", "FROM ended")
    return (
        f"WITH ended AS ({sql('postgresql', 'record_one')}), following AS ({following} RETURNING id) "  # noqa: S608
        "SELECT id FROM ended UNION ALL SELECT id FROM following"
    )
