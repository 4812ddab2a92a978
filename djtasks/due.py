"""What a schedule that is due sends, and when it is due next: which ticks are late, and what becomes of missed ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from djtasks.models import PeriodicTask
from djtasks.schedules import Series

LATE: Final = timedelta(seconds=15)  # a tick is late for so long, and missed then
MOST: Final = 100  # ticks that are sent at a time, late or made up for
_COUNTED: Final = 1000  # of the ticks that are left out


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of a schedule: the ticks that are sent, the one after them, None if there is none.

    `beyond` is the one after them however often the row may still run; `left_out` says what is not made up for.
    """

    ticks: tuple[datetime, ...]
    next: datetime | None
    beyond: datetime | None
    left_out: str = ""


def turn_of(row: PeriodicTask, series: Series, due: datetime, now: datetime) -> Turn:
    """What `row`, whose next tick `due` is in the near future or has passed, has to do.

    A tick that is at most LATE late is sent. Of those before, `catch_up` tells which are made up for. Of a row that
    may not overlap there is one job at a time.
    """
    if due > now and row.max_runs is None and not row.one_off:  # nearly all, and thousands at a time
        following = series.after(due)
        return Turn((due,), following, following)
    limit = now - LATE
    ticks: list[datetime] = []
    left_out, following = "", series.after(due, later_than=limit) if due < limit else due
    if due < limit:
        ticks, left_out = _made_up(row, series, due, limit, now)
    late = [] if following is None else series.between(following, max(now, due), MOST)
    beyond = series.after(late[-1]) if late else following
    ticks = [*ticks, *late][: _most_runs(row)]
    is_last = (row.one_off and ticks) or (row.max_runs is not None and row.total_run_count + len(ticks) >= row.max_runs)
    return Turn(tuple(ticks), None if is_last else beyond, beyond, left_out)


def _made_up(
    row: PeriodicTask, series: Series, due: datetime, limit: datetime, now: datetime
) -> tuple[list[datetime], str]:
    """The missed ticks that are sent after all, and what is said of the others."""
    most = {row.CatchUp.SKIP: 0, row.CatchUp.ONCE: 1, row.CatchUp.ALL: MOST}[row.CatchUp(row.catch_up)]
    found = series.latest(due, limit, most) if most else []
    if row.misfire_grace is not None:
        since = now - timedelta(seconds=row.misfire_grace)
        found = [tick for tick in found if tick >= since]
    return found, _left_out(series, due, found[0] if found else limit, len(found))


def _left_out(series: Series, due: datetime, until: datetime, sent: int) -> str:
    """How many ticks from `due` on were missed, in words."""
    count = len(series.between(due, until - timedelta(microseconds=1), _COUNTED))
    number = f"{count}{' or more' if count == _COUNTED else ''}"
    return f"ticks were missed since {due.isoformat()}: {sent} made up for, {number} left out"


def _most_runs(row: PeriodicTask) -> int | None:
    """How many jobs may be sent at a time, None for any number."""
    if row.one_off or not row.overlap:
        return 1
    return None if row.max_runs is None else max(0, row.max_runs - row.total_run_count)
