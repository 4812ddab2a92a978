"""`schedule`, `clocked`, `upcoming`, and where the names come from."""

import pickle
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

import djtasks
from djtasks import schedules
from djtasks.schedules import clocked, crontab, schedule, upcoming
from tests.site import Site

BERLIN = ZoneInfo("Europe/Berlin")
AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


def test_a_schedule_is_due_after_its_seconds():
    assert schedule(90).next_after(AT) == AT + timedelta(seconds=90)
    assert schedule(0.25).next_after(AT) == AT + timedelta(milliseconds=250)
    assert schedule(timedelta(hours=2)).next_after(AT) == AT + timedelta(hours=2)


@pytest.mark.parametrize("start", ["2026-03-29T01:30", "2026-10-25T02:30"])
def test_a_schedule_counts_elapsed_time_when_the_clocks_change(start):
    at = datetime.fromisoformat(start).replace(tzinfo=BERLIN)
    tick = schedule(3600).next_after(at)
    assert tick.tzinfo is BERLIN
    assert tick.astimezone(UTC) - at.astimezone(UTC) == timedelta(hours=1)


@pytest.mark.parametrize("given", [0, -1, 0.0, 1e-9, timedelta(0), float("nan"), float("inf"), 1e300])
def test_a_schedule_needs_some_time_between_its_runs(given):
    with pytest.raises(ValueError, match="schedule\\("):
        schedule(given)


@pytest.mark.parametrize("given", [None, "10", True, AT])
def test_a_schedule_is_made_of_a_duration(given):
    with pytest.raises(TypeError, match="seconds \\(int or float\\) or a timedelta"):
        schedule(given)


def test_schedules_of_the_same_length_are_equal():
    assert schedule(60) == schedule(timedelta(minutes=1))
    assert hash(schedule(60)) == hash(schedule(60.0))
    assert schedule(60) != schedule(61)
    assert schedule(60) != crontab()
    assert schedule(60) != 60


@pytest.mark.parametrize("seconds", [30, 1.5, 0.000001, 123456.789012, 1e9, 86399999999999.0])
def test_a_schedule_reads_like_its_code(seconds):
    made = schedule(seconds)
    assert eval(repr(made), {"schedule": schedule, "datetime": __import__("datetime")}) == made
    assert made.seconds == pytest.approx(seconds, abs=1e-6)


def test_a_clocked_is_due_once():
    once = clocked(AT)
    assert once.next_after(AT - timedelta(microseconds=1)) == AT
    assert once.next_after(AT) is None
    assert once.next_after(AT + timedelta(days=1)) is None


def test_a_clocked_answers_in_the_zone_of_the_question():
    tick = clocked(AT).next_after((AT - timedelta(days=1)).astimezone(BERLIN))
    assert tick.isoformat() == "2026-11-21T11:00:00+01:00"


def test_clockeds_at_the_same_instant_are_equal():
    assert clocked(AT) == clocked(AT.astimezone(BERLIN))
    assert hash(clocked(AT)) == hash(clocked(AT.astimezone(BERLIN)))
    assert clocked(AT) != clocked(AT + timedelta(seconds=1))
    assert clocked(AT) != AT


def test_the_two_times_of_a_fold_are_two_clockeds():
    wall = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
    assert clocked(wall) != clocked(wall.replace(fold=1))
    assert clocked(wall.replace(fold=1)).next_after(wall).isoformat() == "2026-10-25T02:30:00+01:00"


def test_a_clocked_is_made_of_an_aware_datetime():
    with pytest.raises(ValueError, match="aware datetime"):
        clocked(datetime(2026, 11, 21))
    with pytest.raises(TypeError, match="aware datetime"):
        clocked("2026-11-21")


def test_a_clocked_reads_like_its_code():
    made = clocked(AT)
    assert eval(repr(made), {"clocked": clocked, "datetime": __import__("datetime")}) == made


@pytest.mark.parametrize("made", [schedule(60), clocked(AT)], ids=str)
def test_a_naive_time_is_refused(made):
    with pytest.raises(ValueError, match="give it an aware datetime"):
        made.next_after(datetime(2026, 11, 21))


@pytest.mark.parametrize("made", [schedule(1.5), clocked(AT)], ids=str)
def test_they_can_be_pickled(made):
    assert pickle.loads(pickle.dumps(made)) == made


def test_upcoming_gives_as_many_ticks_as_there_are():
    assert upcoming(schedule(60), AT, 3) == [AT + timedelta(minutes=count) for count in (1, 2, 3)]
    assert upcoming(schedule(60), AT, 0) == []
    assert upcoming(clocked(AT), AT - timedelta(days=1), 3) == [AT]
    assert upcoming(clocked(AT), AT, 3) == []


def test_the_names_are_there():
    assert djtasks.crontab is crontab
    assert djtasks.schedule is schedule
    for name in schedules.__all__:
        assert getattr(schedules, name) is not None


def test_settings_can_import_and_use_them(tmp_path):
    site = Site(tmp_path)
    site.settings(
        more="""
from datetime import UTC, datetime
from djtasks import crontab, schedule
from djtasks.schedules import as_schedule, clocked
NIGHTLY = [crontab(minute=0, hour=3), schedule(30), clocked(datetime(2026, 11, 21, tzinfo=UTC)), as_schedule("@daily")]
"""
    )
    finished = site.manage("check")
    assert finished.returncode == 0, finished.stderr
