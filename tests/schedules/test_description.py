"""Schedules in words."""

from datetime import UTC, datetime

import pytest
from django.utils.translation import override

from djtasks.schedules import clocked, crontab, describe, from_text
from tests.schedules.expressions import any_crontab
from tests.schedules.test_ticks import chance

WORDS = {
    "* * * * *": "every minute",
    "*/5 * * * *": "every 5 minutes",
    "0,30 * * * *": "every 30 minutes",
    "0 * * * *": "every hour",
    "1 * * * *": "at 1 minute past every hour",
    "15 * * * *": "at 15 minutes past every hour",
    "*/25 * * * *": "at 0, 25 and 50 minutes past every hour",
    "5-10,35 * * * *": "at 5 to 10 and 35 minutes past every hour",
    "0 */2 * * *": "every 2 hours",
    "0 */5 * * *": "at 00:00, 05:00, 10:00, 15:00 and 20:00 every day",
    "0 9-17 * * *": "every hour from 09:00 to 17:00",
    "15 9-17 * * *": "every hour from 09:15 to 17:15",
    "0,20 8-17 * * *": "at 0 and 20 minutes past the hours 8 to 17",
    "*/5 9-17 * * 1-5": "every 5 minutes from 09:00 to 17:55 on weekdays",
    "* 9 * * *": "every minute from 09:00 to 09:59",
    "*/10 22-3 * * *": "every 10 minutes from 00:00 to 03:50 and from 22:00 to 23:50",
    "* */2 * * *": "every minute in the hours 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20 and 22",
    "30 9 * * *": "at 09:30 every day",
    "30 9 * * mon-fri": "at 09:30 on weekdays",
    "30 9,17 * * sat,sun": "at 09:30 and 17:30 on weekends",
    "0 0 * * 0,1,3": "at 00:00 on Monday, Wednesday and Sunday",
    "0 0 1 * *": "at 00:00 on the 1st of each month",
    "0 0 2,3,11,21-23 * *": "at 00:00 on the 2nd, 3rd, 11th and 21st to 23rd of each month",
    "0 0 13 * fri": "at 00:00 on the 13th of each month, if that is a Friday",
    "0 4 1-7 * mon,tue": "at 04:00 on the 1st to 7th of each month, if that is a Monday or Tuesday",
    "0 4 1 * 1-5": "at 04:00 on the 1st of each month, if that is a weekday",
    "0 4 25 12 0,6": "at 04:00 on the 25th of December, if that is a weekend day",
    "0 0 1 1,7 *": "at 00:00 on the 1st of January and July",
    "0 0 * 6-8 *": "at 00:00 every day in June to August",
    "*/5 * * 1 *": "every 5 minutes in January",
    "0 9 * 2 1-5": "at 09:00 on weekdays in February",
    "* * * * * *": "every second",
    "* * * * * */10": "every 10 seconds",
    "* * * * * 30": "at second 30 of every minute",
    "30 9 * * * 15": "at 09:30:15 every day",
    "* 9-17 * * * */10": "every 10 seconds from 09:00:00 to 17:59:50",
    "* 9 * * * 5,7": "at seconds 5 and 7 of every minute from 09:00:05 to 09:59:07",
    "0-9 * * * * *": "at seconds 0 to 59 of minutes 0 to 9 of every hour",
    "5 * * * * 0,1": "at seconds 0 and 1 of minute 5 of every hour",
    "1-9 3 * * * 5,7": "at seconds 5 and 7 of minutes 1 to 9 of the hour 3",
    "every second": "every second",
    "every 30 seconds": "every 30 seconds",
    "every 1.5 seconds": "every 1.5 seconds",
    "every 0.5 seconds": "every 0.5 seconds",
    "every minute": "every minute",
    "every 90 minutes": "every 90 minutes",
    "every hour": "every hour",
    "every day": "every 24 hours",
    "every 2 weeks": "every 14 days",
}


@pytest.mark.parametrize("text", WORDS)
def test_a_schedule_is_told_in_words(text):
    assert describe(from_text(text)) == WORDS[text]


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2026, 11, 21, 10, tzinfo=UTC), "once at 2026-11-21 10:00 UTC"),
        (datetime(2026, 11, 21, 10, 0, 30, tzinfo=UTC), "once at 2026-11-21 10:00:30 UTC"),
        (datetime(2026, 11, 21, 10, 0, 30, 5, tzinfo=UTC), "once at 2026-11-21 10:00:30.000005 UTC"),
    ],
)
def test_a_time_is_told_in_utc(moment, words):
    assert describe(clocked(moment)) == words


def test_crontabs_that_differ_are_told_differently():
    told = {}
    for number in range(4000):
        made = any_crontab(chance(number), with_seconds=bool(number % 3 == 0))
        assert told.setdefault(describe(made), made) == made
    assert len(told) > 2000


def test_the_names_of_days_are_those_of_the_active_language():
    with override("de"):
        assert "Montag" in describe(crontab(0, 0, day_of_week="mon"))
