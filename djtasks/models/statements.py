"""The hot statements on the job table, by vendor; each is tested against what the ORM would do.

A statement stands in `sql/<vendor>/<name>.sql`, in `sql/common/` if all vendors take the same. What a
vendor lacks (arrays, RETURNING) is made up for here, so that whoever calls sees no difference. All run
on the connection that is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from operator import itemgetter
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.exceptions import ImproperlyConfigured
from djtasks.message import Delivery, Message, Outcome, microseconds, portions
from djtasks.models.fields import as_parameter, as_utc

VENDORS: Final = ("postgresql", "sqlite", "mysql")
BATCH: Final = 500  # rows a statement where each row is spelled out
BATCH_SIZE: Final = 4 * 1024 * 1024  # characters of such a statement; a server's max_allowed_packet may be 16 MiB
_ROW: Final = re.compile(r"-- row\n(.*)\n-- end of row\n", re.DOTALL)
Lease = tuple[str, str, int]  # of what is due at once: state, worker, token
_COMMENT: Final = re.compile(r"^--(?! row| end of row).*\n", re.MULTILINE)


@cache
def sql(vendor: str, name: str) -> str:
    """The statement `name` for `vendor`, or the one for all, without comments.

    Raises ImproperlyConfigured for a vendor that djtasks does not serve.
    """
    if vendor not in VENDORS:
        raise ImproperlyConfigured(f"djtasks runs on {', '.join(VENDORS)} (MariaDB is mysql), not on {vendor}.")
    folder = resources.files("djtasks.models").joinpath("sql")
    own = folder.joinpath(vendor, f"{name}.sql")
    text = (own if own.is_file() else folder.joinpath("common", f"{name}.sql")).read_text("utf-8")
    return _COMMENT.sub("", text)


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
    count: int | None = _ENQUEUE[connection.vendor](connection, messages, lease)
    return count


def claim(
    connection: BaseDatabaseWrapper, queue: str, limit: int, worker: str, refused: Collection[str]
) -> list[Delivery]:
    """Lease up to `limit` ready jobs of `queue` to `worker`, in the order in which they are to run."""
    filtered = f"AND task NOT IN ({', '.join(['%s'] * len(refused))})" if refused else ""
    statement = sql(connection.vendor, "claim").replace("/* refused */", filtered)
    rows = _CLAIM[connection.vendor](connection, statement, queue, limit, worker, list(refused))
    rows.sort(key=itemgetter(24, 25))  # RETURNING promises no order
    return [_delivery(row, worker, connection) for row in rows]


def record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    """Record how jobs ended, if `worker` still holds them with that token. Returns the ids that were.

    `clock` is the monotonic time now, to which `Outcome.ended` is compared.
    """
    recorded: set[str] = _RECORD[connection.vendor](connection, worker, outcomes, clock)
    return recorded


def store(connection: BaseDatabaseWrapper, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert or overwrite these rows of `recording.columns_of`, unless what stands there is final or later. PostgreSQL.

    Returns the ids that were written.
    """
    with connection.cursor() as cursor:
        if len(rows) == 1:
            cursor.execute(sql("postgresql", "store_one"), rows[0])
        else:
            cursor.execute(sql("postgresql", "store"), arrays([tuple(row.values()) for row in rows]))
        return {job_id for (job_id,) in cursor.fetchall()}


def hand_over(connection: BaseDatabaseWrapper, worker: str, outcome: Outcome, clock: float) -> set[str]:
    """Record how a job ended and insert the one that follows, leased to `worker`, if the first is held. PostgreSQL.

    Returns the ids that were written. One round trip and one commit: the steps of a chain wait for nothing else.
    """
    following = sql("postgresql", "enqueue_one").replace("/* after */", "FROM ended")
    statement = (
        f"WITH ended AS ({sql('postgresql', 'record_one')}), following AS ({following} RETURNING id) "  # noqa: S608
        "SELECT id FROM ended UNION ALL SELECT id FROM following"
    )
    row = _postgresql_row(outcome.follow_ups[0], ("RECEIVED", worker, 1))
    with connection.cursor() as cursor:
        cursor.execute(statement, [*_postgresql_outcome(outcome, worker, clock), *row])
        return {job_id for (job_id,) in cursor.fetchall()}


def promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    """Make up to `limit` due jobs ready. Returns the queue of each."""
    promoted: list[str] = _PROMOTE[connection.vendor](connection, limit)
    return promoted


