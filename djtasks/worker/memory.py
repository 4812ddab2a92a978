"""How much memory a worker takes, as Linux tells it."""

from __future__ import annotations

import contextlib
from pathlib import Path

_UNIT = "Pss:"  # each page counts in proportion to how many share it


def taken_by(parent: int) -> int | None:
    """KiB that a process and those that it has forked take, what they share counted once; None where nobody tells."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        total = _taken(str(parent))
    except OSError:
        return None
    for pid in children:
        with contextlib.suppress(OSError):  # it has just ended
            total += _taken(pid)
    return total


def _taken(pid: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(_UNIT))
