"""Rates as they are written: "10/m" is one in six seconds."""

from __future__ import annotations

import math
import re
from typing import Final

NONE: Final = "none"  # no limit, where an empty text would mean "as elsewhere"
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smhd])\s*)?")
SHORTEST: Final = 0.0001  # seconds: "10000/s"
LONGEST: Final = 366 * 86400.0  # seconds


def interval_of(rate: object) -> float | None:
    """The seconds from one start to the next; None for no limit (None, "", "none").

    A bare number is so many a second, as in Celery. Raises ValueError.
    """
    if rate is None or (isinstance(rate, str) and rate.strip().lower() in ("", NONE)):
        return None
    found = None if isinstance(rate, bool) or not isinstance(rate, (str, int, float)) else _RATE.fullmatch(str(rate))
    count = float(found[1]) if found else 0.0
    interval = _UNITS[found[2] or "s"] / count if found and count else math.nan
    if not SHORTEST <= interval <= LONGEST:
        raise ValueError(
            f"A rate is written as '10/s', '10/m', '10/h' or '10/d' (at most 10000/s, at least one a year), or 'none' "
            f"for no limit, not {rate!r:.100}."
        )
    return interval


def checked_rate(rate: object) -> str:
    """A rate as it is stored: "" for None. Raises ValueError."""
    if interval_of(rate) is None:
        return "" if rate is None or rate == "" else NONE
    return str(rate).strip()
