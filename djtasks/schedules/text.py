"""Schedules as text: what a settings file, a column of the database and a person in the admin write.

The text of a schedule is `str(schedule)`: "*/5 9-17 * * 1-5", "every 30 seconds", "at 2026-11-21T10:00:00+00:00".
`from_text` reads that, and more loosely what people write.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from djtasks.exceptions import ParseException
from djtasks.exceptions import gettext_noop as _
from djtasks.schedules.clock_time import clocked
from djtasks.schedules.cron import crontab
from djtasks.schedules.interval import schedule
from djtasks.schedules.ticks import Schedule

MAX_TEXT_LENGTH: Final = 255  # characters, of the column
LONGEST_READ: Final = 1000  # characters; errors quote the text, and end up in pages and logs

_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_UNITS: Final = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "millisecond": timedelta(milliseconds=1),
}
_SHORT_UNITS: Final = {
    "s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "hr": "hour",
    "d": "day", "w": "week", "wk": "week", "ms": "millisecond",
}  # fmt: skip
_CALENDAR_UNITS: Final = {"month": "0 0 1 * *", "quarter": "0 0 1 */3 *", "year": "0 0 1 1 *"}
_AMOUNT: Final = re.compile(r"(?P<count>[0-9]{1,15}(?:\.[0-9]{1,9})?)?\s*(?P<unit>[a-z]+)(?:\s*,|\s+and\b)?\s*")
_NO_SCHEDULE: Final = _(
    '{text!r} is no schedule. Write five fields as in cron ("30 9 * * mon-fri", minute first), six with the seconds '
    'last, "every 10 minutes", "at 2026-11-21T10:00:00+00:00", or @hourly, @daily, @weekly, @monthly, @yearly.'
)


def to_text(schedule: Schedule) -> str:
    """The text of a schedule, from which `from_text` makes an equal one.

    Raises ValueError for a crontab with so many single numbers that it takes more than MAX_TEXT_LENGTH.
    """
    text = str(schedule)
    if len(text) > MAX_TEXT_LENGTH:
        raise ParseException(
            _("This crontab takes {count} characters, and only {most} can be stored: {text}. Split it in two."),
            count=len(text),
            most=MAX_TEXT_LENGTH,
            text=text,
        )
    return text


def from_text(text: str) -> Schedule:
    """The schedule that a text means. Raises ParseException, a ValueError, that says how to write one."""
    given = " ".join(text.split())
    if len(given) > LONGEST_READ:
        raise ParseException(
            _("{text!r}… is no schedule: it has {count} characters."), text=given[:40], count=len(given)
        )
    lowered = given.lower()
    first, _space, rest = lowered.partition(" ")
    if first.startswith("@"):
        return _alias(lowered)
    if first in ("at", "once"):
        return clocked(_moment(rest.removeprefix("at ")))
    if first == "every":
        return schedule(_duration(rest))
    if len(given.split(" ")) in (5, 6):
        return crontab.from_string(lowered)
    raise ParseException(_NO_SCHEDULE, text=text)


def as_schedule(given: object) -> Schedule:
    """The schedule that a settings file or a task's `schedule` option means.

    Takes a schedule, seconds (int or float), a timedelta, an aware datetime (once, then), or a text for
    `from_text`. Raises ValueError for one that cannot be, TypeError for anything else.
    """
    if isinstance(given, Schedule):
        return given
    if isinstance(given, str):
        return from_text(given)
    if isinstance(given, datetime):
        return clocked(given)
    if isinstance(given, (int, float, timedelta)) and not isinstance(given, bool):
        return schedule(given)
    kind = f"{type(given).__module__}.{type(given).__name__}"
    raise TypeError(
        "A schedule is a crontab, schedule or clocked of djtasks.schedules, seconds, a timedelta, an aware datetime, "
        f'or a text such as "every 10 minutes" or "30 9 * * mon-fri"; not the {kind} {given!r}.'
    )


def _alias(text: str) -> crontab:
    if text not in _ALIASES:
        raise ParseException(_("There is no {text!r}. These are known: {names}."), text=text, names=", ".join(_ALIASES))
    return crontab.from_string(_ALIASES[text])


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(re.sub(r" ?(utc|z)$", "+00:00", text).replace(" +", "+").upper())
    except ValueError:
        raise ParseException(
            _("at {text!r}: that is no date and time. Write it as 2026-11-21T10:00:00+00:00."), text=text
        ) from None
    if moment.tzinfo is None:
        raise ParseException(
            _(
                "at {text!r}: that has no offset from UTC, so nobody knows when it is. "
                "Add one, as in 2026-11-21T10:00:00+00:00; Z is UTC."
            ),
            text=text,
        )
    return moment


def _duration(text: str) -> timedelta:
    amounts: list[tuple[str | None, str]] = []
    position = 0
    while found := _AMOUNT.match(text, position):
        amounts.append((found["count"], found["unit"]))
        position = found.end()
    # "every second minute" means two minutes, not a second and a minute.
    if not amounts or position < len(text) or (len(amounts) > 1 and not all(count for count, unit in amounts)):
        raise ParseException(
            _(
                "every {text!r}: write a number and a unit (seconds, minutes, hours, days, weeks), "
                "as in every 10 minutes."
            ),
            text=text,
        )
    try:
        return sum((_amount(count or "1", unit) for count, unit in amounts), timedelta(0))
    except OverflowError:
        raise ParseException(_("every {text!r}: that is longer than can be counted."), text=text) from None


def _amount(count: str, unit: str) -> timedelta:
    name = _SHORT_UNITS.get(unit, unit).removesuffix("s")
    name = _SHORT_UNITS.get(name, name)
    if name in _CALENDAR_UNITS:
        raise ParseException(
            _("A {unit} has no fixed length. Write the date as in cron: {example}."),
            unit=name,
            example=_CALENDAR_UNITS[name],
        )
    if name not in _UNITS:
        raise ParseException(_("{unit!r} is no unit of time. Write seconds, minutes, hours, days or weeks."), unit=unit)
    return timedelta(microseconds=int(Decimal(count) * (_UNITS[name] // timedelta(microseconds=1))))
