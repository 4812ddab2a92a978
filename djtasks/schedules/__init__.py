"""When periodic tasks run: `crontab`, `schedule` and `clocked`, and the text form of each.

Knows no models and no settings, so that a settings module can import it. How times are counted around
clock changes: docs/schedules.md.
"""

from djtasks.exceptions import ParseException
from djtasks.schedules.clock_time import clocked
from djtasks.schedules.cron import crontab
from djtasks.schedules.description import describe
from djtasks.schedules.interval import schedule
from djtasks.schedules.series import Series, zone_named
from djtasks.schedules.text import MAX_TEXT_LENGTH, as_schedule, from_text, to_text
from djtasks.schedules.ticks import Schedule, upcoming

__all__ = [
    "MAX_TEXT_LENGTH",
    "ParseException",
    "Schedule",
    "Series",
    "as_schedule",
    "clocked",
    "crontab",
    "describe",
    "from_text",
    "schedule",
    "to_text",
    "upcoming",
    "zone_named",
]
