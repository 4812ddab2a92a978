"""PostgreSQL: statements that the server keeps parsed and planned, for what is done once a job.

Planning takes longer than running them. It takes a session of our own: behind a pooler that gives each transaction
another one, with psycopg 2, and where somebody looks on, they are sent as any other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.db.backends.base.base import BaseDatabaseWrapper

if find_spec("psycopg"):
    import psycopg

FIRST: Final = 5  # statements of a connection that are sent as any other: most of those of a web request live no longer
USES: Final = 3  # within a second, before a statement is prepared
KEPT: Final = 8  # prepared statements of a connection; each holds a plan in the server's memory
SERVER_PID: Final = "SELECT pg_backend_pid()"

# By connection of the driver.
_own_sessions: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_sent: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def execute(
    connection: BaseDatabaseWrapper, statement: str, parameters: Sequence[Any] | Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """Run `statement`, which returns rows, and return them."""
    connection.ensure_connection()
    if connection.queries_logged or connection.execute_wrappers or not _has_own_session(connection):
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())
    # Planned anew each second: PostgreSQL reads a table of one page as a whole, and would keep to that until the next
    # ANALYZE, though the table holds a million rows by then.
    renewed = f"{statement} -- {int(time.monotonic())}"
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        return list(cursor.execute(renewed, parameters).fetchall())


def _has_own_session(connection: BaseDatabaseWrapper) -> bool:
    """Whether what is prepared now is there the next time: a pooler tells another pid than the server that answers."""
    driver = connection.connection
    found = _own_sessions.get(driver)
    if found is None:
        _sent[driver] = _sent.get(driver, 0) + 1
        if _sent[driver] <= FIRST:
            return False
        found = _own_sessions[driver] = hasattr(driver, "prepare_threshold") and _is_direct(connection)
        if found:
            driver.prepare_threshold, driver.prepared_max = USES, KEPT
    return found


def _is_direct(connection: BaseDatabaseWrapper) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(SERVER_PID)
        (pid,) = cursor.fetchone()
    return bool(pid == connection.connection.info.backend_pid)
