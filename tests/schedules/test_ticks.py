"""The ticks of crontabs against an oracle that looks at the clocks, moment by moment.

DJTASKS_SCHEDULES_SWEEP=1000 tries so many crontabs in each zone.
"""

import os
import random
from bisect import bisect_right
from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import pytest

from djtasks.schedules import crontab, upcoming
from tests.schedules.expressions import any_crontab
from tests.schedules.oracle import clock_changes, clocks, utc

CRONTABS = int(os.environ.get("DJTASKS_SCHEDULES_SWEEP", "5"))  # in each zone
AT_ONCE = 25  # ticks that are asked for from one start
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
YEARS = (utc(2024, 1, 1), utc(2029, 1, 1))
ZONES = (
    "UTC", "Asia/Seoul",
    "Europe/Berlin", "America/New_York",
    "Australia/Lord_Howe",  # by half an hour
    "Africa/Casablanca",  # back for Ramadan
    "America/Havana", "Asia/Beirut",  # at midnight
)  # fmt: skip
ONCE = {
    "Pacific/Apia": (utc(2011, 9, 1), utc(2012, 5, 1)),  # left out a whole day
    "America/Juneau": (utc(1983, 4, 1), utc(1984, 5, 1)),  # went from one zone to another at a fold of two hours
    "Antarctica/Troll": (utc(2025, 1, 1), utc(2026, 1, 1)),  # by two hours
    "Antarctica/Casey": (utc(2018, 1, 1), utc(2020, 9, 1)),  # by three, many times
}

pytestmark = pytest.mark.timeout(0 if CRONTABS > 100 else 120)


def agree(schedule, seen, starts):
    """From each start, an instant in UTC, the next ticks are the oracle's."""
    zone, expected = ZoneInfo(seen.zone), seen.ticks(schedule)
    for start in starts:
        after = bisect_right(expected, (start - seen.begin) // seen.step)
        wanted = [seen.instant(position) for position in expected[after : after + AT_ONCE]]
        found = next_ticks(schedule, start, zone, len(wanted), seen.instant(len(seen.shown_before)))
        assert found == wanted, f"{schedule!r} after {start.astimezone(zone).isoformat()}"


def next_ticks(schedule, start, zone, count, end):
    """As the oracle has them: in UTC. Where it saw no more none may come before its end, either."""
    ticks = upcoming(schedule, start.astimezone(zone), count + 1)
    assert all(tick.tzinfo is zone for tick in ticks)
    ticks = [tick.astimezone(UTC) for tick in ticks]
    return ticks[:count] if count == AT_ONCE else [tick for tick in ticks if tick < end]


def chance(*seed):
    return random.Random("|".join(map(str, seed)))


def starts_in(begin, end, count, dice):
    """Instants between these: some at a full minute, some with microseconds."""
    seconds = int((end - begin).total_seconds())
    found = [begin + timedelta(seconds=dice.randrange(seconds)) for _ in range(count)]
    return [
        at.replace(second=0) if at.second % 2 else at + timedelta(microseconds=dice.randrange(10**6)) for at in found
    ]


def starts_around(changes, dice):
    hours = [timedelta(minutes=quarter * 15) for quarter in range(-14, 15)]
    return [change + by + timedelta(seconds=dice.choice([-1, 0, 0, 1])) for change in changes for by in hours]


@pytest.mark.parametrize("zone", ZONES)
def test_five_years_by_the_minute(zone):
    seen, changes = clocks(zone, *YEARS, MINUTE), clock_changes(zone, *YEARS)
    for number in range(CRONTABS):
        dice = chance(zone, number)
        agree(any_crontab(dice), seen, [*starts_in(*YEARS, 60, dice), *starts_around(changes, dice)])


@pytest.mark.parametrize("zone", ONCE)
def test_what_happened_once_somewhere(zone):
    seen, changes = clocks(zone, *ONCE[zone], MINUTE), clock_changes(zone, *ONCE[zone])
    assert changes
    for number in range(CRONTABS):
        dice = chance(zone, number)
        agree(any_crontab(dice), seen, [*starts_in(*ONCE[zone], 30, dice), *starts_around(changes, dice)])


@pytest.mark.parametrize("zone", ZONES)
def test_three_days_around_each_change_by_the_second(zone):
    changes = clock_changes(zone, *YEARS) or [utc(2026, 3, 29, 1)]
    for change in changes:
        seen = clocks(zone, change - timedelta(days=3), change + timedelta(days=3), SECOND)
        for number in range(max(CRONTABS // 3, 1)):
            dice = chance(zone, change, number)
            starts = [
                *starts_in(change - timedelta(days=3), change + timedelta(days=3), 20, dice),
                *starts_around([change], dice),
            ]
            agree(any_crontab(dice, with_seconds=True), seen, starts)


def test_a_crontab_goes_through_all_its_ticks_in_order():
    seen = clocks("Australia/Lord_Howe", *YEARS, MINUTE)
    each = crontab(minute="*/10", hour="1-2", day_of_month="1-7")
    expected = [seen.instant(position) for position in seen.ticks(each)]
    found = upcoming(each, (YEARS[0] - SECOND).astimezone(ZoneInfo("Australia/Lord_Howe")), len(expected))
    assert [tick.astimezone(UTC) for tick in found] == expected
    assert len(expected) > 3000
