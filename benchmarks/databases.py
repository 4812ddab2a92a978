"""The benchmarks' own database: made empty before a session, dropped after it."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pymysql
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from benchmarks.settings import KIND, NAME
from tests import servers

DURABILITY: Final = {  # name → question
    "sqlite": {"journal_mode": "PRAGMA journal_mode", "synchronous": "PRAGMA synchronous"},
    "postgresql": {"fsync": "SHOW fsync", "synchronous_commit": "SHOW synchronous_commit"},
    "mariadb": {
        "innodb_flush_log_at_trx_commit": "SELECT @@innodb_flush_log_at_trx_commit",
        "log_bin": "SELECT @@log_bin",
    },
}
AUTOVACUUM: Final = 150.0  # seconds for it to have its turn; it looks once a minute
# For copies of a row, by number.
NUMBERS: Final = {
    "sqlite": "(WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {0}) SELECT i FROM c)",
    "postgresql": "generate_series(1, {0}) AS numbers(i)",
    "mariadb": "(SELECT seq AS i FROM seq_1_to_{0}) AS numbers",
}
COPY: Final = {
    "sqlite": "printf('copy-%%010d', i)",
    "postgresql": "'copy-' || lpad(i::text, 10, '0')",
    "mariadb": "concat('copy-', lpad(i, 10, '0'))",
}
RANK: Final = {"sqlite": "rank", "postgresql": "rank", "mariadb": "`rank`"}  # a word of MariaDB's
# So that what follows does not wait for the disk to take the copies.
SETTLE: Final = {
    "sqlite": ["ANALYZE"],
    "postgresql": ["VACUUM ANALYZE djtasks_job", "CHECKPOINT"],
    "mariadb": ["ANALYZE TABLE djtasks_job"],
}


def create() -> None:
    """Leave the database with empty tables, whatever a run that was killed has left."""
    drop()
    if KIND != "sqlite":
        _on_server(f"CREATE DATABASE {NAME}")
    call_command("migrate", verbosity=0)


def drop() -> None:
    """Remove the database, if there is one."""
    connections.close_all()
    if KIND == "sqlite":
        for suffix in ("", "-wal", "-shm"):
            Path(f"{settings.DATABASES['default']['NAME']}{suffix}").unlink(missing_ok=True)
        return
    _on_server(f"DROP DATABASE IF EXISTS {NAME}" + (" WITH (FORCE)" if KIND == "postgresql" else ""))


def durability() -> str:
    """What the database does so that a commit survives a crash of the machine, in its own words."""
    with connections["default"].cursor() as cursor:
        return ", ".join(f"{name}={_asked(cursor, question)}" for name, question in DURABILITY[KIND].items())


def multiply(job: str, times: int) -> None:
    """Store so many copies of a job that has ended."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT * FROM djtasks_job WHERE id = %s", [job])
        others = ", ".join(f"job.{name[0]}" for name in cursor.description[1:] if name[0] != "rank")
        columns = others.replace("job.", "")
        cursor.execute(
            f"INSERT INTO djtasks_job (id, {columns}, {RANK[KIND]}) SELECT {COPY[KIND]}, {others}, job.{RANK[KIND]} "
            f"FROM djtasks_job AS job CROSS JOIN {NUMBERS[KIND].format(times)} WHERE job.id = %s",
            [job],
        )


def settle() -> None:
    """Clear up after what was loaded and ended, and have it written to the disk."""
    with connections["default"].cursor() as cursor:
        for statement in SETTLE[KIND]:
            cursor.execute(statement)


def wear() -> dict[str, float | None]:
    """What `Peer.wear` asks, of PostgreSQL, which tells it; not of one that is told never to clear up by itself."""
    if KIND != "postgresql":
        return {"dead": None, "indexes": None}
    with connections["default"].cursor() as cursor:
        if _asked(cursor, "SHOW autovacuum") == "off":
            return {"dead": None, "indexes": None}
        _wait_for_autovacuum(cursor)
        dead = _asked(
            cursor,
            "SELECT 100.0 * n_dead_tup / (n_live_tup + n_dead_tup) FROM pg_stat_user_tables "
            "WHERE relname = 'djtasks_job'",
        )
        size = "SELECT pg_indexes_size('djtasks_job')::float8"
        worn = _asked(cursor, size)
        cursor.execute("REINDEX TABLE djtasks_job")
        return {"dead": float(dead), "indexes": worn / _asked(cursor, size)}


def _wait_for_autovacuum(cursor: Any) -> None:
    """Until it has cleared up after what has just ended: it looks once a minute."""
    ended, deadline = _asked(cursor, "SELECT now()"), time.monotonic() + AUTOVACUUM
    while time.monotonic() < deadline:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        last = _asked(cursor, "SELECT last_autovacuum FROM pg_stat_user_tables WHERE relname = 'djtasks_job'")
        if last is not None and last > ended:
            return
        time.sleep(1.0)


def _asked(cursor: Any, question: str) -> Any:
    cursor.execute(question)
    return cursor.fetchone()[0]


def _on_server(statement: str) -> None:
    database = settings.DATABASES["default"]
    account = {name: database[name.upper()] for name in ("host", "port", "user", "password")}
    if KIND == "mariadb":
        with closing(pymysql.connect(**account)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
        return
    # The URL as it was found names a database into which one may log in to make another.
    with psycopg.connect(os.environ[servers.variable(KIND)], autocommit=True) as connection:
        connection.execute(statement)
