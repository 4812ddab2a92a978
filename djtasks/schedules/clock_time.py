"""`clocked`: runs once, at a certain time; the name is django-celery-beat's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from djtasks.schedules.wall import in_zone, split


class clocked:
    """Runs once, at an aware datetime. `clocked_time` is that time in UTC. Raises ValueError for a naive one."""

    def __init__(self, clocked_time: datetime) -> None:
        if not isinstance(clocked_time, datetime):
            raise TypeError(f"clocked() takes an aware datetime, not {clocked_time!r}.")
        instant, _ = split(clocked_time)
        self.clocked_time: Final = instant.replace(tzinfo=UTC)

    def next_after(self, after: datetime) -> datetime | None:
        """The time, in the zone of `after`, if it is later than that, else None. ValueError if `after` is naive."""
        now, zone = split(after)
        instant = self.clocked_time.replace(tzinfo=None)
        return in_zone(instant, zone) if instant > now else None

    def __str__(self) -> str:
        return f"at {self.clocked_time.isoformat()}"

    def __repr__(self) -> str:
        return f"clocked({self.clocked_time!r})"

    def __eq__(self, other: object) -> bool:
        return self.clocked_time == other.clocked_time if isinstance(other, clocked) else NotImplemented

    def __hash__(self) -> int:
        return hash((clocked, self.clocked_time))
