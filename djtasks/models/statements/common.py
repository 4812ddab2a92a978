"""What the vendors' statements share: their texts, and rows made of messages and read as deliveries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import resources
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.exceptions import ImproperlyConfigured
from djtasks.message import Delivery, Message, Outcome
from djtasks.models.fields import as_utc

VENDORS: Final = ("postgresql", "sqlite", "mysql")
BATCH: Final = 500  # rows a statement where each row is spelled out
BATCH_SIZE: Final = 4 * 1024 * 1024  # characters of such a statement; a server's max_allowed_packet may be 16 MiB
_ROW: Final = re.compile(r"-- row\n(.*)\n-- end of row\n", re.DOTALL)
_COMMENT: Final = re.compile(r"^--(?! row| end of row).*\n", re.MULTILINE)

CLOCKS: Final = {"postgresql": "clock_timestamp()", "mysql": "utc_timestamp(6)"}  # SQLite has this machine's

Lease = tuple[str, str, int]  # of what is due at once: state, worker, token


@cache
def sql(vendor: str, name: str) -> str:
    """The statement `name` for `vendor`, or the one for all, without comments.

    Raises ImproperlyConfigured for a vendor that djtasks does not serve.
    """
    if vendor not in VENDORS:
        raise ImproperlyConfigured(f"djtasks runs on {', '.join(VENDORS)} (MariaDB is mysql), not on {vendor}.")
    folder = resources.files("djtasks.models").joinpath("sql")
    own, common = (folder.joinpath(place, f"{name}.sql") for place in (vendor, "common"))
    if own.is_file():
        return _COMMENT.sub("", own.read_text("utf-8"))
    text = _COMMENT.sub("", common.read_text("utf-8"))
    return text.replace('"', "`") if vendor == "mysql" else text  # how it quotes names


def repeated(vendor: str, name: str, times: int, separator: str) -> str:
    statement = sql(vendor, name)
    return _ROW.sub(lambda match: f"{separator.join([match[1]] * times)}\n", statement)


def together(connection: BaseDatabaseWrapper, statements: int) -> AbstractContextManager[Any]:
    """A transaction if there are several statements; one alone is its own."""
    return transaction.atomic(using=connection.alias) if statements > 1 else nullcontext()


def ready_in(queues: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What asks whether a job is ready in one of these queues, and its values."""
    places = ", ".join(["%s"] * len(queues)) or "NULL"
    return f"SELECT EXISTS (SELECT 1 FROM djtasks_job WHERE state = 'PENDING' AND queue IN ({places}))", queues  # noqa: S608


def has_ready(connection: BaseDatabaseWrapper, queue: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(*ready_in([queue]))
        return bool(cursor.fetchone()[0])


def priority(m: Message) -> tuple[str | None, int, str | None, int]:
    """Priority and rank, each as the queue whose default goes before (None: somebody chose it), and the value."""
    queue = None if m.prioritized else m.queue
    return queue, m.priority, queue, m.priority


def delivery(row: Sequence[Any], worker: str, connection: BaseDatabaseWrapper) -> Delivery:
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


def failure(outcome: Outcome) -> tuple[str, str | None, str | None, str | None]:
    error = outcome.failure
    if error is None:
        return "", None, None, None
    return error.kind, error.message, error.arguments, error.traceback


class _SomeAreForeign(Exception):
    """Rolls back a batch of which not every row was ours."""


def record_by_count(
    connection: BaseDatabaseWrapper, outcomes: Sequence[Outcome], write: Callable[[Any, Sequence[Outcome]], None]
) -> set[str]:
    """Record without RETURNING: all at once, and one by one if the count says that not all were ours."""
    if len(outcomes) == 1:
        with connection.cursor() as cursor:
            write(cursor, outcomes)
            return {outcomes[0].delivery.id} if cursor.rowcount == 1 else set()
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
