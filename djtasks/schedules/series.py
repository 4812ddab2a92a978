"""The ticks of one schedule in its zone, between a first and a last time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from djtasks.exceptions import ParseException
from djtasks.exceptions import gettext_noop as _
from djtasks.schedules.interval import schedule as interval
from djtasks.schedules.ticks import Schedule

_MOMENT: Final = timedelta(microseconds=1)


def zone_named(name: str) -> ZoneInfo:
    """The zone of that IANA name. Raises ParseException, a ValueError, that names the nearest."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, no relative path, a folder of zones
        close = get_close_matches(name, available_timezones(), n=1, cutoff=0.6)
        text = _("There is no time zone {name!r} here. Write it as Europe/Berlin, or UTC.")
        if close:
            text = _("There is no time zone {name!r} here. Did you mean {near}?")
        raise ParseException(text, name=name, near=close[0] if close else "") from None


@dataclass(frozen=True, slots=True)
class Series:
    """The ticks of `schedule`, matched in `zone`; none before `start` or after `end`, aware times. Ticks are in UTC.

    An interval with a `start` counts from there: `start` itself is its first tick.
    """

    schedule: Schedule
    zone: tzinfo
    start: datetime | None = None
    end: datetime | None = None

    def first(self, now: datetime) -> datetime | None:
        """The first tick later than `now`, None if there is none. An interval without a `start` counts from `now`."""
        return self._next(now, anchor=self.start or now)

    def after(self, tick: datetime, later_than: datetime | None = None) -> datetime | None:
        """The tick that follows `tick`, with `later_than` the first later than that; None if there is none.

        An interval goes on in whole steps from `tick`.
        """
        return self._next(max(tick, later_than or tick), anchor=tick)

    def since(self, tick: datetime) -> Iterator[datetime]:
        """`tick`, which is one, and all that follow."""
        following: datetime | None = tick
        while following is not None:
            yield following
            following = self.after(following)

    def between(self, tick: datetime, until: datetime, count: int) -> list[datetime]:
        """The first `count` ticks from `tick`, which is one, to `until`."""
        return list(islice(takewhile(lambda each: each <= until, self.since(tick)), count))

    def latest(self, tick: datetime, until: datetime, count: int) -> list[datetime]:
        """The last `count` ticks from `tick`, which is one, to `until`: found by halving, however many there are."""
        found = self.between(tick, until, count + 1)
        if len(found) <= count:
            return found
        early, late = found[0], until  # after the one there are `count` or more, after the other fewer
        while late - early > _MOMENT:
            middle = early + (late - early) // 2
            following = self._later(tick, middle, until, count)
            if len(following) == count:
                early, found = middle, following
            else:
                late = middle
        return found[-count:]

    def _later(self, anchor: datetime, moment: datetime, until: datetime, count: int) -> list[datetime]:
        first = self.after(anchor, later_than=moment)
        return self.between(first, until, count) if first is not None else []

    def _next(self, moment: datetime, anchor: datetime) -> datetime | None:
        if self.start is not None:
            moment = max(moment, self.start - _MOMENT)
        try:
            if isinstance(self.schedule, interval):
                tick = anchor + ((moment - anchor) // self.schedule.run_every + 1) * self.schedule.run_every
            else:
                found = self.schedule.next_after(moment.astimezone(self.zone))
                if found is None:
                    return None
                tick = found
        except OverflowError:  # after the year 9999
            return None
        return None if self.end is not None and tick > self.end else tick.astimezone(UTC)
