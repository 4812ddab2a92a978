"""Wall times and the instants at which a zone's clocks show them.

A wall time is a naive datetime in whole seconds. Where clocks go forward it may be shown never (a gap),
where they go back twice (a fold); `datetime.fold` tells the two offsets, PEP 495.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Self

from djtasks.exceptions import ParseException

SECOND: Final = timedelta(seconds=1)
_NO_OFFSET: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Change:
    """A clock change: at `instant`, naive UTC, the offset goes from `before` to `after`."""

    instant: datetime
    before: timedelta
    after: timedelta

    @classmethod
    def around(cls, wall: datetime, zone: tzinfo) -> Self | None:
        """The change that lets the clocks of `zone` show `wall` never or twice; None if they show it once."""
        before, after = _offsets(wall, zone)
        if before == after:
            return None
        early, late = sorted((wall - before, wall - after))
        return cls(_halve(early, late, zone), before, after)

    @property
    def is_fold(self) -> bool:
        return self.before > self.after

    @property
    def fold_begins(self) -> datetime:
        """The first wall time that is shown twice."""
        return self.instant + self.after

    @property
    def fold_ends(self) -> datetime:
        """The first wall time after those that are shown twice."""
        return self.instant + self.before


def instant_of(wall: datetime, zone: tzinfo) -> datetime:
    """Naive UTC at which `wall` is due: the first time that it is shown, or the end of the gap that skips it."""
    before, after = _offsets(wall, zone)
    if before >= after:
        return wall - before
    return _halve(wall - after, wall - before, zone)


def split(moment: datetime) -> tuple[datetime, tzinfo]:
    """An aware datetime as naive UTC and its zone. Raises ParseException for a naive one: nobody knows when that is."""
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ParseException(
            f"{moment!r} has no time zone. A schedule counts in the zone of the time that it gets: "
            "give it an aware datetime, such as django.utils.timezone.now()."
        )
    return moment.astimezone(UTC).replace(tzinfo=None), moment.tzinfo


def in_zone(instant: datetime, zone: tzinfo) -> datetime:
    """The aware datetime of `instant`, naive UTC, in `zone`."""
    return instant.replace(tzinfo=UTC).astimezone(zone)


def _offsets(wall: datetime, zone: tzinfo) -> tuple[timedelta, timedelta]:
    """What `zone` is ahead of UTC at `wall`: before and after a change there; else both are the same."""
    before = wall.replace(tzinfo=zone).utcoffset()
    after = wall.replace(tzinfo=zone, fold=1).utcoffset()
    return before or _NO_OFFSET, after or _NO_OFFSET


def _halve(early: datetime, late: datetime, zone: tzinfo) -> datetime:
    """The second after `early`, up to `late`, at which the offset changes."""
    offset = in_zone(early, zone).utcoffset()
    while late - early > SECOND:
        middle = early + (late - early) // 2
        middle -= timedelta(microseconds=middle.microsecond)
        if in_zone(middle, zone).utcoffset() == offset:
            early = middle
        else:
            late = middle
    return late
