"""How a worker learns of new jobs at once. Only a hint: polling is what correctness rests on.

PostgreSQL: LISTEN/NOTIFY. SQLite: PRAGMA data_version, which changes when another connection has
written. MySQL and MariaDB have nothing of the kind: there one question tells whether a job is ready, and the
pauses between two such looks grow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.brokers.base import Watcher
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import statements

CHANNEL: Final = "djtasks"
NOTIFY_PAUSE: Final = 0.002  # seconds; a worker that has just worked looks again within that time anyhow
BLIND_PAUSE: Final = 0.1  # seconds until a look where nothing tells of new jobs
DATA_VERSION_PAUSE: Final = 0.005  # seconds between two looks at data_version


class Wakeup:
    """The wake-up of one connection. `listens` is False where a pooler stands between (`{"listen": False}`)."""

    def __init__(self, connection: BaseDatabaseWrapper, listens: bool = True) -> None:
        self.connection = connection
        self.listens = listens and connection.vendor == "postgresql"
        self._listening: Any = None  # the driver's connection that LISTEN was said on
        self._version: int | None = None

    def fileno(self) -> int | None:
        """A descriptor that becomes readable at a NOTIFY; None where there is none."""
        if not self.listens:
            return None
        self._listen()
        with self.connection.wrap_database_errors:  # the driver tells of a connection that was lost meanwhile
            return int(self.connection.connection.fileno())

    def drain(self) -> bool:
        """Take the notifications that have come. Returns whether there were any."""
        driver = self.connection.connection
        if self._listening is None or driver is not self._listening:
            return False
        with self.connection.wrap_database_errors:
            return bool(list(driver.notifies(timeout=0)))

    def watcher(self, queues: Sequence[str]) -> Watcher:
        """SQLite: whether another connection has written since the last look. MySQL: whether a job is in `queues`."""
        if self.connection.vendor == "sqlite":
            version = self._asked("PRAGMA data_version")
            return Watcher(lambda: self._is_new(version()), is_free=True)
        has_ready = self._asked(*statements.ready_in(queues))
        return Watcher(lambda: bool(has_ready()), is_free=False)

    def _asked(self, *statement: Any) -> Callable[[], int]:
        """What asks the driver itself for one number, and nothing else: an idle worker asks all the time."""
        self.connection.ensure_connection()
        cursor = self.connection.connection.cursor()
        errors = self.connection.Database.Error  # type: ignore[attr-defined]

        def ask() -> int:
            try:
                cursor.execute(*statement)
                (found,) = cursor.fetchone()
                return int(found)
            except errors as error:
                raise BrokerUnavailable(f"The database cannot be reached: {error}") from error

        return ask

    def _is_new(self, version: int) -> bool:
        before, self._version = self._version, version
        return before != version

    def wait(self, timeout: float) -> None:
        """Block until a job may be ready, at most `timeout` seconds."""
        if self.connection.vendor == "sqlite":
            self._wait_for_change(timeout)
        elif self.listens:
            self._listen()
            with self.connection.wrap_database_errors:
                list(self.connection.connection.notifies(timeout=timeout, stop_after=1))
        else:
            time.sleep(min(timeout, BLIND_PAUSE))

    def _wait_for_change(self, timeout: float) -> None:
        deadline, has_changed = time.monotonic() + timeout, self.watcher(()).may_be_ready
        while not has_changed() and time.monotonic() < deadline:
            time.sleep(DATA_VERSION_PAUSE)

    def _listen(self) -> None:
        self.connection.ensure_connection()
        if self._listening is not self.connection.connection:
            with self.connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            self._listening = self.connection.connection


class Notifier:
    """Says NOTIFY after commits, at most once per `NOTIFY_PAUSE`: the first of a burst is told at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0.0

    def after_commit(self, connection: BaseDatabaseWrapper, queues: Iterable[str]) -> None:
        """Tell the workers once the open transaction has committed; at once without one."""
        if connection.vendor == "postgresql":
            names = sorted(set(queues))
            transaction.on_commit(lambda: self._notify(connection, names), using=connection.alias, robust=True)

    def _notify(self, connection: BaseDatabaseWrapper, queues: list[str]) -> None:
        with self._lock:
            if time.monotonic() - self._last < NOTIFY_PAUSE:
                return
            self._last = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, ",".join(queues)[:7000]])
