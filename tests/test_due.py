"""What a schedule that is due sends: late ticks, missed ticks, limits."""

from datetime import UTC, datetime, timedelta

import pytest

from djtasks.due import LATE, MOST, turn_of
from djtasks.models import PeriodicTask
from djtasks.schedules import Series, from_text

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
CATCH_UP = PeriodicTask.CatchUp


def turn(due, schedule="* * * * *", **values):
    """The turn at NOW of a row that is due at `due`."""
    row = PeriodicTask(name="n", task="t", schedule=schedule, **values)
    return turn_of(row, Series(from_text(schedule), UTC, end=row.end_at), due, NOW)


def at(hour, minute=0, second=0):
    return datetime(2026, 6, 1, hour, minute, second, tzinfo=UTC)


def test_a_tick_in_the_near_future_is_made_ready():
    due = at(12, 1)
    assert (turn(due).ticks, turn(due).next) == ((due,), at(12, 2))


def test_the_next_tick_follows_from_the_last_and_not_from_now():
    due = NOW - 7 * SECOND
    assert turn(due, "every 10 seconds").next == due + 10 * SECOND


def test_each_tick_that_is_only_late_is_sent():
    due = NOW - 14 * SECOND
    found = turn(due, "* * * * * *")
    assert found.ticks == tuple(due + number * SECOND for number in range(15))
    assert (found.next, found.left_out) == (NOW + SECOND, "")


@pytest.mark.parametrize("catch_up", CATCH_UP)
def test_a_tick_that_is_as_late_as_may_be_is_not_missed(catch_up):
    assert turn(NOW - LATE, "every 30 minutes", catch_up=catch_up).ticks == (NOW - LATE,)


def test_of_what_was_missed_the_last_is_run_once():
    found = turn(at(8), "0 * * * *")
    assert (found.ticks, found.next) == ((at(12),), at(13))
    assert "1 made up for, 4 left out" in found.left_out


def test_what_was_missed_may_be_skipped():
    found = turn(at(8), "0 * * * *", catch_up=CATCH_UP.SKIP)
    assert (found.ticks, found.next) == ((), at(13))
    assert "0 made up for, 5 left out" in found.left_out


def test_all_that_was_missed_may_be_run():
    found = turn(at(8), "0 * * * *", catch_up=CATCH_UP.ALL)
    assert (found.ticks, found.next) == (tuple(at(hour) for hour in range(8, 13)), at(13))


def test_of_very_many_missed_ones_the_last_are_run_and_it_is_said_how_many_are_not():
    found = turn(at(8), "* * * * *", catch_up=CATCH_UP.ALL)
    assert len(found.ticks) == MOST
    assert (found.ticks[0], found.ticks[-1]) == (at(12) - (MOST - 1) * MINUTE, at(12))
    assert f"{MOST} made up for, {241 - MOST} left out" in found.left_out


def test_a_year_of_seconds_is_not_counted():
    found = turn(NOW - timedelta(days=365), "* * * * * *", catch_up=CATCH_UP.ALL)
    assert found.ticks[-1] == NOW
    assert len(found.ticks) == MOST + 15
    assert "1000 or more left out" in found.left_out


@pytest.mark.parametrize("catch_up", [CATCH_UP.ONCE, CATCH_UP.ALL])
def test_what_was_missed_too_long_ago_is_not_made_up_for(catch_up):
    assert turn(at(8), "0 8 * * *", catch_up=catch_up, misfire_grace=3 * 3600).ticks == ()
    assert turn(at(8), "0 8 * * *", catch_up=catch_up, misfire_grace=5 * 3600).ticks == (at(8),)


def test_of_all_that_was_missed_only_what_lies_within_the_grace_is_run():
    found = turn(at(8), "0 * * * *", catch_up=CATCH_UP.ALL, misfire_grace=2.5 * 3600)
    assert found.ticks == (at(10), at(11), at(12))


def test_an_interval_goes_on_in_whole_steps_after_a_gap():
    due = NOW - HOUR - 3 * SECOND
    found = turn(due, "every 10 seconds", catch_up=CATCH_UP.SKIP)
    assert found.ticks == (NOW - 13 * SECOND, NOW - 3 * SECOND)
    assert found.next == NOW + 7 * SECOND


def test_what_runs_only_once_runs_once_and_then_no_more():
    found = turn(at(8), "0 * * * *", catch_up=CATCH_UP.ALL, one_off=True)
    assert (found.ticks, found.next) == ((at(8),), None)
    assert found.beyond == at(13)


def test_no_more_runs_than_are_allowed():
    values = {"catch_up": CATCH_UP.ALL, "max_runs": 7, "total_run_count": 5}
    assert (turn(at(8), "0 * * * *", **values).ticks, turn(at(8), "0 * * * *", **values).next) == ((at(8), at(9)), None)
    assert turn(at(12, 1), **values).next == at(12, 2)


def test_nothing_runs_after_the_end():
    found = turn(at(12, 1), end_at=at(12, 1))
    assert (found.ticks, found.next) == ((at(12, 1),), None)


def test_what_may_not_overlap_runs_once_at_a_time():
    found = turn(NOW - 5 * SECOND, "* * * * * *", overlap=False)
    assert (found.ticks, found.next) == ((NOW - 5 * SECOND,), NOW + SECOND)
