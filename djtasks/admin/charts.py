"""The charts of the dashboard, as tables: a script draws what stands in them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from html import escape
from math import ceil, exp, floor, log10
from typing import Final

from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from djtasks.admin.presentation import NOTHING, duration
from djtasks.brokers.base import QueueSize
from djtasks.models.metric import STEPS
from djtasks.moments import HOUR, MINUTE, exactly
from djtasks.trends import Point, Trends

MOST_QUEUES: Final = 6  # lines of the chart of depths; the others are one line
FIGURES: Final = 3  # of a number that is not whole; one less below 1
LEAST: Final = 0.1  # a smaller pace is told of a longer time
SHARES: Final = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))

_ENDS: Final = (  # seconds
    *(digit * 10.0**power for power in range(-5, 1) for digit in (1, 2, 5)),
    *(10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 18000.0, 43200.0, 86400.0),
)

Reader = Callable[[Point], float | None]
Line = tuple[str, str, Reader]  # name, colour (one of those in dashboard.css), value
TimedPoint = tuple[Point, tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One value: for the script, and for people; '' if there is none."""

    value: str
    text: str

    @property
    def markup(self) -> str:
        shown = escape(self.text)
        return f'<data value="{escape(self.value)}">{shown}</data>' if self.value else shown


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one time."""

    iso: str
    exactly: str
    text: str
    cells: Sequence[Cell]

    @property
    def markup(self) -> SafeString:
        """The row of a table: there are hundreds, for which a template takes several times as long."""
        times = f'<time datetime="{escape(self.iso)}" title="{escape(self.exactly)}">{escape(self.text)}</time>'
        cells = "".join(f'<td class="djtasks-number">{cell.markup}</td>' for cell in self.cells)
        return mark_safe(f'<tr><th scope="row">{times}</th>{cells}</tr>')  # noqa: S308 - all in it is escaped


@dataclass(frozen=True, slots=True)
class Chart:
    """`unit` is "rate" (by the second), "seconds" or "jobs"; `lines` are names and colours."""

    name: str
    title: str
    note: str
    unit: str
    lines: Sequence[tuple[str, str]]
    rows: Sequence[Row]

    @property
    def is_empty(self) -> bool:
        return not any(cell.value for row in self.rows for cell in row.cells)


def number(value: float) -> str:
    """A number to three figures or two: '1,234', '12.3', '0.0042'."""
    if value == 0 or value >= 10 ** (FIGURES - 1):
        return str(number_format(round(value), 0, use_l10n=True, force_grouping=True))
    digits = FIGURES - 1 - floor(log10(abs(value))) - (value < 1)
    text = f"{value:.{digits}f}"
    return str(number_format(text.rstrip("0").rstrip(".") if "." in text else text))


def ready_text(size: QueueSize, recorded: float | None = None) -> str:
    """How many jobs are ready. Where they are too many to count at once, it is what was `recorded` last."""
    if not size.more_ready:
        return number(size.ready)
    return f"≈ {number(recorded)}" if recorded and recorded > size.ready else f"{number(size.ready)}+"


def scheduled_text(size: QueueSize) -> str:
    """How many jobs wait for their time."""
    return f"{number(size.scheduled)}+" if size.more_scheduled else number(size.scheduled)


def rate(value: float | None) -> str:
    """So many by the second."""
    return NOTHING if value is None else _("%(n)s/s") % {"n": number(value)}


def pace(value: float | None) -> str:
    """So many by the second; by the minute or the hour where that is easier to read."""
    if value is None or value == 0 or value >= LEAST:
        return rate(value)
    if value * MINUTE >= LEAST:
        return _("%(n)s/min") % {"n": number(value * MINUTE)}
    return _("%(n)s/h") % {"n": number(value * HOUR)}


def jobs(value: float | None) -> str:
    """How many jobs there are, or were on average."""
    return NOTHING if value is None else number(value)


def about(seconds: float | None) -> str:
    """A time that is known to a tenth: '12 ms', '3.2 s', '4 min 5 s'."""
    if seconds is None or seconds >= MINUTE:
        return duration(seconds)
    value, text = (seconds * 1000, _("%(n)s ms")) if seconds < 1 else (seconds, _("%(n)s s"))
    return text % {"n": number(float(f"{value:.2g}"))}


_TEXTS: Final[Mapping[str, Callable[[float | None], str]]] = {"rate": rate, "seconds": about, "jobs": jobs}


def charts(trends: Trends, depths: Mapping[str, float] | None) -> list[Chart]:
    """All charts of the window; `depths` is how many jobs are ready in each queue now, None if nobody knows."""
    points = _timed(trends)
    in_queue, running = (_("Time in queue"), _("from ready to started")), (_("Run time"), _("from started to finished"))
    return [
        _chart("throughput", (_("Throughput"), _("jobs per second")), "rate", _throughput(), points),
        _chart("waits", in_queue, "seconds", _quantiles("wait"), points),
        _chart("runs", running, "seconds", _quantiles("run"), points),
        _chart("depths", (_("Depth of the queues"), _("ready jobs")), "jobs", _depths(trends, depths), points),
    ]


def charts_of_task(trends: Trends) -> list[Chart]:
    """How many jobs of one task ended, and how long they ran; `trends` is of that task."""
    points, ends = _timed(trends), [line for line in _throughput() if line[1] != "in"]
    return [
        _chart("throughput", (_("Throughput"), _("jobs per second")), "rate", ends, points),
        _chart("runs", (_("Run time"), _("from started to finished")), "seconds", _quantiles("run"), points),
    ]


@dataclass(frozen=True, slots=True)
class Bar:
    """So many jobs ran for a time between `above` and `below`; `most` is the count of the longest bar."""

    above: str
    below: str
    count: int
    share: str
    most: int


def distribution(runs: Mapping[int, int]) -> list[Bar]:
    """How many jobs ran for how long: bars with ends at 1, 2 and 5 of each power of ten, and at usual minutes."""
    counts = Counter[int]()
    for bucket, count in runs.items():
        counts[bisect_left(_ENDS, exp((bucket + 0.5) / STEPS))] += count
    if not counts:
        return []
    total, most = sum(counts.values()), max(counts.values())
    return [
        Bar(
            above=about(_ENDS[at - 1]) if at else "0",
            below=about(_ENDS[at]) if at < len(_ENDS) else "∞",
            count=counts[at],
            share=f"{number(round(100 * counts[at] / total, 1))} %",
            most=most,
        )
        for at in range(min(counts), max(counts) + 1)
    ]


def _throughput() -> list[Line]:
    return [
        (_("in"), "in", lambda point: point.rate(point.total.came)),
        (_("out"), "out", lambda point: point.rate(point.total.ended)),
        (_("failed"), "failed", lambda point: point.rate(point.total.failed)),
    ]


def _quantiles(name: str) -> list[Line]:
    def reader(share: float) -> Reader:
        return lambda point: getattr(point.total, name)(share) if point.known else None

    return [(label, label, reader(share)) for share, label in SHARES]


def _depths(trends: Trends, now: Mapping[str, float] | None) -> list[Line]:
    """A line for each of the deepest queues; the newest point is how it stands now."""
    newest = trends.points[-1]
    sums: Counter[str] = Counter()
    for depths in (now or {}, *(point.depths for point in trends.points)):
        for name, depth in depths.items():
            sums[name] += ceil(depth)
    names = sorted(name for name, _sum in sums.most_common(MOST_QUEUES))
    others = sorted(sums.keys() - set(names))

    def reader(queues: Sequence[str]) -> Reader:
        def depth(point: Point) -> float | None:
            if point is newest and now is not None:
                return sum(now.get(queue, 0) for queue in queues)
            found = [point.depth(queue) for queue in queues]
            return sum(each for each in found if each is not None) if point.looks else None

        return depth

    lines = [(name, f"line-{at}", reader([name])) for at, name in enumerate(names, 1)]
    if others:
        lines.append((_("%(count)d others") % {"count": len(others)}, "line-0", reader(others)))
    return lines


def _chart(name: str, titles: tuple[str, str], unit: str, lines: Sequence[Line], points: Sequence[TimedPoint]) -> Chart:
    text = cache(_TEXTS[unit])  # many cells are alike, and to write a number in a language takes long
    rows = [Row(*times, cells=[_cell(read(point), text) for _name, _colour, read in lines]) for point, times in points]
    return Chart(name, *titles, unit, [(name, colour) for name, colour, _read in lines], rows)


def _timed(trends: Trends) -> list[TimedPoint]:
    """The points with their times as `Row` has them: once for all charts."""
    pattern = "D H:i" if trends.window.length > timedelta(days=1) else "H:i"
    return [
        (each, (each.start.isoformat(), exactly(each.start), time_of(each.start, pattern))) for each in trends.points
    ]


def time_of(moment: datetime, pattern: str) -> str:
    """A time in the current zone."""
    return str(date_format(timezone.localtime(moment), pattern))


def _cell(value: float | None, text: Callable[[float | None], str]) -> Cell:
    return Cell("" if value is None else f"{value:.6g}", text(value))
