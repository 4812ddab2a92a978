"""Schedules in words, in the language that is active: "at 09:30 on weekdays"."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import product
from typing import Final

from django.utils.dates import MONTHS, WEEKDAYS
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext

from djtasks.schedules.clock_time import clocked
from djtasks.schedules.cron import crontab
from djtasks.schedules.fields import runs
from djtasks.schedules.interval import schedule
from djtasks.schedules.ticks import Schedule

_FEW_TIMES: Final = 4  # up to these a list says it best
_MANY_TIMES: Final = 12  # beyond these a list of times is too long to read
_MANY_SPANS: Final = 3
_WORKDAYS: Final = frozenset({1, 2, 3, 4, 5})
_WEEKEND: Final = frozenset({0, 6})
_EACH_HOUR: Final = frozenset(range(24))
_EACH_MINUTE: Final = frozenset(range(60))
_ON_THE_MINUTE: Final = frozenset({0})


def describe(schedule: Schedule) -> str:
    """A schedule in words, in the active language; the zone of a crontab is the caller's to add.

    Needs Django's settings, since they say which languages there are.
    """
    if isinstance(schedule, crontab):
        return _crontab(schedule)
    if isinstance(schedule, clocked):
        pattern = "%Y-%m-%d %H:%M:%S.%f" if schedule.clocked_time.microsecond else "%Y-%m-%d %H:%M:%S"
        time = schedule.clocked_time.strftime(pattern).removesuffix(":00")
        return _("once at %(time)s UTC") % {"time": time}
    return _interval(schedule)


def _interval(every: schedule) -> str:
    count, unit = every.in_units()
    return _every(count, unit)


def _every(count: str, unit: str) -> str:
    number = int(count) if count.isdigit() else 2  # 0.5 and 1.5 seconds are a plural
    texts = {
        "second": ngettext("every second", "every %(count)s seconds", number),
        "minute": ngettext("every minute", "every %(count)s minutes", number),
        "hour": ngettext("every hour", "every %(count)s hours", number),
        "day": ngettext("every %(count)s day", "every %(count)s days", number),
    }
    return texts[unit] % {"count": count}


def _crontab(cron: crontab) -> str:
    listed = _times(cron, _FEW_TIMES)
    ruled = None if listed else _rule(cron)
    listed = listed or (None if ruled else _times(cron, _MANY_TIMES))
    days = _days(cron)
    if listed and cron.day_of_month == frozenset(range(1, 32)) and len(cron.day_of_week) == 7:
        days = _within(_("every day"), days)
    times = listed or ruled or _numbers_of_each(cron)
    return _("%(times)s %(days)s") % {"times": times, "days": days} if days else times


def _times(cron: crontab, most: int) -> str | None:
    """All times of a day: "at 09:00 and 17:30"; None if these are more than `most`."""
    if len(cron.hour) * len(cron.minute) * len(cron.second) > most:
        return None
    times = product(sorted(cron.hour), sorted(cron.minute), sorted(cron.second))
    return _("at %(times)s") % {"times": _and([_clock(cron, *time) for time in times])}


def _rule(cron: crontab) -> str | None:
    """ "every 5 minutes", "every hour from 09:15 to 17:15"; None if there is no such rule."""
    if len(cron.minute) == 1 and cron.second == _ON_THE_MINUTE:
        return _hourly(cron)
    rhythm = _rhythm(cron)
    if rhythm is None or cron.hour == _EACH_HOUR:
        return rhythm
    return _("%(rule)s %(hours)s") % {"rule": rhythm, "hours": _spans(cron)}


def _rhythm(cron: crontab) -> str | None:
    """What recurs all through each hour."""
    if cron.second == _ON_THE_MINUTE:
        step = _step(cron.minute, 60)
        return _every(str(step), "minute") if step else None
    if cron.minute != _EACH_MINUTE:
        return None
    step = _step(cron.second, 60)
    if step:
        return _every(str(step), "second")
    return _("%(seconds)s of every minute") % {"seconds": _at_seconds(cron)}


def _hourly(cron: crontab) -> str | None:
    (minute,) = cron.minute
    step = _step(cron.hour, 24)
    if minute == 0 and step:
        return _every(str(step), "hour")
    if cron.hour == _EACH_HOUR:
        return _past(cron)
    if len(runs(sorted(cron.hour))) == 1:
        return _("%(rule)s %(hours)s") % {"rule": _every("1", "hour"), "hours": _spans(cron)}
    return None


def _numbers_of_each(cron: crontab) -> str:
    """The form that always fits: the numbers of each field."""
    if cron.second == _ON_THE_MINUTE:
        return _past(cron)
    seconds, minutes, hours = _at_seconds(cron), _ranges(cron.minute), _of_hours(cron)
    if cron.minute == _EACH_MINUTE:
        return _("%(seconds)s of every minute of %(hours)s") % {"seconds": seconds, "hours": hours}
    text = ngettext(
        "%(seconds)s of minute %(minutes)s of %(hours)s", "%(seconds)s of minutes %(minutes)s of %(hours)s",
        len(cron.minute),
    )  # fmt: skip
    return text % {"seconds": seconds, "minutes": minutes, "hours": hours}


def _at_seconds(cron: crontab) -> str:
    text = ngettext("at second %(seconds)s", "at seconds %(seconds)s", len(cron.second))
    return text % {"seconds": _ranges(cron.second)}


def _past(cron: crontab) -> str:
    plural = 1 if cron.minute == {1} else 2
    text = ngettext("at %(minutes)s minute past %(hours)s", "at %(minutes)s minutes past %(hours)s", plural)
    return text % {"minutes": _ranges(cron.minute), "hours": _of_hours(cron)}


def _of_hours(cron: crontab) -> str:
    if cron.hour == _EACH_HOUR:
        return pgettext("after “at 15 minutes past”", "every hour")
    return ngettext("the hour %(hours)s", "the hours %(hours)s", len(cron.hour)) % {"hours": _ranges(cron.hour)}


def _spans(cron: crontab) -> str:
    """From the first to the last time in each run of hours."""
    found = runs(sorted(cron.hour))
    if len(found) > _MANY_SPANS:
        return _("in the hours %(hours)s") % {"hours": _ranges(cron.hour)}
    first = (min(cron.minute), min(cron.second))
    last = (max(cron.minute), max(cron.second))
    return _and(
        [
            _("from %(first)s to %(last)s")
            % {"first": _clock(cron, run[0], *first), "last": _clock(cron, run[-1], *last)}
            for run in found
        ]
    )


def _days(cron: crontab) -> str:
    """On which days: "on weekdays in July"; "" if that is each day."""
    months = (
        "" if len(cron.month_of_year) == 12 else _and(_in_runs(cron.month_of_year, lambda month: str(MONTHS[month])))
    )
    if len(cron.day_of_month) < 31:
        return _dates(cron, months or _("each month"))
    weekdays = "" if len(cron.day_of_week) == 7 else _weekdays(cron.day_of_week)
    within = _("in %(months)s") % {"months": months} if months else ""
    return _within(weekdays, within)


def _within(weekdays: str, months: str) -> str:
    """ "on Mondays in July"; either may be ""."""
    if weekdays and months:
        return _("%(weekdays)s %(months)s") % {"weekdays": weekdays, "months": months}
    return weekdays or months


def _dates(cron: crontab, months: str) -> str:
    days = _and(_in_runs(cron.day_of_month, _ordinal))
    dates = _("on the %(days)s of %(months)s") % {"days": days, "months": months}
    if len(cron.day_of_week) == 7:
        return dates
    weekdays = {_WORKDAYS: _("weekday"), _WEEKEND: _("weekend day")}.get(cron.day_of_week)
    return _("%(dates)s, if that is a %(weekdays)s") % {
        "dates": dates,
        "weekdays": weekdays or _or(_names_of(cron.day_of_week)),
    }


def _weekdays(numbers: frozenset[int]) -> str:
    if numbers == _WORKDAYS:
        return _("on weekdays")
    if numbers == _WEEKEND:
        return _("on weekends")
    return _("on %(weekdays)s") % {"weekdays": _and(_names_of(numbers))}


def _names_of(weekdays: Collection[int]) -> list[str]:
    from_monday = sorted((number - 1) % 7 for number in weekdays)  # as Django's WEEKDAYS counts
    return [str(WEEKDAYS[number]) for number in from_monday]


def _ordinal(number: int) -> str:
    last = number % 10 if number not in (11, 12, 13) else 0
    texts = {
        1: pgettext("day of the month", "%(number)sst"),
        2: pgettext("day of the month", "%(number)snd"),
        3: pgettext("day of the month", "%(number)srd"),
    }
    return texts.get(last, pgettext("day of the month", "%(number)sth")) % {"number": number}


def _clock(cron: crontab, hour: int, minute: int, second: int) -> str:
    """As a digital clock shows it, with seconds where the crontab has some."""
    return f"{hour:02}:{minute:02}" if cron.second == _ON_THE_MINUTE else f"{hour:02}:{minute:02}:{second:02}"


def _step(numbers: frozenset[int], size: int) -> int | None:
    """1 if all numbers are in, 5 if each fifth from 0 on is and the last is as far from the next 0; else None."""
    step = size // len(numbers)
    even = size % step == 0 and len(numbers) > 1 and numbers == frozenset(range(0, size, step))
    return step if even else None


def _ranges(numbers: Collection[int]) -> str:
    return _and(_in_runs(numbers, str))


def _in_runs(numbers: Collection[int], written: Callable[[int], str]) -> list[str]:
    """Three or more in a row as "5 to 8"."""
    texts: list[str] = []
    for run in runs(sorted(numbers)):
        if len(run) > 2:
            texts.append(_("%(first)s to %(last)s") % {"first": written(run[0]), "last": written(run[-1])})
        else:
            texts.extend(map(written, run))
    return texts


def _and(texts: Sequence[str]) -> str:
    return _joined(texts, _("%(several)s and %(last)s"))


def _or(texts: Sequence[str]) -> str:
    return _joined(texts, _("%(several)s or %(last)s"))


def _joined(texts: Sequence[str], pattern: str) -> str:
    if len(texts) == 1:
        return texts[0]
    return pattern % {"several": _(", ").join(texts[:-1]), "last": texts[-1]}
