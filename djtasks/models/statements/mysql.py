"""MySQL and MariaDB: all rows spelled out in one statement; no UPDATE … RETURNING."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.message import Message, Outcome, portions
from djtasks.models.fields import as_parameter
from djtasks.models.statements.common import (
    BATCH,
    BATCH_SIZE,
    Lease,
    failure,
    has_ready,
    priority,
    record_by_count,
    repeated,
    sql,
    together,
)

UNION: Final = "\n    UNION ALL\n"


def enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], lease: Lease) -> None:
    split = list(portions(list(enumerate(messages)), lambda each: each[1].size, BATCH, BATCH_SIZE))
    with together(connection, len(split)), connection.cursor() as cursor:
        for portion in split:
            # By id, so that two who send the same ids wait for each other in one order.
            portion.sort(key=lambda each: each[1].id)
            values = [value for i, m in portion for value in _row(m, i, lease, connection)]
            cursor.execute(repeated("mysql", "enqueue", len(portion), ",\n"), values)


def _row(m: Message, position: int, lease: Lease, connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    eta, countdown = as_parameter(m.eta, connection), _as_microseconds(m.countdown)
    return (
        m.id, m.task, m.queue, *priority(m), position, eta, countdown, *lease, m.args, m.kwargs, eta,
        countdown, as_parameter(m.expires_at, connection), _as_microseconds(m.expires_in), m.retries, m.parent_id,
        m.root_id, m.group_id, m.schedule, m.unique_key, m.sender, m.headers, m.options, m.version,
    )  # fmt: skip


def claim(
    connection: BaseDatabaseWrapper, statement: str, queue: str, limit: int, worker: str, values: list[str]
) -> list[tuple[Any, ...]]:
    if not has_ready(connection, queue):  # one round trip, not the three of a transaction
        return []
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(statement, [queue, queue, *values, limit])
        rows = list(cursor.fetchall())
        if rows:
            places = ", ".join(["%s"] * len(rows))
            cursor.execute(
                f"UPDATE djtasks_job SET state = 'RECEIVED', worker = %s, token = token + 1 WHERE id IN ({places})",  # noqa: S608
                [worker, *(row[0] for row in rows)],
            )
    return rows


def record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    def write(cursor: Any, outcomes: Sequence[Outcome]) -> None:
        one = len(outcomes) == 1
        statement = sql("mysql", "record_one") if one else repeated("mysql", "record", len(outcomes), UNION)
        cursor.execute(statement, [*(value for each in outcomes for value in _outcome(each, clock)), worker])

    recorded: set[str] = set()
    for portion in portions(outcomes, _size_of, BATCH, BATCH_SIZE):
        recorded |= record_by_count(connection, portion, write)
    return recorded


def _size_of(outcome: Outcome) -> int:
    return sum(len(text) for text in (outcome.result, *failure(outcome)) if text)


def _outcome(outcome: Outcome, clock: float) -> tuple[Any, ...]:
    age = clock - outcome.ended
    begun = None if outcome.seconds is None else _as_microseconds(outcome.seconds + age)
    return (
        outcome.state, outcome.result, outcome.seconds, begun, _as_microseconds(age), *failure(outcome),
        outcome.delivery.id, outcome.delivery.token,
    )  # fmt: skip


def hand_over(connection: BaseDatabaseWrapper, worker: str, outcome: Outcome, clock: float) -> set[str] | None:
    if not connection.mysql_is_mariadb:  # type: ignore[attr-defined]
        return None
    follower = outcome.follow_ups[0]
    ended, following = (*_outcome(outcome, clock), worker), _row(follower, 0, ("RECEIVED", worker, 1), connection)
    with connection.cursor() as cursor:
        cursor.execute(_hand_over(), [*ended, *following, outcome.delivery.id, follower.id, worker])
        return {job_id for (job_id,) in cursor.fetchall()}


@cache
def _hand_over() -> str:
    parts = {"record": sql("mysql", "record_one").strip(), "enqueue": repeated("mysql", "enqueue", 1, "").strip()}
    return re.sub(r"/\* (\w+) \*/", lambda match: parts[match[1]], sql("mysql", "hand_over"))


def estimate(connection: BaseDatabaseWrapper, states: Sequence[str]) -> Iterator[tuple[str, int]]:
    """By two looks into an index that begins with the state."""
    with connection.cursor() as cursor:
        for state in states:
            cursor.execute("EXPLAIN SELECT 1 FROM djtasks_job WHERE state = %s", [state])
            columns = [column[0] for column in cursor.description]
            yield state, int(cursor.fetchone()[columns.index("rows")] or 0)


def promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, queue FROM djtasks_job WHERE state IN ('SCHEDULED', 'RETRY') AND run_at <= utc_timestamp(6) "
            "ORDER BY run_at LIMIT %s FOR UPDATE SKIP LOCKED",
            [limit],
        )
        rows = list(cursor.fetchall())
        if rows:
            cursor.execute(repeated("mysql", "promote", len(rows), ", "), [job_id for job_id, _queue in rows])
    return [queue for _job_id, queue in rows]


def _as_microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)
