"""What a crontab should do, found the slow way: by looking at a clock on the wall, one moment after the other.

Shares no code and no idea with `djtasks.schedules`: it never turns a wall time into an instant. It steps through
real instants, notes what the clocks of a zone show at each, and then applies the rules as they are worded:

- a tick is an instant at which the clocks show a time that fits;
- a time that the clocks have shown before does not count, unless the crontab means each hour;
- where the clocks jump over times of which one fits, the first instant after the jump is a tick.

Each field of what the clocks show is a `bytes`, one byte an instant: looking up which fit is then one `translate` a
field, so that years by the minute take milliseconds.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

FIELDS = ("month_of_year", "day_of_month", "day_of_week", "hour", "minute", "second")
BLOCK = timedelta(minutes=30)  # all changes of modern times are at its borders, which is checked
LAST_SECOND = BLOCK - timedelta(seconds=1)


@dataclass(frozen=True)
class Clocks:
    """What the clocks of a zone show from `begin` on, at every `step`."""

    zone: str
    begin: datetime
    step: timedelta
    fields: dict[str, bytes]
    shown_before: bytes  # 1 where the clocks show a time again
    jumps: dict[int, list[datetime]]  # by the position after the jump: the wall times that are left out

    def instant(self, position):
        return self.begin + position * self.step

    def ticks(self, crontab):
        """The positions, ascending, at which `crontab` is due."""
        fit = all_of(self._fitting(name, crontab) for name in FIELDS)
        if len(crontab.hour) < 24:
            fit = all_of([fit, self.shown_before.translate(bytes([1, 0]) + bytes(254))])
        due = bytearray(fit)
        for after, times in self.jumps.items():
            due[after] |= any(fits_at(crontab, time) for time in times)
        return [found.start() for found in re.finditer(b"\1", due)]

    def _fitting(self, name, crontab):
        wanted = getattr(crontab, name)
        return self.fields[name].translate(bytes(number in wanted for number in range(256)))


def all_of(several):
    first, *others = several
    number = int.from_bytes(first, "big")
    for other in others:
        number &= int.from_bytes(other, "big")
    return number.to_bytes(len(first), "big")


def fits_at(crontab, wall):
    return all(number in getattr(crontab, name) for name, number in shown(wall).items())


def shown(wall):
    return {
        "month_of_year": wall.month,
        "day_of_month": wall.day,
        "day_of_week": wall.isoweekday() % 7,
        "hour": wall.hour,
        "minute": wall.minute,
        "second": wall.second,
    }


@cache
def clocks(zone, begin, end, step):
    """Look at the clocks of `zone`, a name, from one aware time to another."""
    columns = {name: bytearray() for name in FIELDS}
    shown_before, jumps = bytearray(), {}
    latest = None  # of the wall times so far, in seconds
    for wall in walls(ZoneInfo(zone), begin, end):
        number = wall_number(wall)
        if latest is not None and number > latest + step.total_seconds():
            missing = round((number - latest) / step.total_seconds()) - 1
            jumps[len(shown_before)] = [wall - count * step for count in range(1, missing + 1)]
        again = latest is not None and number <= latest
        shown_before += bytes([again]) * (BLOCK // step)
        latest = latest if again else number + (BLOCK - step).total_seconds()
        for name, value in shown(wall).items():
            columns[name] += bytes([value]) * (BLOCK // step) if name not in WITHIN else WITHIN[name](wall, step)
    return Clocks(
        zone, begin, step, {name: bytes(column) for name, column in columns.items()}, bytes(shown_before), jumps
    )


def walls(zone, begin, end):
    """What the clocks show at each block's begin, naive; sees to it that they go on evenly within it."""
    instant = begin
    while instant < end:
        wall = instant.astimezone(zone).replace(tzinfo=None, fold=0)
        last = (instant + LAST_SECOND).astimezone(zone).replace(tzinfo=None, fold=0)
        assert last - wall == LAST_SECOND
        assert wall.minute % 30 == wall.second == 0
        yield wall
        instant += BLOCK


@cache
def block_of_minutes(minute, step):
    return bytes(minute + (count * step).seconds // 60 for count in range(BLOCK // step))


@cache
def block_of_seconds(step):
    return bytes((count * step).seconds % 60 for count in range(BLOCK // step))


WITHIN = {
    "minute": lambda wall, step: block_of_minutes(wall.minute, step),
    "second": lambda wall, step: block_of_seconds(step),
}


def wall_number(wall):
    return wall.toordinal() * 86400 + wall.hour * 3600 + wall.minute * 60 + wall.second


@cache
def clock_changes(zone, begin, end):
    """The instants, UTC, at which the offset of `zone` is another than a block before."""
    changes, instant = [], begin
    offset = begin.astimezone(ZoneInfo(zone)).utcoffset()
    while instant < end:
        now = instant.astimezone(ZoneInfo(zone)).utcoffset()
        if now != offset:
            changes.append(instant)
        offset, instant = now, instant + BLOCK
    return changes


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)
