"""What all schedules have in common: the ticks to come."""

from __future__ import annotations

from datetime import datetime

from djtasks.schedules.clock_time import clocked
from djtasks.schedules.cron import crontab
from djtasks.schedules.interval import schedule

Schedule = crontab | schedule | clocked


def upcoming(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    """The next `count` ticks later than `after`, an aware datetime, in its zone; fewer if there are no more."""
    ticks: list[datetime] = []
    tick = schedule.next_after(after) if count > 0 else None
    while tick is not None:
        ticks.append(tick)
        tick = schedule.next_after(tick) if len(ticks) < count else None
    return ticks
