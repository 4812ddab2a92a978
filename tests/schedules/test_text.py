"""The text form: what is written, what is read, and what is said of the rest."""

import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djtasks.schedules import MAX_TEXT_LENGTH, as_schedule, clocked, crontab, from_text, schedule, to_text

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (crontab(minute="*/5", hour="9-17", day_of_week="mon-fri"), "*/5 9-17 * * 1-5"),
        (crontab(second="*/10"), "* * * * * */10"),
        (schedule(1), "every second"),
        (schedule(30), "every 30 seconds"),
        (schedule(1.5), "every 1.5 seconds"),
        (schedule(0.000001), "every 0.000001 seconds"),
        (schedule(60), "every minute"),
        (schedule(90), "every 90 seconds"),
        (schedule(5400), "every 90 minutes"),
        (schedule(7200), "every 2 hours"),
        (schedule(86400), "every 24 hours"),
        (schedule(timedelta(weeks=2)), "every 14 days"),
        (clocked(AT), "at 2026-11-21T10:00:00+00:00"),
        (clocked(AT.astimezone(timezone(timedelta(hours=1)))), "at 2026-11-21T10:00:00+00:00"),
        (clocked(AT + timedelta(microseconds=500)), "at 2026-11-21T10:00:00.000500+00:00"),
    ],
)
def test_a_schedule_is_written_and_read_again(made, text):
    assert to_text(made) == str(made) == text
    assert from_text(text) == made


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("  30 9 * *  mon-fri ", crontab(30, 9, day_of_week="1-5")),
        ("0 0 1 JAN *", crontab(0, 0, day_of_month=1, month_of_year=1)),
        ("@yearly", crontab(0, 0, day_of_month=1, month_of_year=1)),
        ("@annually", crontab(0, 0, day_of_month=1, month_of_year=1)),
        ("@monthly", crontab(0, 0, day_of_month=1)),
        ("@weekly", crontab(0, 0, day_of_week=0)),
        ("@daily", crontab(0, 0)),
        ("@midnight", crontab(0, 0)),
        ("@Hourly", crontab(0)),
        ("every 10 minutes", schedule(600)),
        ("Every 10 Minutes", schedule(600)),
        ("every 10 min", schedule(600)),
        ("every 10mins", schedule(600)),
        ("every 10m", schedule(600)),
        ("every 1 hour", schedule(3600)),
        ("every hour", schedule(3600)),
        ("every 2 hrs", schedule(7200)),
        ("every day", schedule(86400)),
        ("every 2 weeks", schedule(timedelta(weeks=2))),
        ("every 1.5 hours", schedule(5400)),
        ("every 1h30m", schedule(5400)),
        ("every 1 hour and 30 minutes", schedule(5400)),
        ("every 1 hour, 30 minutes", schedule(5400)),
        ("every 250 ms", schedule(0.25)),
        ("every 30 s", schedule(30)),
        ("at 2026-11-21 10:00Z", clocked(AT)),
        ("at 2026-11-21 10:00 UTC", clocked(AT)),
        ("At 2026-11-21T11:00+01:00", clocked(AT)),
        ("at 2026-11-21 11:00 +01:00", clocked(AT)),
        ("once at 2026-11-21 10:00:00 utc", clocked(AT)),
    ],
)
def test_what_people_write_is_read(text, meant):
    assert from_text(text) == meant


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no schedule"),
        ("x" * 5000, "it has 5000 characters"),
        ("30", "every 10 minutes"),
        ("* * * *", "Write five fields"),
        ("0 24 * * *", "hour: 24 is out of range, which is 0 to 23"),
        ("0 0 30 2 *", "never occurs"),
        ("@reboot", "These are known: @yearly"),
        ("every", "write a number and a unit"),
        ("every 10", "write a number and a unit"),
        ("every ten minutes", "write a number and a unit"),
        ("every -5 minutes", "write a number and a unit"),
        ("every second minute", "write a number and a unit"),
        ("every 0 seconds", "longer than zero"),
        ("every 10 parsecs", "'parsecs' is no unit of time"),
        ("every month", "A month has no fixed length. Write the date as in cron: 0 0 1"),
        ("every 2 years", "A year has no fixed length"),
        ("every 999999999999 weeks", "longer than can be counted"),
        ("at noon", "no date and time"),
        ("at", "no date and time"),
        ("at 2026-02-30T10:00Z", "no date and time"),
        ("at 2026-11-21 10:00", "no offset from UTC"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_could(text, told):
    with pytest.raises(ValueError, match=told):
        from_text(text)


@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=10**8)))
def test_any_interval_survives_its_text(every):
    assert from_text(to_text(schedule(every))) == schedule(every)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.timezones()))
def test_any_time_survives_its_text(moment):
    assert from_text(to_text(clocked(moment))) == clocked(moment)


@given(st.text(max_size=40) | st.from_regex(r"(every|at|@|\*) ?[0-9a-z*/, .:+-]{0,20}", fullmatch=True))
def test_any_other_text_is_a_schedule_or_a_value_error(text):
    made = None
    with suppress(ValueError):
        made = from_text(text)
    assert made is None or from_text(to_text(made)) == made


def test_a_crontab_too_long_for_its_column_is_refused():
    scattered = [number for number in range(60) if number % 3]
    long = crontab(scattered, scattered[:14], second=scattered)
    with pytest.raises(ValueError, match=f"only {MAX_TEXT_LENGTH} can be stored.*Split it in two"):
        to_text(long)
    assert crontab.from_string(str(long)) == long


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (30, schedule(30)),
        (1.5, schedule(1.5)),
        (timedelta(minutes=5), schedule(300)),
        ("every 5 minutes", schedule(300)),
        ("30 9 * * 1-5", crontab(30, 9, day_of_week="1-5")),
        (AT, clocked(AT)),
        (crontab(0, 3), crontab(0, 3)),
        (schedule(30), schedule(30)),
        (clocked(AT), clocked(AT)),
    ],
)
def test_what_settings_hold_becomes_a_schedule(given, meant):
    assert as_schedule(given) == meant


def test_a_schedule_stays_the_same_object():
    made = crontab(0, 3)
    assert as_schedule(made) is made


@pytest.mark.parametrize("given", [None, True, [], {"minute": 1}, b"@daily", AT.date(), AT.time(), object()])
def test_anything_else_is_a_type_error_that_says_what_is_allowed(given):
    with pytest.raises(TypeError, match="crontab, schedule or clocked of djtasks\\.schedules, seconds, a timedelta"):
        as_schedule(given)


@pytest.mark.parametrize("given", [0, -1, "nonsense", datetime(2026, 11, 21)])
def test_what_could_be_a_schedule_and_is_none_is_a_value_error(given):
    with pytest.raises(ValueError, match=r"."):
        as_schedule(given)


def test_settings_may_import_schedules_and_meet_their_errors_before_there_are_settings():
    code = """
from djtasks import crontab, schedule
from djtasks.exceptions import ParseException
crontab(minute=30, hour=9)
try:
    crontab(minute="61")
except ParseException as error:
    print(error)
"""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "there.is.none"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "61" in ended.stdout) == (0, True), ended.stderr
