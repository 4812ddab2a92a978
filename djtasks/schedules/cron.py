"""`crontab`: runs whenever the clocks on the wall show certain times."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable
from datetime import MAXYEAR, datetime, tzinfo
from typing import Final, Self

from djtasks.exceptions import ParseException
from djtasks.exceptions import gettext_noop as _
from djtasks.schedules import fields
from djtasks.schedules.wall import SECOND, Change, in_zone, instant_of, split

Given = int | str | Iterable[int]
_LONGEST_FEBRUARY: Final = 29


class crontab:
    """Runs at the wall times whose minute, hour, weekday, day, month and second all fit.

    Each field is an int, an iterable of ints, or a text: `*`, `7`, `1-5`, `*/2`, `9-17/2`, several of these
    with commas; weekdays (Sunday is 0) and months also by name. A range may wrap round: `22-3`, `fri-mon`.
    With both a day of the month and a weekday given a day must fit both, as in Celery and unlike in cron.
    Raises ParseException, a ValueError, for what cannot be read and for dates that never occur.

    The numbers are there as frozensets of the same names. Two crontabs are equal if they mean the same times.
    """

    def __init__(
        self,
        minute: Given = "*",
        hour: Given = "*",
        day_of_week: Given = "*",
        day_of_month: Given = "*",
        month_of_year: Given = "*",
        second: Given = "0",
    ) -> None:
        self.minute: Final = fields.MINUTE.parse(minute)
        self.hour: Final = fields.HOUR.parse(hour)
        self.day_of_week: Final = fields.DAY_OF_WEEK.parse(day_of_week)
        self.day_of_month: Final = fields.DAY_OF_MONTH.parse(day_of_month)
        self.month_of_year: Final = fields.MONTH_OF_YEAR.parse(month_of_year)
        self.second: Final = fields.SECOND.parse(second)
        self._refuse_dates_that_never_come()
        self._hour_from: Final = _following(self.hour, 24)
        self._minute_from: Final = _following(self.minute, 60)
        self._second_from: Final = _following(self.second, 60)
        self._first_time: Final = (min(self.hour), min(self.minute), min(self.second))

    @classmethod
    def from_string(cls, text: str) -> Self:
        """Read "minute hour day-of-month month day-of-week", as in a crontab file, and a sixth field for seconds."""
        given = text.split()
        if len(given) not in (5, 6):
            raise ParseException(
                _(
                    "{text!r} has {count} fields. Write five: minute, hour, day of month, month, day of week; "
                    "a sixth is for seconds."
                ),
                text=text,
                count=len(given),
            )
        minute, hour, day_of_month, month_of_year, day_of_week = given[:5]
        second = given[5] if len(given) == 6 else "0"
        return cls(minute, hour, day_of_week, day_of_month, month_of_year, second)

    def next_after(self, after: datetime) -> datetime:
        """The first tick later than `after`, an aware datetime, in whose zone the wall times are meant.

        A wall time that a clock change skips is due at the end of the gap. One that comes twice is due at its
        first time, and again at its second if `hour` is each of the 24. Raises ValueError for a naive
        datetime, OverflowError after the year 9999.
        """
        now, zone = split(after)
        wall = in_zone(now, zone).replace(tzinfo=None, microsecond=0, fold=0)
        change = Change.around(wall, zone)
        if change is None:
            return in_zone(instant_of(self._wall_from(wall + SECOND), zone), zone)
        return in_zone(self._instant_in_fold(wall, change, now, zone), zone)

    def __str__(self) -> str:
        """The text for `from_string`: five fields, or six if the seconds are not just 0."""
        texts = self._texts()
        order = ["minute", "hour", "day_of_month", "month_of_year", "day_of_week"]
        if texts["second"] != "0":
            order.append("second")
        return " ".join(texts[keyword] for keyword in order)

    def __repr__(self) -> str:
        texts = self._texts()
        if texts["second"] == "0":
            del texts["second"]
        return f"crontab({', '.join(f'{keyword}={text!r}' for keyword, text in texts.items())})"

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, crontab) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[frozenset[int], ...]:
        return (self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year, self.second)

    def _texts(self) -> dict[str, str]:
        every = (fields.MINUTE, fields.HOUR, fields.DAY_OF_WEEK, fields.DAY_OF_MONTH, fields.MONTH_OF_YEAR)
        return {field.keyword: field.write(getattr(self, field.keyword)) for field in (*every, fields.SECOND)}

    def _refuse_dates_that_never_come(self) -> None:
        first = min(self.day_of_month)
        if all(first > _longest(month) for month in self.month_of_year):
            raise ParseException(
                _(
                    "{schedule} never occurs: day_of_month is {first} at least, "
                    "and month_of_year has no month with so many days."
                ),
                schedule=self,
                first=first,
            )

    def _instant_in_fold(self, wall: datetime, change: Change, now: datetime, zone: tzinfo) -> datetime:
        """The next tick, in naive UTC, from a `wall` that the clocks show twice."""
        again = now >= change.instant
        if len(self.hour) < 24:
            return instant_of(self._wall_from(change.fold_ends if again else wall + SECOND), zone)
        found = self._wall_from(wall + SECOND)
        if found >= change.fold_ends and not again:
            found, again = self._wall_from(change.fold_begins), True
        if found >= change.fold_ends:
            return instant_of(found, zone)
        return found - (change.after if again else change.before)

    def _wall_from(self, wall: datetime) -> datetime:
        """The first wall time that fits, `wall` itself if it does."""
        year, month, day = wall.year, wall.month, wall.day
        if self._day_in(year, month, day) == day:
            time = self._time_from(wall.hour, wall.minute, wall.second)
            if time is not None:
                return datetime(year, month, day, *time)
        return datetime(*self._date_from(year, month, day + 1), *self._first_time)

    def _time_from(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        """The first time of the day that fits, from this one on; None if the day has no more."""
        _, first_minute, first_second = self._first_time
        if hour in self.hour:
            if minute in self.minute:
                found = self._second_from[second]
                if found is not None:
                    return hour, minute, found
            found = self._minute_from[minute + 1]
            if found is not None:
                return hour, found, first_second
        found = self._hour_from[hour + 1]
        return None if found is None else (found, first_minute, first_second)

    def _date_from(self, year: int, month: int, day: int) -> tuple[int, int, int]:
        """The first date that fits, from this one on. `day` may be beyond the end of its month."""
        while year <= MAXYEAR:
            found = self._day_in(year, month, day)
            if found is not None:
                return year, month, found
            year, month, day = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
        raise OverflowError(f"{self} has no more ticks until the end of the year {MAXYEAR}.")

    def _day_in(self, year: int, month: int, first: int) -> int | None:
        """The first day of the month that fits, from the day `first` on."""
        if month not in self.month_of_year:
            return None
        weekday_before, days = monthrange(year, month)  # 0 is Monday there: so Sunday's 0 is the day before
        for day in range(first, days + 1):
            if day in self.day_of_month and (weekday_before + day) % 7 in self.day_of_week:
                return day
        return None


def _following(numbers: frozenset[int], size: int) -> tuple[int | None, ...]:
    """For each number from 0 to `size`: the next of `numbers` from there on."""
    found: list[int | None] = [None]
    for number in reversed(range(size)):
        found.append(number if number in numbers else found[-1])
    return tuple(reversed(found))


def _longest(month: int) -> int:
    return _LONGEST_FEBRUARY if month == 2 else monthrange(2001, month)[1]
