"""How a worker learns of new jobs at once: it blocks on the queues' markers. Only a hint: a claim follows anyhow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions

from djtasks.brokers.redis.server import Server
from djtasks.exceptions import BrokerUnavailable

LONGEST_BLOCK: Final = 0.9  # seconds; less than a worker waits, so that an answer always comes


class Wakeup:
    """A connection of one thread that has at most one question open: which of these markers comes first?"""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Any = None
        self._is_open = False

    def fileno(self, markers: Sequence[str]) -> int:
        """A descriptor that becomes readable when one of `markers` is set, or after `LONGEST_BLOCK`.

        Raises BrokerUnavailable.
        """
        if self._connection is None:
            self._connection = self._server.connection()
        try:
            if not self._is_open:  # two answers to come would never be told apart again
                self._connection.send_command("BZPOPMIN", *markers, LONGEST_BLOCK)
                self._is_open = True
            return int(self._connection._sock.fileno())
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise BrokerUnavailable(f"Redis hung up while we began to wait for jobs: {error}") from error

    def drain(self) -> None:
        """Take the answer, or withdraw the question, which might swallow a marker. Raises BrokerUnavailable."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            if self._connection.can_read(timeout=0):
                self._connection.read_response()
            else:
                self.close()
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise BrokerUnavailable(f"Redis hung up while we waited for jobs: {error}") from error

    def close(self) -> None:
        """Close the connection; the next `fileno` opens another."""
        self._is_open = False
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
