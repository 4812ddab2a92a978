"""What `crontab` takes, what it refuses, and its ticks where the clocks change."""

import pickle
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from djtasks.schedules import ParseException, crontab, schedule, upcoming
from tests.schedules.expressions import any_crontab
from tests.schedules.test_ticks import chance

BERLIN, LORD_HOWE = ZoneInfo("Europe/Berlin"), ZoneInfo("Australia/Lord_Howe")


@pytest.mark.parametrize(
    ("keyword", "given", "numbers"),
    [
        ("minute", "*", range(60)),
        ("minute", 7, [7]),
        ("minute", "7", [7]),
        ("minute", "07", [7]),
        ("minute", "1-4", [1, 2, 3, 4]),
        ("minute", "1-9/3", [1, 4, 7]),
        ("minute", "*/20", [0, 20, 40]),
        ("minute", "*/60", [0]),
        ("minute", "1,5-7,*/30", [0, 1, 5, 6, 7, 30]),
        ("minute", "1, 5", [1, 5]),
        ("minute", "58-1", [58, 59, 0, 1]),
        ("minute", [3, 1, 1], [1, 3]),
        ("minute", range(0, 60, 15), [0, 15, 30, 45]),
        ("minute", {2}, [2]),
        ("minute", (number for number in (4, 5)), [4, 5]),
        ("hour", "22-3/2", [22, 0, 2]),
        ("hour", "*/24", [0]),
        ("day_of_week", "sun", [0]),
        ("day_of_week", "Sunday", [0]),
        ("day_of_week", "MON-fri", [1, 2, 3, 4, 5]),
        ("day_of_week", "fri-mon", [5, 6, 0, 1]),
        ("day_of_week", "tues,thurs", [2, 4]),
        ("day_of_month", "*/10", [1, 11, 21, 31]),
        ("day_of_month", "30-2", [30, 31, 1, 2]),
        ("month_of_year", "jan,december", [1, 12]),
        ("month_of_year", "nov-feb", [11, 12, 1, 2]),
        ("month_of_year", "*/3", [1, 4, 7, 10]),
        ("second", "*/15", [0, 15, 30, 45]),
    ],
)
def test_a_field_is_read(keyword, given, numbers):
    assert getattr(crontab(**{keyword: given}), keyword) == set(numbers)


@pytest.mark.parametrize(
    ("keyword", "given", "told"),
    [
        ("minute", 60, "minute: 60 is out of range, which is 0 to 59"),
        ("minute", -1, "-1 is out of range"),
        ("minute", "60", "60 is out of range"),
        ("minute", "-1", "cannot read '-1'"),
        ("minute", "1-60", "60 is out of range"),
        ("minute", [0, 60], "60 is out of range"),
        ("minute", "", "cannot read ''"),
        ("minute", "1,,2", "cannot read ''"),
        ("minute", "1 2", "cannot read '1 2'"),
        ("minute", "*/0", "a step of 0 is none"),
        ("minute", "*/61", "every 90 minutes"),
        ("minute", "*/", "cannot read '\\*/'"),
        ("minute", "*/x", "cannot read '\\*/x'"),
        ("minute", "5/10", "Write 5-59/10"),
        ("minute", "1-2-3", "cannot read '1-2-3'"),
        ("minute", "?", "cannot read '\\?'. Write \\*, a number from 0 to 59, a range"),
        ("minute", "sun", "cannot read 'sun'"),
        ("minute", "²", "cannot read '²'"),
        ("minute", "9" * 5000, "out of range"),
        ("minute", "*/" + "9" * 5000, "a step of 999"),
        ("minute", [], "an empty list names no time at all"),
        ("minute", None, "takes an int, a text or an iterable of ints, not None"),
        ("minute", 1.0, "not 1.0"),
        ("minute", True, "not True"),
        ("minute", ["1"], "not '1'"),
        ("minute", b"1", "not b'1'"),
        ("hour", 24, "0 to 23"),
        ("day_of_week", 7, "7 is out of range, which is 0 \\(Sunday\\) to 6 \\(Saturday\\)"),
        ("day_of_week", "1-7", "7 is out of range"),
        ("day_of_week", "su", "cannot read 'su'"),
        ("day_of_week", "sundays", "or a name such as mon"),
        ("day_of_month", 0, "1 to 31"),
        ("day_of_month", "l", "cannot read 'l'"),
        ("month_of_year", 13, "1 \\(January\\) to 12 \\(December\\)"),
        ("month_of_year", "mon", "cannot read 'mon'"),
        ("second", 60, "second: 60"),
    ],
)
def test_a_bad_field_is_refused_with_what_it_could_be(keyword, given, told):
    with pytest.raises(ParseException, match=told):
        crontab(**{keyword: given})


def test_what_is_refused_is_a_value_error():
    assert issubclass(ParseException, ValueError)


def test_a_weekday_is_found_under_its_name():
    tick = crontab(0, 0, day_of_week="wed").next_after(datetime(2026, 11, 21, tzinfo=UTC))
    assert tick == datetime(2026, 11, 25, tzinfo=UTC)
    assert tick.strftime("%A") == "Wednesday"


