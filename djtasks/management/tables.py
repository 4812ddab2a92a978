"""Times and tables on a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))  # seconds


def time_and_age(moment: datetime | None) -> str:
    """The time in UTC, and how far off it is: '2026-01-02T03:04:05+00:00 (3 min ago)'."""
    if moment is None:
        return "-"
    return f"{moment.astimezone(UTC).isoformat(timespec='seconds')} ({_distance(moment)})"


def _distance(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    size, unit = next((each for each in UNITS if abs(seconds) >= each[0]), (1, "s"))
    span = f"{int(abs(seconds) // size)} {unit}"
    return f"{span} ago" if seconds >= 0 else f"in {span}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines with aligned columns, numbers to the right."""
    cells = [list(head), *([printable(str(value)) for value in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    is_number = [isinstance(value, int) for value in rows[0]]
    return [
        "  ".join(
            " " * (width - _width(cell)) + cell if right else cell + " " * (width - _width(cell))
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in cells
    ]


def printable(text: str) -> str:
    """`text` without what a terminal would obey."""
    return text if text.isprintable() else repr(text)[1:-1]


def _width(text: str) -> int:
    """The columns that `text` takes on a terminal."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def can_be_written(text: str) -> bool:
    """Whether it is text: what a shell gives in another encoding is none, and no server takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
