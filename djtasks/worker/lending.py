"""The connection of the I/O thread in the hands of the thread that runs jobs, while the I/O thread sleeps.

Who has run the one job that there was stores it then, and looks for the next one itself: a hand-over between two
threads takes longer than the statement.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.conf import settings
from djtasks.half_open import Waiting


class Lending:
    """Whose turn it is: the owner's, but within `lent`."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._connection: BaseDatabaseWrapper | None = None
        self._waiting: Waiting | None = None

    def own(self, waiting: Waiting) -> None:
        """Say that this thread is the owner; `waiting` is how long it waits for its connection."""
        self._connection, self._waiting = connections[settings.DATABASE], waiting
        self._connection.inc_thread_sharing()
        self._turn.acquire()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """For the owner: within the block it asks nothing, so another thread may. Its end waits for that one's."""
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    @property
    def is_to_be_had(self) -> bool:
        """Whether the owner sleeps, and nobody else has its connection."""
        return self._connection is not None and not self._turn.locked()

    @contextmanager
    def borrowed(self) -> Iterator[bool]:
        """Within the block the owner's connection is this thread's; False if it is not to be had."""
        theirs, waiting = self._connection, self._waiting
        if theirs is None or waiting is None or not self._turn.acquire(blocking=False):
            yield False
            return
        mine = connections[settings.DATABASE]
        connections[settings.DATABASE] = theirs
        try:
            with waiting.asking():
                yield True
        finally:
            connections[settings.DATABASE] = mine
            self._turn.release()