def queues(connection: BaseDatabaseWrapper) -> list[str]:
    """The names of the queues that hold ready jobs: one look into the index for each, whatever the backlog."""
    with connection.cursor() as cursor:
        cursor.execute(sql(connection.vendor, "queues"))
        return [name for (name,) in cursor.fetchall()]


def _together(connection: BaseDatabaseWrapper, statements: int) -> AbstractContextManager[Any]:
    """A transaction if there are several statements; one alone is its own."""
    return transaction.atomic(using=connection.alias) if statements > 1 else nullcontext()


def _has_ready(connection: BaseDatabaseWrapper, queue: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM djtasks_job WHERE state = 'PENDING' AND queue = %s)", [queue])
        return bool(cursor.fetchone()[0])


def _priority(m: Message) -> tuple[str | None, int, str | None, int]:
    """Priority and rank, each as the queue whose default goes before (None: somebody chose it), and the value."""
    queue = None if m.prioritized else m.queue
    return queue, m.priority, queue, m.priority


def _repeated(vendor: str, name: str, times: int, separator: str) -> str:
    statement = sql(vendor, name)
    return _ROW.sub(lambda match: f"{separator.join([match[1]] * times)}\n", statement)


def _delivery(row: Sequence[Any], worker: str, connection: BaseDatabaseWrapper) -> Delivery:
    message = Message(
        id=row[0],
        task=row[1],
        args=row[2],
        kwargs=row[3],
        queue=row[4],
        priority=row[5],
        prioritized=True,
        eta=as_utc(row[6], connection),
        expires_at=as_utc(row[7], connection),
        retries=row[8],
        parent_id=row[9],
        root_id=row[10],
        group_id=row[11],
        unique_key=row[12],
        schedule=row[13],
        sender=row[14],
        headers=row[15],
        options=row[16],
        version=row[17],
    )
    return Delivery(
        message, worker, row[18], row[19], row[20], bool(row[21]), row[22] or "[]", as_utc(row[23], connection)
    )


class _SomeAreForeign(Exception):
    """Rolls back a batch of which not every row was ours."""


def _record_by_count(
    connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome], write: Callable[[Any, Sequence[Outcome]], None]
) -> set[str]:
    """Record without RETURNING: all at once, and one by one if the count says that not all were ours."""
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            write(cursor, outcomes)
            if cursor.rowcount == len(outcomes):
                return {outcome.delivery.id for outcome in outcomes}
            raise _SomeAreForeign
    except _SomeAreForeign:
        pass
    recorded = set()
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        for outcome in outcomes:
            write(cursor, [outcome])
            if cursor.rowcount == 1:
                recorded.add(outcome.delivery.id)
    return recorded


# PostgreSQL: one statement for all rows, a column an array


def arrays(rows: Sequence[Sequence[Any]]) -> list[str]:
    """The columns of `rows`, each as the text of an array: the driver takes ten times as long to write a list."""
    return [f"{{{','.join(map(_element, column))}}}" for column in zip(*rows, strict=True)]


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _postgresql_enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], lease: Lease) -> int:
    with connection.cursor() as cursor:
        if len(messages) == 1:
            cursor.execute(sql("postgresql", "enqueue_one"), _postgresql_row(messages[0], lease))
        else:
            columns = arrays([_postgresql_element(each) for each in messages])
            cursor.execute(sql("postgresql", "enqueue"), [*lease, *columns])
        return int(cursor.rowcount)


def _postgresql_row(m: Message, lease: Lease) -> tuple[Any, ...]:
    return (
        m.id, m.task, m.queue, *_priority(m), m.eta, m.countdown, *lease, m.args, m.kwargs, m.eta,
        m.countdown, m.expires_at, m.expires_in, m.retries, m.parent_id, m.root_id, m.group_id, m.schedule,
        m.unique_key, m.sender, m.headers, m.options, m.version,
    )  # fmt: skip


def _postgresql_element(m: Message) -> tuple[Any, ...]:
    return (
        m.id, m.task, m.queue, m.priority, m.prioritized, m.args, m.kwargs, m.eta, _as_float(m.countdown), m.expires_at,
        _as_float(m.expires_in), m.retries, m.parent_id, m.root_id, m.group_id, m.schedule, m.unique_key, m.sender,
        m.headers, m.options, m.version,
    )  # fmt: skip


def _as_float(seconds: float | None) -> float | None:
    """An int as a float: the driver takes no list of both."""
    return None if seconds is None else float(seconds)