@pytest.mark.parametrize("fields", ["0 0 31 2 *", "0 0 30 feb *", "0 0 31 2,4,6,9,11 *", "0 0 30,31 2 1"])
def test_a_date_that_never_comes_is_refused(fields):
    with pytest.raises(ValueError, match="never occurs"):
        crontab.from_string(fields)


def test_the_29th_of_february_comes_with_leap_years():
    ticks = upcoming(crontab(0, 0, day_of_month=29, month_of_year=2), datetime(2095, 1, 1, tzinfo=UTC), 3)
    assert [(tick.year, tick.month, tick.day) for tick in ticks] == [(2096, 2, 29), (2104, 2, 29), (2108, 2, 29)]


@pytest.mark.parametrize("weekday", range(7))
def test_the_29th_of_february_comes_on_each_weekday_within_forty_years(weekday):
    start = datetime(2088, 3, 1, tzinfo=UTC)
    tick = crontab(0, 0, day_of_week=weekday, day_of_month=29, month_of_year=2).next_after(start)
    assert (tick.month, tick.day, tick.isoweekday() % 7) == (2, 29, weekday)
    assert tick.year - start.year <= 40


def test_the_31st_comes_in_the_months_that_have_one():
    ticks = upcoming(crontab(0, 0, day_of_month=31), datetime(2026, 1, 1, tzinfo=UTC), 7)
    assert [tick.month for tick in ticks] == [1, 3, 5, 7, 8, 10, 12]


def test_a_day_must_fit_both_day_fields():
    ticks = upcoming(crontab(0, 0, day_of_week="fri", day_of_month=13), datetime(2026, 1, 1, tzinfo=UTC), 4)
    assert [(tick.year, tick.month) for tick in ticks] == [(2026, 2), (2026, 3), (2026, 11), (2027, 8)]


def test_the_year_9999_has_a_last_tick():
    with pytest.raises(OverflowError):
        crontab(0, 0, day_of_month=1, month_of_year=1).next_after(datetime(9999, 6, 1, tzinfo=UTC))


def test_from_string_reads_the_fields_in_the_order_of_cron():
    assert crontab.from_string(" 1  2 3 4 5 ") == crontab(
        minute=1, hour=2, day_of_month=3, month_of_year=4, day_of_week=5
    )


def test_from_string_reads_a_sixth_field_as_seconds():
    assert crontab.from_string("* * * * * */10") == crontab(second=range(0, 60, 10))


@pytest.mark.parametrize("text", ["", "* * * *", "* * * * * * *"])
def test_from_string_tells_how_many_fields_there_are_to_be(text):
    with pytest.raises(ValueError, match="Write five: minute, hour, day of month, month, day of week"):
        crontab.from_string(text)


def test_crontabs_that_mean_the_same_are_equal():
    one = crontab(minute="*/15", hour="0-23", day_of_week="mon-fri")
    other = crontab(minute=[0, 15, 30, 45], day_of_week=range(1, 6))
    assert one == other
    assert hash(one) == hash(other)
    assert one != crontab(minute="*/15")


def test_a_crontab_equals_nothing_of_another_class():
    assert crontab() != schedule(60)
    assert crontab() != "* * * * *"
    assert (crontab() == 60) is False


def test_a_crontab_reads_like_its_code():
    shown = repr(crontab(minute="*/5", hour="9-17"))
    assert shown == "crontab(minute='*/5', hour='9-17', day_of_week='*', day_of_month='*', month_of_year='*')"
    assert "second='30'" in repr(crontab(second=30))


def test_the_code_and_the_text_of_any_crontab_make_an_equal_one():
    for number in range(1000):
        made = any_crontab(chance(number), with_seconds=bool(number % 2))
        assert eval(repr(made)) == made
        assert crontab.from_string(str(made)) == made


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("0,30 * * * *", "*/30 * * * *"),
        ("0,12 * * * *", "0,12 * * * *"),
        ("5,20,35 * * * *", "5,20,35 * * * *"),
        ("* 22,23,0,1 * * *", "* 22-1 * * *"),
        ("* 8,10,12,14 * * *", "* 8-14/2 * * *"),
        ("* * * * sun,sat", "* * * * 0,6"),
        ("* * * jan-mar,7 fri-sun", "* * * 1-3,7 5-0"),
        ("* * 1-31 1-12 0-6 0", "* * * * *"),
        ("* * * * * 0-59", "* * * * * *"),
    ],
)
def test_a_crontab_is_written_as_people_would(given, written):
    assert str(crontab.from_string(given)) == written


def test_a_crontab_can_be_pickled_and_copied():
    made = crontab(minute="*/7", second=3)
    assert pickle.loads(pickle.dumps(made)) == made
    assert deepcopy(made) == made


def test_a_tick_is_later_than_the_time_that_is_asked_about():
    at = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
    assert crontab().next_after(at) == at + timedelta(minutes=1)
    assert crontab().next_after(at - timedelta(microseconds=1)) == at
    assert crontab(second="*").next_after(at + timedelta(microseconds=1)) == at + timedelta(seconds=1)


