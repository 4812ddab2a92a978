"""Nobody waits for ever for a database that will not answer.

A connection may be half-open: the other end, or something between, has gone and says nothing. Drivers wait then for as
long as TCP does, which may be hours. So a thread beside those that talk to the database cuts the connection of one that
has not got on for too long. Its owner meets the error that it would meet had the server hung up, and goes on as then.

The same from the other end: who stands still within a transaction, or cannot be reached any more, holds locks on jobs
that others are to take over. So the server ends a transaction of ours in which nothing was asked for that long.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from weakref import ref

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.conf import settings

Connect = Callable[[dict[str, Any]], Any]

logger = logging.getLogger("djtasks.worker")

LOOK_EVERY: Final = 0.5  # seconds between two looks at who waits too long; at least
CONNECT_TIMEOUT: Final = 5  # seconds, whole ones; psycopg would try for 130
READ_TIMEOUT: Final = 60  # seconds; longer than MySQL itself waits for a row's lock
MOST_PATIENCE: Final = 64  # times the patience at first: what is slow, as it waits for a lock, is cut ever more rarely


def make_own(connection: BaseDatabaseWrapper) -> None:
    """Make this thread's connection, which is not made yet, one of our own; those of the user's code stay as they are.

    It is given up if it does not come about: while the driver makes it, nobody else gets at its socket. It comes from
    no pool, since it is kept as long as the process lives. What else OPTIONS say counts.
    """
    ours = {
        "postgresql": {"connect_timeout": CONNECT_TIMEOUT},
        "mysql": {"connect_timeout": CONNECT_TIMEOUT, "read_timeout": READ_TIMEOUT},
    }
    options = ours.get(connection.vendor, {}) | connection.settings_dict.get("OPTIONS", {})
    options.pop("pool", None)
    connection.settings_dict = {**connection.settings_dict, "OPTIONS": options}
    connect: Connect = connection.get_new_connection
    if connection.vendor == "mysql":
        if connection.Database.__name__ == "pymysql":  # type: ignore[attr-defined]
            connect = _greeted_soon(connect)
        connect = _told_not_to_idle(connect)
    if connection.vendor == "postgresql":
        connect = _asking_not_to_idle(connect)
    connection.get_new_connection = connect  # type: ignore[assignment, method-assign]


def _longest_idle() -> int:
    """Seconds for which nothing is asked in a transaction of ours, whole ones."""
    return int(max(1, math.ceil(settings.WORKER_LOST_AFTER / 2)))


def _asking_not_to_idle(connect: Connect) -> Connect:
    """PostgreSQL's `connect` with a limit to idle transactions, in the start of the session: it is the session's own.

    A pooler such as PgBouncer, whose sessions are not ours, may refuse that: then there is no limit.
    """
    refuses = False

    def connect_with_limit(params: dict[str, Any]) -> Any:
        nonlocal refuses
        limit = f"-c idle_in_transaction_session_timeout={_longest_idle()}s"
        if not refuses:
            try:
                return connect({**params, "options": f"{params.get('options') or ''} {limit}".strip()})
            except Exception as error:
                refuses = "startup parameter" in str(error) or "option" in str(error)
                if not refuses:
                    raise
        return connect(params)

    return connect_with_limit


def _told_not_to_idle(connect: Connect) -> Connect:
    """MariaDB's `connect` with a limit to idle transactions. MySQL has none."""

    def connect_with_limit(params: dict[str, Any]) -> Any:
        driver = connect(params)
        with contextlib.suppress(Exception), contextlib.closing(driver.cursor()) as cursor:
            cursor.execute(f"SET SESSION idle_transaction_timeout = {_longest_idle()}")
        return driver

    return connect_with_limit


def _greeted_soon(connect: Connect) -> Connect:
    """PyMySQL's `connect` with the time to connect as the limit of the whole of it.

    For the server's greeting it would wait as for any answer: for as long as `read_timeout` says.
    """

    def connect_soon(params: dict[str, Any]) -> Any:
        driver = connect({**params, "read_timeout": params["connect_timeout"]})
        driver._read_timeout = params["read_timeout"]
        return driver

    return connect_soon


