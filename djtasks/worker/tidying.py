"""What a thread that runs jobs leaves behind between two of them: nothing of the first to the second."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Final

from django.db import close_old_connections, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("djtasks.worker")

CONNECTION_CHECK: Final = 1.0  # seconds between two checks of a thread's connections


class _Checked(threading.local):
    """When this thread's connections were looked at last (monotonic)."""

    at = 0.0


_checked = _Checked()


def tidy_up() -> None:
    """Leave nothing of one job to the next in this thread: queries, transactions, broken or old connections."""
    reset_queries()
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or (connection.connection is not None and not connection.get_autocommit()):
            logger.warning("A job left the connection %r inside a transaction; it is closed", connection.alias)
            _close(connection)
    check_connections()


def check_connections() -> None:
    """Let Django close what CONN_MAX_AGE says, and test what CONN_HEALTH_CHECKS says; as it does around a request.

    Before a job, as the one before may be long ago, and after it, so that nobody holds a connection for nothing.
    """
    now = time.monotonic()
    if now - _checked.at > CONNECTION_CHECK:
        _checked.at = now
        close_old_connections()


def close_connections() -> None:
    """Close this thread's connections to databases: what they were doing was cut off."""
    for connection in connections.all(initialized_only=True):
        with contextlib.suppress(Exception):
            _close(connection)


def close_for_fork() -> None:
    """Close all, and the pools that Django keeps: forks would share their connections, and lack their threads."""
    for connection in connections.all(initialized_only=True):
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()


def _close(connection: BaseDatabaseWrapper) -> None:
    """Close a connection whatever transaction it is in, so that its next use opens a new one."""
    # Within an atomic block Django would keep the closed connection until the block's end, which never comes.
    connection.in_atomic_block = False
    connection.savepoint_ids, connection.run_on_commit = [], []
    connection.needs_rollback = False
    connection.close()
