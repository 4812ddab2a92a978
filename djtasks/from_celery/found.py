"""What is found out about a Celery project."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from djtasks.models import PeriodicTask

MOST_URGENT: Final = 9  # of Celery's priorities; on Redis it is 0


@dataclass(slots=True)
class Found:
    """What a Celery project means: `settings` for DJTASKS, `rows` for its schedules, and remarks for people."""

    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[PeriodicTask] = field(default_factory=list)
    needless: list[tuple[str, str]] = field(default_factory=list)  # setting, why it may go
    remarks: list[str] = field(default_factory=list)  # what needs a look
    inverts: bool = False  # whether Celery's priorities are those on Redis

    def turned(self, priority: Any) -> Any:
        """A priority of Celery's as one of ours: the higher, the more urgent."""
        return MOST_URGENT - priority if self.inverts and isinstance(priority, int) else priority


def cron_field(given: Any, name: str) -> Any:
    """As Celery has it: its Sunday may be 7 in a text."""
    if given is None:
        return "*"
    text = given if isinstance(given, (str, int)) else list(given)
    return "0" if name == "day_of_week" and str(text) == "7" else text