def test_a_naive_time_is_refused():
    with pytest.raises(ValueError, match="give it an aware datetime"):
        crontab().next_after(datetime(2026, 11, 21))


def test_a_crontab_is_meant_in_the_zone_of_the_time_that_is_asked_about():
    at = datetime(2026, 7, 1, tzinfo=UTC)
    nine = crontab(0, 9)
    assert nine.next_after(at).isoformat() == "2026-07-01T09:00:00+00:00"
    assert nine.next_after(at.astimezone(BERLIN)).isoformat() == "2026-07-01T09:00:00+02:00"
    fixed = timezone(timedelta(hours=-3, minutes=-30))
    assert nine.next_after(at.astimezone(fixed)).isoformat() == "2026-07-01T09:00:00-03:30"


def ticks(fields, zone, start, count):
    """The next ticks as "day hour:minute±offset", from a wall time on."""
    found = upcoming(crontab.from_string(fields), datetime.fromisoformat(start).replace(tzinfo=zone), count)
    return [tick.strftime("%d %H:%M%z") for tick in found]


def test_a_time_that_is_skipped_is_due_at_the_end_of_the_gap():
    assert ticks("30 2 * * *", BERLIN, "2026-03-28T12:00", 2) == ["29 03:00+0200", "30 02:30+0200"]


def test_several_times_that_are_skipped_are_due_once():
    assert ticks("*/10 2 * * *", BERLIN, "2026-03-28T12:00", 2) == ["29 03:00+0200", "30 02:00+0200"]


def test_the_end_of_the_gap_is_due_once_if_it_fits_itself():
    assert ticks("0,30 2,3 * * *", BERLIN, "2026-03-28T12:00", 3) == ["29 03:00+0200", "29 03:30+0200", "30 02:00+0200"]


def test_a_skipped_time_of_each_hour_is_due_at_the_end_of_the_gap_too():
    assert ticks("30 * * * *", BERLIN, "2026-03-29T01:00", 3) == ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]


def test_every_ten_minutes_go_on_through_a_gap():
    assert ticks("*/10 * * * *", BERLIN, "2026-03-29T01:40", 3) == ["29 01:50+0100", "29 03:00+0200", "29 03:10+0200"]


def test_a_time_that_comes_twice_is_due_at_its_first_time():
    assert ticks("30 2 * * *", BERLIN, "2026-10-24T12:00", 2) == ["25 02:30+0200", "26 02:30+0100"]


@pytest.mark.parametrize("hour", ["*", "0-23", "*/1"])
def test_a_time_that_comes_twice_is_due_twice_if_each_hour_is_meant(hour):
    expected = ["25 01:30+0200", "25 02:30+0200", "25 02:30+0100", "25 03:30+0100"]
    assert ticks(f"30 {hour} * * *", BERLIN, "2026-10-25T01:00", 4) == expected


def test_from_within_the_second_time_nothing_is_due_again():
    at = datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=BERLIN)
    assert crontab(30, "2-3").next_after(at).isoformat() == "2026-10-25T03:30:00+01:00"


def test_half_an_hour_is_skipped_on_lord_howe():
    assert ticks("15 2 * * *", LORD_HOWE, "2026-10-03T12:00", 2) == ["04 02:30+1100", "05 02:15+1100"]
    assert ticks("*/20 * * * *", LORD_HOWE, "2026-10-04T01:30", 3) == [
        "04 01:40+1030",
        "04 02:30+1100",
        "04 02:40+1100",
    ]


def test_half_an_hour_comes_twice_on_lord_howe():
    each = ["05 01:40+1100", "05 01:50+1100", "05 01:30+1030", "05 01:40+1030", "05 01:50+1030", "05 02:00+1030"]
    assert ticks("*/10 * * * *", LORD_HOWE, "2026-04-05T01:30", 6) == each
    assert ticks("*/10 1,2 * * *", LORD_HOWE, "2026-04-05T01:40", 2) == ["05 01:50+1100", "05 02:00+1030"]


def test_a_day_that_a_zone_left_out_is_due_at_the_next_ones_begin():
    apia = ZoneInfo("Pacific/Apia")
    assert ticks("0 9 * * *", apia, "2011-12-29T00:00", 3) == ["29 09:00-1000", "31 00:00+1400", "31 09:00+1400"]


def test_a_time_between_two_seconds_in_a_fold_counts_by_its_second():
    at = datetime(2026, 10, 25, 2, 59, 59, 999999, tzinfo=BERLIN)
    assert crontab(second="*").next_after(at).isoformat() == "2026-10-25T02:00:00+01:00"


def test_each_second_of_a_gap_is_due_at_its_end():
    before, end = datetime(2026, 3, 29, 1, 59, 59, tzinfo=BERLIN), datetime(2026, 3, 29, 3, tzinfo=BERLIN)
    for skipped in range(3600):
        assert crontab(skipped // 60, 2, second=skipped % 60).next_after(before) == end
