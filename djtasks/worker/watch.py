"""Who is alive: a look at who moves."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Watch:
    """Who has not been seen to move for a while, by this process's own clock.

    Only time in which this process itself looked without a gap counts: after an outage, or a pause
    of its own, nobody is presumed dead.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience  # seconds
        self._seen: dict[str, tuple[object, float]] = {}
        self._last_look = 0.0

    def look(self, standing: Mapping[str, object]) -> list[str]:
        """Who of `standing` (name → what would change if it moved) has stood still for `patience` seconds."""
        now = time.monotonic()
        if now - self._last_look > self.patience / 2:
            self._seen = {}
        self._last_look = now
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == what else (what, now)
            for name, what in standing.items()
        }
        return [name for name, (_, since) in self._seen.items() if now - since >= self.patience]

    def restart(self) -> None:
        """Forget what was seen: the store did not answer, so nobody could have been seen moving."""
        self._seen = {}
