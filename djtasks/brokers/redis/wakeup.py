"""How a worker learns of new jobs at once: it blocks on the queues' markers (BZPOPMIN).

A marker is only a hint, a claim follows anyhow. It may be sent behind the question: then the server makes it as soon as
a marker comes, and the job comes with the wake-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions

from djtasks.brokers.redis.server import Server, is_quiet
from djtasks.exceptions import BrokerUnavailable

LONGEST_BLOCK: Final = 0.9  # seconds; less than a worker waits, so that an answer always comes
RECALL: Final = 0.005  # seconds for the answer to a question that was withdrawn, before it is withdrawn once more
RECALLS: Final = 400  # by then it should have come by itself


class Wakeup:
    """A connection of one thread that has at most one question open: which of these markers comes first?"""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Any = None
        self._id = 0  # of the connection, as the server knows it
        self._answers = 0  # that are to come

    @property
    def is_open(self) -> bool:
        """Whether there is a question whose answer has not been taken."""
        return self._answers > 0

    def fileno(self, markers: Sequence[str], then: Sequence[Any] = ()) -> int:
        """A descriptor that becomes readable when one of `markers` is set, or after `LONGEST_BLOCK`.

        The command `then` is carried out before that. A question that is open stays as it is. Raises BrokerUnavailable.
        """
        try:
            if self._connection is None:
                self._connect()
            if not self.is_open:  # the answers to two questions would never be told apart again
                commands = [("BZPOPMIN", *markers, LONGEST_BLOCK), *([then] if then else [])]
                self._connection.send_packed_command(self._connection.pack_commands(commands))
                self._answers = len(commands)
            return int(self._connection._sock.fileno())
        except (exceptions.RedisError, OSError) as error:
            raise self._hung_up(error) from error
        except BrokerUnavailable:
            self.close()
            raise

    def _connect(self) -> None:
        with self._server.waiting():
            self._connection = self._server.connection()
            self._connection.send_command("CLIENT", "ID")
            self._id = self._connection.read_response()

    def drain(self) -> Any:
        """Take the answer; a question that has none yet, and might swallow a marker, is withdrawn.

        Returns what `then` gave; None if there was none, or it failed. Raises BrokerUnavailable.
        """
        answers, self._answers = self._answers, 0
        if not answers:
            return None
        try:
            with self._server.waiting():
                self._withdraw()
                self._connection.read_response()
                return self._result() if answers > 1 else None
        except (exceptions.RedisError, OSError) as error:
            raise self._hung_up(error) from error
        except BrokerUnavailable:
            self.close()
            raise

    def _withdraw(self) -> None:
        """Have it answered now. Hanging up instead could lose a claim that is just being made."""
        if not is_quiet(self._connection):
            return
        for _ in range(RECALLS):  # the server may read this before the question, which has come by another way
            self._server.ask("CLIENT", "UNBLOCK", self._id)
            if self._connection.can_read(timeout=RECALL):
                break

    def _result(self) -> Any:
        try:
            return self._connection.read_response()
        except exceptions.ResponseError:  # a script that the server does not know yet, or a claim that will tell why
            return None

    def close(self) -> None:
        """Close the connection; the next `fileno` opens another."""
        self._answers = 0
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _hung_up(self, error: Exception) -> BrokerUnavailable:
        """Close the connection on which this error came. Returns it in our words."""
        self.close()
        return BrokerUnavailable(f"Redis hung up while we waited for jobs: {error}")