class Waiting:
    """How long the thread that makes this has waited on its `connection`; at first for `patience` seconds at most.

    The thread says `begins` before it asks, `moves` each time that it gets on, and `rests` when it asks nothing. No
    user code uses an `own` connection.
    """

    def __init__(self, connection: BaseDatabaseWrapper, patience: float, *, own: bool = True) -> None:
        self._connection = connection
        self._patience = patience  # seconds
        self._times = 1
        self._since: float | None = None  # monotonic
        self._was_slow = False  # whether something was, since we moved
        self._seen: tuple[Any, int] | None = None  # a driver's connection and its descriptor
        if own:
            make_own(connection)
            self._see_new_ones()
        if connection.vendor != "sqlite":
            _watch(self)

    def begins(self) -> None:
        """From here on something may be asked, or something else than before."""
        since, self._since = self._since, time.monotonic()
        self._was_slow = self._was_slow or (since is not None and not self._is_quick(self._since - since))
        self._see(self._connection.connection)

    def moves(self) -> None:
        """We get on: what was asked since we moved is answered. If all was quick, more time is given no longer."""
        since, self._since = self._since, time.monotonic()
        if since is not None and self._is_quick(self._since - since) and not self._was_slow:
            self._times = 1
        self._was_slow = False
        self._see(self._connection.connection)

    def _is_quick(self, seconds: float) -> bool:
        return seconds < self._patience / 2

    def rests(self) -> None:
        """Nothing is asked from here on."""
        self._since = None

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Within the block something is asked."""
        self.begins()
        try:
            yield
        finally:
            self.moves()
            self.rests()

    @property
    def elsewhere(self) -> contextlib.AbstractContextManager[None]:
        """What this thread enters, again and again, while it waits for something else: the clock stands still."""
        return _Elsewhere(self)

    def cut_if_stuck(self) -> float:
        """End the wait if it is too long. For the thread that looks after the others.

        Returns for how many seconds it cannot become so.
        """
        since, longest = self._since, self._patience * self._times
        waited = 0.0 if since is None else time.monotonic() - since
        if waited < longest:
            return min(self._patience, longest - waited)
        driver, descriptor = self._seen or (None, -1)
        with contextlib.suppress(Exception), socket.socket(fileno=os.dup(descriptor)) as copy:
            # Still the same wait on the same connection; so the copy is of its socket, not of one with the same number.
            if self._since == since and self._connection.connection is driver:
                self._times = min(self._times * 2, MOST_PATIENCE)
                logger.warning("The database has not answered for %.1f s, so its connection is cut", waited)
                copy.shutdown(socket.SHUT_RDWR)
        return 0.0

    def _see(self, driver: Any) -> None:
        """Note the descriptor of a connection while it asks nothing: mysqlclient tells it to no other thread then."""
        if driver is not None and (self._seen is None or self._seen[0] is not driver):
            with contextlib.suppress(Exception):  # it is closed
                self._seen = driver, _descriptor_of(driver)

    def _see_new_ones(self) -> None:
        connect = self._connection.get_new_connection

        def seen(params: dict[str, Any]) -> Any:
            driver = connect(params)
            self._see(driver)
            return driver

        self._connection.get_new_connection = seen  # type: ignore[assignment, method-assign]


class _Elsewhere(contextlib.AbstractContextManager[None]):
    """The clock stands still within it. It stands on the way of a job that comes: no generator is as quick."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._waited: list[float | None] = []  # seconds until it was entered; None: the clock stood

    def __enter__(self) -> None:
        waiting = self._waiting
        self._waited.append(None if waiting._since is None else time.monotonic() - waiting._since)
        waiting._since = None

    def __exit__(self, *_: object) -> None:
        if (waited := self._waited.pop()) is not None:
            self._waiting._since = time.monotonic() - waited


class _Here(threading.local):
    """How long this thread, which runs the user's code, waits where we ask something on its connection."""

    waiting: Waiting | None = None


_here = _Here()


def waiting_here(*, own: bool = True) -> Waiting:
    """How long this thread waits for our database."""
    return Waiting(connections[settings.DATABASE], settings.WORKER_LOST_AFTER / 2, own=own)


def asking_here() -> contextlib.AbstractContextManager[None]:
    """Within the block we ask something on a connection of the user's code."""
    if _here.waiting is None:
        _here.waiting = waiting_here(own=False)
    return _here.waiting.asking()


def _descriptor_of(driver: Any) -> int:
    """The descriptor of a driver's connection. Raises if there is none."""
    return int(driver.fileno() if hasattr(driver, "fileno") else driver._sock.fileno())  # PyMySQL keeps its own


class _Lookout:
    """The one thread of a process that looks after the others."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._all: list[ref[Waiting]] = []  # a set must not grow while another thread walks it
        self._has_more = threading.Event()
        threading.Thread(target=self._run, name="djtasks-lookout", daemon=True).start()

    def add(self, waiting: Waiting) -> None:
        """Look after this one, too."""
        self._all.append(ref(waiting, self._all.remove))
        self._has_more.set()

    def _run(self) -> None:
        pause = LOOK_EVERY
        while True:
            # Not more often than need be: an idle process would wake for nothing else.
            if self._has_more.wait(pause):
                self._has_more.clear()
            there = [waiting for each in self._all.copy() if (waiting := each()) is not None]
            safe = min((each.cut_if_stuck() for each in there), default=threading.TIMEOUT_MAX)
            del there  # or those that end are kept while we sleep
            pause = max(LOOK_EVERY, safe)


_lookouts: list[_Lookout] = []
_lock = threading.Lock()


def _watch(waiting: Waiting) -> None:
    with _lock:
        if not _lookouts or _lookouts[-1].pid != os.getpid():  # threads do not go on in a fork
            _lookouts[:] = [_Lookout()]
        _lookouts[-1].add(waiting)