def _postgresql_claim(
    connection: BaseDatabaseWrapper, statement: str, queue: str, limit: int, worker: str, refused: list[str]
) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, [queue, queue, *refused, limit, worker])
        return list(cursor.fetchall())


def _postgresql_record(
    connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float
) -> set[str]:
    with connection.cursor() as cursor:
        if len(outcomes) == 1:
            cursor.execute(sql("postgresql", "record_one"), _postgresql_outcome(outcomes[0], worker, clock))
        else:
            rows = [
                (o.delivery.id, o.delivery.token, o.state, o.result, o.seconds, clock - o.ended, *_failure(o))
                for o in outcomes
            ]
            cursor.execute(sql("postgresql", "record"), [*arrays(rows), worker])
        return {job_id for (job_id,) in cursor.fetchall()}


def _postgresql_outcome(outcome: Outcome, worker: str, clock: float) -> tuple[Any, ...]:
    age = clock - outcome.ended
    begun = None if outcome.seconds is None else outcome.seconds + age
    return (
        outcome.state, outcome.result, outcome.seconds, begun, age, *_failure(outcome), outcome.delivery.id, worker,
        outcome.delivery.token,
    )  # fmt: skip


def _postgresql_promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(sql("postgresql", "promote"), [limit])
        return [queue for (queue,) in cursor.fetchall()]


def _failure(outcome: Outcome) -> tuple[str, str | None, str | None, str | None]:
    failure = outcome.failure
    if failure is None:
        return "", None, None, None
    return failure.kind, failure.message, failure.arguments, failure.traceback


# SQLite: one row a statement, prepared once, in one transaction; this machine's clock


def _sqlite_enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], lease: Lease) -> int:
    moment = datetime.now(UTC)
    stamp = microseconds(moment)
    rows = [(*lease[1:], *_sqlite_row(m, moment, stamp + i, lease[0], connection)) for i, m in enumerate(messages)]
    with _together(connection, len(rows)), connection.cursor() as cursor:
        cursor.executemany(sql("sqlite", "enqueue"), rows)
        return int(cursor.rowcount)


def _sqlite_row(
    m: Message, moment: datetime, order_key: int, ready: str, connection: BaseDatabaseWrapper
) -> tuple[Any, ...]:
    run_at = m.eta if m.countdown is None else moment + timedelta(seconds=m.countdown)
    expires_at = m.expires_at if m.expires_in is None else moment + timedelta(seconds=m.expires_in)
    state = "SCHEDULED" if run_at is not None and run_at > moment else ready
    return (
        m.id, m.task, m.queue, *_priority(m), order_key, state, m.args, m.kwargs,
        as_parameter(run_at, connection), as_parameter(expires_at, connection), as_parameter(moment, connection),
        m.retries, m.parent_id, m.root_id, m.group_id, m.schedule, m.unique_key, m.sender, m.headers, m.options,
        m.version,
    )  # fmt: skip


def _sqlite_claim(
    connection: BaseDatabaseWrapper, statement: str, queue: str, limit: int, worker: str, refused: list[str]
) -> list[tuple[Any, ...]]:
    if not _has_ready(connection, queue):  # a look takes no lock, the UPDATE would take the one that writers wait for
        return []
    with connection.cursor() as cursor:
        cursor.execute(statement, [worker, queue, queue, *refused, limit])
        return list(cursor.fetchall())


def _sqlite_record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    def write(cursor: Any, outcomes: Sequence[Outcome]) -> None:
        rows = [_sqlite_outcome(outcome, worker, clock, connection) for outcome in outcomes]
        cursor.executemany(sql("sqlite", "record"), rows)

    return _record_by_count(connection, outcomes, write)


def _sqlite_outcome(outcome: Outcome, worker: str, clock: float, connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    finished_at = datetime.now(UTC) - timedelta(seconds=clock - outcome.ended)
    started_at = finished_at - timedelta(seconds=outcome.seconds) if outcome.seconds is not None else None
    return (
        outcome.state, outcome.result, outcome.seconds, as_parameter(started_at, connection),
        as_parameter(finished_at, connection), *_failure(outcome), outcome.delivery.id, worker, outcome.delivery.token,
    )  # fmt: skip


def _sqlite_promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    moment = as_parameter(datetime.now(UTC), connection)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM djtasks_job WHERE state IN ('SCHEDULED', 'RETRY') AND run_at <= %s)", [moment]
        )
        if not cursor.fetchone()[0]:
            return []
        cursor.execute(sql("sqlite", "promote"), [moment, limit])
        return [queue for (queue,) in cursor.fetchall()]


