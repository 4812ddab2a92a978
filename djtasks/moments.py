"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

MINUTE: Final = 60  # seconds
HOUR: Final = 3600
DAY: Final = 86400


def exactly(moment: datetime) -> str:
    """A time to the second, in the current time zone, with its name."""
    local = timezone.localtime(moment)
    return f"{date_format(local, 'Y-m-d H:i:s')} {local.tzname()}"


def distance(moment: datetime) -> str:
    """'3 min ago', 'in 2 h'."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if -1 < seconds < 1:
        return _("just now")
    span = _coarse(abs(seconds))
    return _("%(span)s ago") % {"span": span} if seconds > 0 else _("in %(span)s") % {"span": span}


def _coarse(seconds: float) -> str:
    for size, text in ((DAY, _("%(n)d d")), (HOUR, _("%(n)d h")), (MINUTE, _("%(n)d min"))):
        if seconds >= size:
            return text % {"n": seconds // size}
    return _("%(n)d s") % {"n": seconds}
