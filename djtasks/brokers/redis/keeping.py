"""How safely the server keeps a message before its sender is told that it is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from redis import exceptions


@dataclass(frozen=True, slots=True)
class Keeping:
    """What `BROKER_OPTIONS` asks for: `durable`, on the server's disk; `replicas`, so many of which have it, too."""

    durable: bool = False
    replicas: int = 0

    def __bool__(self) -> bool:
        """Whether a sender waits for anything."""
        return self.durable or self.replicas > 0

    def command(self, seconds: float) -> tuple[Any, ...]:
        """The command that waits for it, so long at most, for all that its connection has written."""
        milliseconds = int(seconds * 1000)
        return ("WAITAOF", 1, self.replicas, milliseconds) if self.durable else ("WAIT", self.replicas, milliseconds)

    def check(self, answer: Any) -> None:
        """Raise redis-py's TimeoutError if the answer to that command says that it was not kept so."""
        on_disk, replicas = answer if self.durable else (True, answer)
        if not on_disk:
            raise exceptions.TimeoutError("the server did not write to its disk in time (appendfsync)")
        if replicas < self.replicas:
            raise exceptions.TimeoutError(
                f"{replicas} of the {self.replicas} replicas that BROKER_OPTIONS['replicas'] asks for had it in time"
            )


NOTHING: Final = Keeping()
