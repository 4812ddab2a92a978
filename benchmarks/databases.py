"""The benchmarks' own database: made empty before a session, dropped after it."""

from __future__ import annotations

import os
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


def _asked(cursor: Any, question: str) -> object:
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