# MySQL and MariaDB: all rows spelled out in one statement; no UPDATE … RETURNING


def _mysql_enqueue(connection: BaseDatabaseWrapper, messages: Sequence[Message], lease: Lease) -> None:
    split = list(portions(list(enumerate(messages)), lambda each: each[1].size, BATCH, BATCH_SIZE))
    with _together(connection, len(split)), connection.cursor() as cursor:
        for portion in split:
            # By id, so that two who send the same ids wait for each other in one order.
            portion.sort(key=lambda each: each[1].id)
            values = [value for i, m in portion for value in _mysql_row(m, i, lease, connection)]
            cursor.execute(_repeated("mysql", "enqueue", len(portion), ",\n"), values)


def _mysql_row(m: Message, position: int, lease: Lease, connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    eta, countdown = as_parameter(m.eta, connection), _as_microseconds(m.countdown)
    return (
        m.id, m.task, m.queue, *_priority(m), position, eta, countdown, *lease, m.args, m.kwargs, eta,
        countdown, as_parameter(m.expires_at, connection), _as_microseconds(m.expires_in), m.retries, m.parent_id,
        m.root_id, m.group_id, m.schedule, m.unique_key, m.sender, m.headers, m.options, m.version,
    )  # fmt: skip


def _mysql_claim(
    connection: BaseDatabaseWrapper, statement: str, queue: str, limit: int, worker: str, refused: list[str]
) -> list[tuple[Any, ...]]:
    if not _has_ready(connection, queue):  # one round trip, not the three of a transaction
        return []
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(statement, [queue, queue, *refused, limit])
        rows = list(cursor.fetchall())
        if rows:
            places = ", ".join(["%s"] * len(rows))
            cursor.execute(
                f"UPDATE djtasks_job SET state = 'RECEIVED', worker = %s, token = token + 1 WHERE id IN ({places})",  # noqa: S608
                [worker, *(row[0] for row in rows)],
            )
    return rows


def _mysql_record(connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], clock: float) -> set[str]:
    def write(cursor: Any, outcomes: Sequence[Outcome]) -> None:
        statement = _repeated("mysql", "record", len(outcomes), "\n    UNION ALL\n")
        cursor.execute(statement, [*(value for each in outcomes for value in _mysql_outcome(each, clock)), worker])

    recorded: set[str] = set()
    for portion in portions(outcomes, _size_of, BATCH, BATCH_SIZE):
        recorded |= _record_by_count(connection, portion, write)
    return recorded


def _size_of(outcome: Outcome) -> int:
    return sum(len(text) for text in (outcome.result, *_failure(outcome)) if text)


def _mysql_outcome(outcome: Outcome, clock: float) -> tuple[Any, ...]:
    age = clock - outcome.ended
    begun = None if outcome.seconds is None else _as_microseconds(outcome.seconds + age)
    return (
        outcome.state, outcome.result, outcome.seconds, begun, _as_microseconds(age), *_failure(outcome),
        outcome.delivery.id, outcome.delivery.token,
    )  # fmt: skip


def _mysql_promote(connection: BaseDatabaseWrapper, limit: int) -> list[str]:
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, queue FROM djtasks_job WHERE state IN ('SCHEDULED', 'RETRY') AND run_at <= utc_timestamp(6) "
            "ORDER BY run_at LIMIT %s FOR UPDATE SKIP LOCKED",
            [limit],
        )
        rows = list(cursor.fetchall())
        if rows:
            cursor.execute(_repeated("mysql", "promote", len(rows), ", "), [job_id for job_id, _queue in rows])
    return [queue for _job_id, queue in rows]


def _as_microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)


Statement = Callable[..., Any]
_ENQUEUE: Final[dict[str, Statement]] = {
    "postgresql": _postgresql_enqueue,
    "sqlite": _sqlite_enqueue,
    "mysql": _mysql_enqueue,
}
_CLAIM: Final[dict[str, Statement]] = {
    "postgresql": _postgresql_claim,
    "sqlite": _sqlite_claim,
    "mysql": _mysql_claim,
}
_RECORD: Final[dict[str, Statement]] = {
    "postgresql": _postgresql_record,
    "sqlite": _sqlite_record,
    "mysql": _mysql_record,
}
_PROMOTE: Final[dict[str, Statement]] = {
    "postgresql": _postgresql_promote,
    "sqlite": _sqlite_promote,
    "mysql": _mysql_promote,
}
