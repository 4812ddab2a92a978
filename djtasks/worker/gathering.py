"""Where jobs of batch tasks wait for company, until there are enough for a call, or the first has waited for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from djtasks import registry
from djtasks.batches import Batch
from djtasks.message import Delivery

Call = tuple[Delivery, ...]  # what is to run in one call: jobs of a batch task, or a single one of any


@dataclass(slots=True, eq=False)
class Gathered:
    """Jobs of one task that wait for more, `room` at most, until `until` (monotonic)."""

    task: str
    size: int
    until: float
    deliveries: list[Delivery] = field(default_factory=list)
    looks_at: float = 0.0  # when it is worth while to look for company again (monotonic)

    @property
    def room(self) -> int:
        return self.size - len(self.deliveries)

    @property
    def queue(self) -> str:
        """The queue that its first job came from."""
        return self.deliveries[0].message.queue


class Gathering:
    """What a child gathers, by task; up to `most` in a call. Changed by its I/O thread alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._gathered: dict[str, Gathered] = {}

    def __len__(self) -> int:
        """How many jobs wait here."""
        return sum(len(each.deliveries) for each in list(self._gathered.values()))

    def __bool__(self) -> bool:
        return bool(self._gathered)

    def add(self, deliveries: Iterable[Delivery], is_alone: Callable[[Delivery], bool]) -> list[Call]:
        """Take those of claimed jobs that wait for others. Returns the calls that can be made now, in their order.

        A job that `is_alone` has a call of its own.
        """
        calls: list[Call] = []
        for delivery in deliveries:
            batch = None if is_alone(delivery) else _batch_of(delivery.message.task)
            calls += [(delivery,)] if batch is None else self._gather(delivery, batch)
        return calls

    def _gather(self, delivery: Delivery, batch: Batch) -> list[Call]:
        task = delivery.message.task
        gathered = self._gathered.get(task)
        if gathered is None:
            until = time.monotonic() + batch.wait
            gathered = self._gathered[task] = Gathered(task, min(batch.size, self._most), until)
        gathered.deliveries.append(delivery)
        return [self.take(gathered)] if gathered.room <= 0 else []

    def take(self, gathered: Gathered) -> Call:
        """What was gathered, which is to begin."""
        del self._gathered[gathered.task]
        return tuple(gathered.deliveries)

    def open(self) -> list[Gathered]:
        """What waits for more."""
        return list(self._gathered.values())

    def patience(self) -> float | None:
        """Seconds until the next call is to begin as it is; None if nothing waits."""
        untils = [each.until for each in self._gathered.values()]
        return max(0.0, min(untils) - time.monotonic()) if untils else None

    def deliveries(self) -> Sequence[Delivery]:
        """All jobs that wait here."""
        return [delivery for each in list(self._gathered.values()) for delivery in each.deliveries]

    def clear(self) -> list[Delivery]:
        """Let all go, to be given back."""
        found, self._gathered = list(self.deliveries()), {}
        return found


def _batch_of(name: str) -> Batch | None:
    task = registry.find(name)
    return None if task is None else task.batch
