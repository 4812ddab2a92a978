"""How many children there are, where that follows the work: `--autoscale MAX,MIN`."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from djtasks.exceptions import ImproperlyConfigured
from djtasks.worker.slots import Slots

LOOK: Final = 1.0  # seconds between two looks
IDLE: Final = 10.0  # seconds without a job after which a child is one too many


class Scale:
    """Looks at what the children of `slots` do. `is_waiting`: whether jobs wait in the queues, as the keeper says."""

    def __init__(self, slots: Slots, least: int, most: int) -> None:
        self.slots = slots
        self.least = least
        self.most = most
        self.is_waiting = False
        self._processed: dict[int, int] = {}  # by slot: how many jobs had been run there at the last look
        self._worked: dict[int, float] = {}  # by slot: when it was last seen at work (monotonic)
        self._next = 0.0

    def missing(self, children: Collection[int]) -> int:
        """How many children more are wanted, with `children` in these slots; -1: one less, see `idlest`.

        More, up to twice as many, while jobs wait and every child works; one less if one has had nothing to do for a
        while. Looks once in a while, and says 0 in between.
        """
        now = time.monotonic()
        if now < self._next:
            return 0
        self._next = now + LOOK
        self._look(children, now)
        if len(children) < self.least:
            return self.least - len(children)
        if self.is_waiting and all(self._worked[index] == now for index in children):
            return min(len(children), self.most - len(children))
        is_idle = now - self._worked[self.idlest(children)] > IDLE
        return -1 if is_idle and len(children) > self.least else 0

    def idlest(self, children: Collection[int]) -> int:
        """The slot of that child that has worked least lately."""
        return min(children, key=lambda index: self._worked[index])

    def _look(self, children: Collection[int], now: float) -> None:
        for index in children:
            processed, _failed = self.slots.counts(index)
            if self.slots.busy(index) or processed != self._processed.get(index) or index not in self._worked:
                self._worked[index] = now
            self._processed[index] = processed
        for gone in set(self._worked) - set(children):
            del self._worked[gone]


def bounds(text: str) -> tuple[int, int]:
    """The most and the least processes that `--autoscale MAX,MIN` asks for; MIN is 1 if left out.

    Raises ImproperlyConfigured.
    """
    try:
        most, least = [int(each) for each in f"{text},1".split(",")[:2]]
    except ValueError:
        raise ImproperlyConfigured(f"--autoscale takes MAX,MIN as in 10,2, not {text!r:.50}.") from None
    if least < 1 or most < least or text.count(",") > 1:
        raise ImproperlyConfigured(f"--autoscale takes MAX,MIN as in 10,2, the least at least 1, not {text!r:.50}.")
    return most, least
