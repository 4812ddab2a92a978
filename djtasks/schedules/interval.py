"""`schedule`: runs again and again, a fixed time after the last tick."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final

from djtasks.exceptions import ParseException
from djtasks.exceptions import gettext_noop as _
from djtasks.schedules.wall import in_zone, split

_MICROSECOND: Final = timedelta(microseconds=1)
_UNITS: Final = (  # and from how many on each is used: "every day" would sound like a time of day
    ("day", timedelta(days=1), 2),
    ("hour", timedelta(hours=1), 1),
    ("minute", timedelta(minutes=1), 1),
)


class schedule:
    """Runs every so many seconds (int or float) or every `timedelta`, counted in elapsed time.

    A clock change does not move it. `run_every` is the timedelta. Raises ParseException, a ValueError, if
    it is not longer than zero, TypeError if it is no duration.
    """

    def __init__(self, run_every: float | timedelta) -> None:
        self.run_every: Final = _duration(run_every)

    @property
    def seconds(self) -> float:
        return self.run_every.total_seconds()

    def next_after(self, after: datetime) -> datetime:
        """`after`, an aware datetime, and the time between; in the same zone. ValueError for a naive one."""
        now, zone = split(after)
        return in_zone(now + self.run_every, zone)

    def in_units(self) -> tuple[str, str]:
        """How many of which unit, as people say it: ("10", "minute"), ("1.5", "second"), ("24", "hour")."""
        for unit, length, least in _UNITS:
            count, rest = divmod(self.run_every, length)
            if not rest and count >= least:
                return str(count), unit
        whole, rest = divmod(self.run_every, timedelta(seconds=1))
        return f"{whole}.{rest // _MICROSECOND:06}".rstrip("0").rstrip("."), "second"

    def __str__(self) -> str:
        count, unit = self.in_units()
        return f"every {unit}" if count == "1" else f"every {count} {unit}s"

    def __repr__(self) -> str:
        return f"schedule({self.seconds:.15g})" if self.seconds < 1e9 else f"schedule({self.run_every!r})"

    def __eq__(self, other: object) -> bool:
        return self.run_every == other.run_every if isinstance(other, schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash((schedule, self.run_every))


def _duration(given: object) -> timedelta:
    if isinstance(given, bool) or not isinstance(given, (int, float, timedelta)):
        raise TypeError(f"schedule() takes seconds (int or float) or a timedelta, not {given!r}.")
    if not isinstance(given, timedelta):
        if not math.isfinite(given):
            raise ParseException(f"schedule({given!r}): seconds must be a finite number.")
        try:
            given = timedelta(seconds=given)
        except OverflowError:
            raise ParseException(f"schedule({given!r}): that is longer than a timedelta can be.") from None
    if given < _MICROSECOND:
        raise ParseException(_("schedule({given!r}): the time between two runs must be longer than zero."), given=given)
    return given
