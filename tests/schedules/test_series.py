"""The ticks of a schedule between two times, and how the last of very many are found."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from djtasks.schedules import ParseException, Series, clocked, crontab, schedule, zone_named

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_a_crontab_is_matched_in_its_zone_and_its_ticks_are_in_utc():
    tick = Series(crontab(30, 9), BERLIN).first(NOON)
    assert tick == datetime(2026, 6, 2, 7, 30, tzinfo=UTC)
    assert tick.utcoffset() == timedelta(0)


def test_the_first_tick_is_strictly_later():
    assert Series(crontab(), UTC).first(NOON) == NOON + timedelta(minutes=1)


def test_nothing_is_due_before_the_start_and_the_start_itself_may_be():
    start = NOON + timedelta(hours=5)
    assert Series(crontab(), UTC, start).first(NOON) == start
    assert Series(schedule(90), UTC, start).first(NOON) == start


def test_an_interval_counts_from_its_start_however_long_ago():
    series = Series(schedule(90), UTC, NOON - 1000 * 90 * SECOND - SECOND)
    assert series.first(NOON) == NOON + 89 * SECOND


def test_nothing_is_due_after_the_end():
    series = Series(schedule(60), UTC, end=NOON + 60 * SECOND)
    assert series.first(NOON) == NOON + 60 * SECOND
    assert series.after(NOON + 60 * SECOND) is None


def test_an_interval_goes_on_in_whole_steps():
    assert Series(schedule(10), UTC).after(NOON, later_than=NOON + 25 * SECOND) == NOON + 30 * SECOND
    assert Series(schedule(10), UTC).after(NOON, later_than=NOON + 30 * SECOND) == NOON + 40 * SECOND


def test_what_lies_after_the_year_9999_never_comes():
    assert Series(schedule(timedelta(days=3_000_000)), UTC).first(NOON) is None


def test_a_time_that_has_passed_does_not_come_again():
    assert Series(clocked(NOON), UTC).first(NOON) is None
    assert list(Series(clocked(NOON), UTC).since(NOON)) == [NOON]


@pytest.mark.parametrize("count", [1, 7, 100])
@pytest.mark.parametrize(
    "when", [crontab(), crontab(second="*/7"), crontab("*/20", "3,4", second="0-5"), schedule(11.5)], ids=str
)
def test_the_latest_ticks_are_the_end_of_all_of_them(when, count):
    series = Series(when, BERLIN)
    tick = series.first(NOON)
    until = NOON + timedelta(days=1, seconds=17)
    everything = series.between(tick, until, 10**6)
    assert series.latest(tick, until, count) == everything[-count:]


def test_the_latest_of_a_year_of_seconds_are_found_at_once():
    series = Series(crontab(second="*/1"), BERLIN)
    looked_at = []
    real = Series.after
    try:
        Series.after = lambda self, *args, **options: looked_at.append(1) or real(self, *args, **options)
        found = series.latest(NOON - timedelta(days=365), NOON, 3)
    finally:
        Series.after = real
    assert found == [NOON - 2 * SECOND, NOON - SECOND, NOON]
    assert len(looked_at) < 500


@pytest.mark.parametrize("name", ["Europe/Berln", "Europe", "../etc/passwd", "/etc/localtime", "", "a\0b"])
def test_what_is_no_zone_is_refused_with_a_word_on_what_could_be(name):
    with pytest.raises(ParseException, match=r"There is no time zone .*(Did you mean|Write it as)"):
        zone_named(name)


def test_a_zone_that_is_nearly_right_is_named():
    with pytest.raises(ParseException, match="Did you mean Europe/Berlin"):
        zone_named("Europe/Berln")
