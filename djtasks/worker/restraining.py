"""What stands between a claim and a run: the limits on tasks and queues, asked of the broker for a whole batch.

A job without a limit passes at the cost of one look into a dict. What is limited is let through, held here for its
slot, or given back to wait for its turn, in one step with the others of its key.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from django.db import DatabaseError, InterfaceError, connections

from djtasks import registry
from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import CONCURRENCY, RATE, Delivery, Message
from djtasks.models import statements
from djtasks.restraint import UNLIMITED, Restraint, recall, restraint_on

logger = logging.getLogger("djtasks.worker")

MOST_HELD: Final = 100  # jobs
READ_EVERY: Final = 2.0  # seconds after which a job waits for a look at what an operator has set
READ_IDLE: Final = 1.0  # the same where nothing waits: so no job has to
AGAIN: Final = 0.25  # seconds until a look that failed is made again
SHORTEST_WINDOW: Final = 0.01  # seconds from its slot within which a job must begin; else the interval
HASTE: Final = 0.7  # part of the window that is used: the rest is for what lies between here and the task's own code
AHEAD: Final = 0.8  # seconds before its slot from which on a job is held for it: made ready in half of that
AHEAD_WITH_PLACE: Final = 0.2  # the same of one that holds a place meanwhile
AT_ONCE: Final = 0.01  # seconds of work for which places are taken ahead
ANSWERS: Final = 10  # of the broker, of which the quickest tells how far away it is


@dataclass(order=True, slots=True)
class Held:
    """A job that is to begin at its slot: not before `start`, nor after `end` (monotonic seconds)."""

    start: float
    number: int
    end: float = field(compare=False)
    delivery: Delivery = field(compare=False)


class Restraints:
    """The limits as one process sees them. For its I/O thread."""

    def __init__(self, broker: Broker, runs: int = 1) -> None:
        self.broker = broker
        self._runs = runs  # jobs that run here at a time
        self._read = float("-inf")
        self._again_at: float | None = None  # after a look that failed
        self._watches_until = 0.0
        self._rates: dict[str, str] = {}
        self._queues: dict[str, tuple[str, int | None]] = {}
        self._uncalled: tuple[set[str], set[str]] = set(), set()  # tasks and queues whose limits have changed
        self._known: dict[tuple[str, str], Restraint | None] = {}
        self._number = 0
        self._spreads: deque[float] = deque(maxlen=ANSWERS)

    def on(self, message: Message) -> Restraint | None:
        """The limits on a job; None if there are none, or its task is unknown."""
        name = message.task, message.queue
        try:
            return self._known[name]
        except KeyError:
            task, of_queue = registry.find(message.task), self._queues.get(message.queue, UNLIMITED)
            restraint = self._known[name] = None if task is None else restraint_on(task, self._rates, of_queue)
            return restraint

    def are_on(self, deliveries: Sequence[Delivery]) -> bool:
        """Whether there are limits on any of these jobs."""
        return any(self.on(each.message) is not None for each in deliveries)

    def look(self, every: float = READ_EVERY) -> None:
        """See what an operator has set, if the last look is `every` seconds ago.

        Who gets no answer goes on by what was set before, and looks again soon. Raises what the database does, and
        BrokerUnavailable, only at the first look.
        """
        if time.monotonic() < (self._again_at or self._read + every):
            return
        try:
            self._see()
        except (BrokerUnavailable, DatabaseError, InterfaceError) as error:
            if self._read == float("-inf"):
                raise
            if not self._again_at:
                logger.warning("Limits that an operator has set cannot be read; those read before count: %s", error)
            self._again_at = time.monotonic() + AGAIN
            with contextlib.suppress(DatabaseError, InterfaceError):
                connections[settings.DATABASE].close_if_unusable_or_obsolete()
        else:
            self._read, self._again_at = time.monotonic(), None

    def _see(self) -> None:
        rates, queues = self._rates, self._queues
        self._rates, self._queues = statements.limits_set(connections[settings.DATABASE])
        self._known = {}
        if self._read > float("-inf"):
            # Who sees it last calls last those that he may have sent into the old line meanwhile.
            self._uncalled[0].update(task for task, _rate in rates.items() ^ self._rates.items())
            self._uncalled[1].update(queue for queue, _limits in queues.items() ^ self._queues.items())
        recall(self.broker, *self._uncalled)
        self._uncalled = set(), set()

    def watch(self) -> None:
        """`look`, too, for a while after `heed`: who has sent jobs into a line by an old rate calls it.

        Nobody else would: what waits there for an hour is not claimed before.
        """
        if self._watches_until > time.monotonic():
            self.look()

    def heed(self) -> None:
        """Let `watch` look for a while, as something was limited, or came here without a claim."""
        self._watches_until = time.monotonic() + 2 * READ_EVERY

    def let_through(
        self,
        deliveries: Sequence[Delivery],
        hold: Callable[[Sequence[Held]], None],
        *,
        held: int,
        here: Iterable[Delivery],
        seconds: float | None,
    ) -> list[Delivery]:
        """Those of claimed jobs that may run at once; `hold` gets those for slots. The others are given back, to wait.

        `held`: how many are held here for their slots; `here`: what runs and waits here; `seconds`: how long one takes.
        Raises BrokerUnavailable.
        """
        limited = [(each, found) for each in deliveries if (found := self.on(each.message)) is not None]
        free = {each.id: each for each in deliveries}
        restrained = [(each, found) for each, found in limited if not _ends_without_a_run(each)]
        for each, _found in restrained:
            del free[each.id]
        self.heed()
        # In this order: a slot does not wait for a place; but what has a place and no slot gives it back at once.
        placed = self._with_places(restrained, Counter(_limits_of(here)), seconds)
        for each in self._with_slots(placed, self._runs * _room(seconds) - held, hold):
            free[each.id] = each
        return [free[each.id] for each in deliveries if each.id in free]

    def _with_places(
        self, restrained: Sequence[tuple[Delivery, Restraint]], here: Counter[str], seconds: float | None
    ) -> list[tuple[Delivery, Restraint]]:
        passed = [(each, limits) for each, limits in restrained if limits.places is None or _has_place(each)]
        groups: dict[tuple[str, int], list[tuple[Delivery, Restraint]]] = {}
        for each, limits in restrained:
            if limits.places is not None and not _has_place(each):
                groups.setdefault((limits.key_of_places(each.message), limits.places), []).append((each, limits))
        for (key, places), group in groups.items():
            most = max(self._runs, int(AT_ONCE / seconds)) if seconds else self._runs
            deliveries = [each for each, _limits in group]
            taken = self.broker.take_places(deliveries, key, places, most=max(0, most - here[key]))
            passed += [(each, group[0][1]) for each in taken]
        return passed

    def _with_slots(
        self, restrained: Sequence[tuple[Delivery, Restraint]], room: int, hold: Callable[[Sequence[Held]], None]
    ) -> list[Delivery]:
        passed = [each for each, limits in restrained if limits.interval is None]
        groups: dict[tuple[str, float, float], list[Delivery]] = {}
        for each, limits in restrained:
            if limits.interval is not None:
                ahead = AHEAD if limits.places is None else AHEAD_WITH_PLACE
                groups.setdefault((limits.key_of_rate(each.message), limits.interval, ahead), []).append(each)
        for (key, interval, ahead), group in groups.items():
            granted = self.broker.defer(group, key, interval, ahead=ahead, most=max(0, room))
            hold(self._held(granted))  # now: it would miss its slot while the next key is asked for
            room -= len(granted)
        return passed

    def _held(self, granted: Sequence[Delivery]) -> list[Held]:
        found: list[Held] = []
        for each in granted:
            rate = next(grant for grant in each.grants if grant.limit.startswith(RATE))
            if not found:
                self._spreads.append(rate.spread)
            window = max(rate.interval / 1_000_000, SHORTEST_WINDOW) * HASTE
            # What the quickest answer takes, too, all are late by; else no slot could be kept by who is far away.
            doubt = rate.spread - min(self._spreads)
            self._number += 1
            found.append(Held(rate.start, self._number, rate.start - doubt + window, each))
        return found


def _has_place(delivery: Delivery) -> bool:
    return any(grant.limit.startswith(CONCURRENCY) for grant in delivery.grants)


def _room(seconds: float | None) -> int:
    """How many jobs of so many seconds may be held for their slots: what takes half of the time until then."""
    return max(1, min(MOST_HELD, int(AHEAD / 2 / max(seconds, 1e-6)))) if seconds is not None else 1


def _limits_of(deliveries: Iterable[Delivery]) -> Iterable[str]:
    """The keys of the places that these hold."""
    return (grant.key for each in deliveries for grant in each.grants if grant.limit.startswith(CONCURRENCY))


def _ends_without_a_run(delivery: Delivery) -> bool:
    """Whether it will not run at all, so that no limit counts."""
    expires_at = delivery.message.expires_at
    return delivery.revoked or (expires_at is not None and expires_at <= datetime.now(UTC))


def next_of(held: list[Held]) -> tuple[Delivery | None, list[Delivery], float | None]:
    """Take from a heap what is to begin now. Also what was too late for its slot, and the seconds until the next."""
    late: list[Delivery] = []
    now = time.monotonic()
    while held and held[0].start <= now:
        first = heapq.heappop(held)
        if now <= first.end:
            return first.delivery, late, None
        late.append(first.delivery)
    return None, late, held[0].start - now if held else None
