"""Jobs that must run alone: their last run may have killed its process, and the next loss is surely to be their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.message import Delivery

COMPANY: Final = 10.0  # seconds for which such a job waits for the end of what runs


class Solitude:
    """Sees to it in a process that runs `runs` jobs at a time. For its I/O thread."""

    def __init__(self, broker: Broker, runs: int) -> None:
        self.broker = broker
        self._runs = runs
        self._since = 0.0  # since when (monotonic) what comes next must be the only one
        self._job: str | None = None  # beside which nothing begins
        # With others in its process a loss says little of a job; the last one that it may have is surely its own.
        self._losses = 1 if runs == 1 else max(1, settings.TASK_MAX_LOSSES - 1)

    def is_for(self, delivery: Delivery) -> bool:
        """Whether this job must run alone."""
        return delivery.losses >= self._losses

    @property
    def is_sought(self) -> bool:
        """Whether such a job waits."""
        return self._since > 0

    @property
    def is_long_sought(self) -> bool:
        """Whether it has waited for so long that what runs is not waited for any more."""
        return time.monotonic() - self._since > COMPANY

    def is_kept(self, known: Callable[[], Collection[str]]) -> bool:
        """Whether such a job runs here, or is about to; `known` tells the ids of all that does."""
        if self._job is not None and self._job not in known():
            self._job = None
        return self._job is not None

    def choose(self, claimed: list[Delivery], may_begin: Callable[[], bool]) -> list[Delivery]:
        """Of claimed jobs those that may begin here: one that must run alone, if it may begin, or the others.

        The rest is given back.
        """
        dangerous = [each for each in claimed if self.is_for(each)]
        if not dangerous:
            self._since = self._since if claimed else 0.0
            return claimed
        if claimed[0] is dangerous[0] and may_begin():
            kept, rest = claimed[:1], claimed[1:]
            self._job = kept[0].id if self._runs > 1 else None
        else:
            kept, rest = [each for each in claimed if each not in dangerous], dangerous
        others = [each for each in rest if each in dangerous]
        self._since = (self._since or time.monotonic()) if others else 0.0
        if rest:
            self.broker.release(rest)
        return kept
