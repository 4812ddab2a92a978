"""Waiting until the queues are empty: before maintenance, a change of the broker, the end."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from djtasks import periodic
from djtasks.brokers import Broker, get_broker
from djtasks.models import Outbox, PeriodicTask
from djtasks.models.fields import utc_now
from djtasks.queues import Standing, standing

AHEAD: Final = 60.0  # seconds: what is due within them is waited for, as most retries are
LOOK_EVERY: Final = 0.5  # seconds, and at most a fifth of the time, where looking takes long
QUIET_LOOKS: Final = 2  # one alone might fall between a job's end and the sending of what follows it
PATIENCE: Final = 30.0  # seconds for a worker to come, as in a deploy, or for somebody to end a pause

Ending = Literal["drained", "timeout", "stuck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What stands in one queue. `scheduled` wait for a time, the first for `due_at`, or some of them for a limit.

    `is_soon`: they are waited for, too. `obstacle`: "paused", "unserved", or "" if its jobs can run.
    """

    queue: str
    ready: int
    running: int
    scheduled: int
    due_at: datetime | None = None
    is_soon: bool = False
    obstacle: str = ""

    @property
    def is_drained(self) -> bool:
        return not (self.ready or self.running or self.is_soon)

    @property
    def is_stuck(self) -> bool:
        """Jobs are left that nobody will run."""
        return bool(self.obstacle) and not self.running and not self.is_drained


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found. `unsent` messages wait for Redis. `ending` stands in the last look only."""

    queues: tuple[Left, ...]
    unsent: int
    ending: Ending | None = None

    @property
    def is_drained(self) -> bool:
        return not self.unsent and all(each.is_drained for each in self.queues)

    @property
    def is_stuck(self) -> bool:
        """What is left waits for an operator, not for a worker."""
        left = [each for each in self.queues if not each.is_drained]
        return bool(left) and not self.unsent and all(each.is_stuck for each in left)


def drain(queues: Collection[str] = (), *, ahead: float | None = AHEAD, timeout: float | None = None) -> Iterator[Look]:
    """Look at these queues (all, if none is named) until they are empty; the last look says how it ended.

    What is scheduled for later than `ahead` seconds from now is left alone; None waits for all. Changes nothing: jobs
    may come all the while. Ends as "timeout" after so many seconds, as "stuck" if for PATIENCE seconds all that is
    left stood in queues that are paused or that no live worker serves. Raises BrokerUnavailable.
    """
    until = None if ahead is None else utc_now() + timedelta(seconds=ahead)
    began = stuck_since = time.monotonic()
    quiet = 0
    while True:
        looked_at = time.monotonic()
        found = _look(queues, until)
        now = time.monotonic()
        quiet = quiet + 1 if found.is_drained else 0
        stuck_since = stuck_since if found.is_stuck else now
        if ending := _ending(quiet, now - stuck_since, timeout is not None and now - began >= timeout):
            yield Look(found.queues, found.unsent, ending)
            return
        yield found
        time.sleep(max(LOOK_EVERY, 4 * (now - looked_at)))


def disable_schedules(queues: Collection[str] = ()) -> list[str]:
    """Let the schedules rest that send to these queues (all, if none is named). Returns the names of those that ran."""
    held = [row for row in PeriodicTask.objects.filter(enabled=True).order_by("name") if _sends_to(row, queues)]
    PeriodicTask.objects.filter(pk__in=[row.pk for row in held]).update(enabled=False)
    return [row.name for row in held]


def _ending(quiet: int, stuck_for: float, is_late: bool) -> Ending | None:
    if is_late:
        return "drained" if quiet else "timeout"
    if quiet >= QUIET_LOOKS:
        return "drained"
    return "stuck" if stuck_for >= PATIENCE else None


def _look(queues: Collection[str], until: datetime | None) -> Look:
    broker = get_broker()
    chosen = [each for each in standing() if not queues or each.name in queues]
    return Look(tuple(_left(broker, each, until) for each in chosen), Outbox.objects.count())


def _left(broker: Broker, queue: Standing, until: datetime | None) -> Left:
    size = queue.size
    first = _due(broker, queue.name, 0) if size.scheduled else None
    # What waits for a limit has no time of its own, and stands first or last.
    last = _due(broker, queue.name, size.scheduled - 1) if first else None
    return Left(
        queue=queue.name,
        ready=size.ready,
        running=size.running,
        scheduled=size.scheduled,
        due_at=first,
        is_soon=bool(size.scheduled) and (until is None or first is None or last is None or first <= until),
        obstacle="paused" if size.paused else "" if queue.workers else "unserved",
    )


def _due(broker: Broker, queue: str, offset: int) -> datetime | None:
    """When the job at that place is due; None if it waits for a limit, or stands there no more."""
    for each in broker.peek(queue, scheduled=True, offset=offset, limit=1):
        found = broker.locate(each.id)
        return found.due_at if found else None
    return None


def _sends_to(row: PeriodicTask, queues: Collection[str]) -> bool:
    if not queues:
        return True
    try:
        return periodic.message_of(row, utc_now()).queue in queues
    except Exception:  # a router's, or of arguments that do not fit: it cannot send at all
        return False
