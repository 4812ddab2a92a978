"""What was counted, read: how many jobs came and ended in a time, how long they waited and ran, how deep queues were.

Of each length of time about as many rows are read, whatever ran in it. What is not counted yet comes from the jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Q

from djtasks import states
from djtasks.brokers.base import QueueSize
from djtasks.models import Job, Metric
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures, Sum, quantile
from djtasks.statistics import ENQUEUED, LEVELS, LOOKS, Level, between, start_of

MOST_ROWS: Final = 20_000  # of metrics at a time; what is older is left out, and said to be
LEAST: Final = 10.0  # seconds that are over of a period, until a rate means something
UNCOUNTED: Final = timedelta(minutes=3)  # that are counted from the jobs at most, should nobody count them


@dataclass(frozen=True, slots=True)
class Window:
    """A time up to now, in points of one level."""

    name: str
    length: timedelta
    level: Level


WINDOWS: Final = {
    each.name: each
    for each in (
        Window("10m", timedelta(minutes=10), LEVELS[0]),
        Window("1h", timedelta(hours=1), LEVELS[0]),
        Window("1d", timedelta(days=1), LEVELS[1]),
        Window("1w", timedelta(weeks=1), LEVELS[2]),
    )
}


@dataclass(slots=True)
class Total:
    """Figures that are added to."""

    counts: Counter[str] = field(default_factory=Counter)
    runs: Counter[int] = field(default_factory=Counter)
    waits: Counter[int] = field(default_factory=Counter)

    def add(self, figures: Figures) -> None:
        self.counts.update(figures.counts)
        self.runs.update(figures.runs)
        self.waits.update(figures.waits)

    @property
    def came(self) -> int:
        return self.counts[ENQUEUED]

    @property
    def ended(self) -> int:
        return sum(self.counts[state] for state in states.FINISHED)

    @property
    def failed(self) -> int:
        return self.counts[states.FAILURE]

    @property
    def failure_rate(self) -> float:
        """The share (0 to 1) of what ended."""
        return self.failed / self.ended if self.ended else 0.0

    def run(self, share: float) -> float | None:
        """The run time (seconds) below which that share (0 to 1) of the jobs stayed."""
        return quantile(self.runs, share)

    def wait(self, share: float) -> float | None:
        """The same of the time that they were ready before they began."""
        return quantile(self.waits, share)


@dataclass(slots=True)
class Point:
    """One period: `seconds` of it are over. `known` is False where something ended that nobody has counted yet."""

    start: datetime
    seconds: float
    known: bool = True
    total: Total = field(default_factory=Total)
    looks: int = 0
    depths: Counter[str] = field(default_factory=Counter)  # of all looks together, by queue

    def rate(self, number: float) -> float | None:
        """So many, by the second; None if nobody knows, or it has just begun."""
        return number / self.seconds if self.known and self.seconds >= LEAST else None

    def depth(self, queue: str) -> float | None:
        """How many jobs were ready in the queue, on average; None if nobody looked."""
        return self.depths[queue] / self.looks if self.looks else None


@dataclass(frozen=True, slots=True)
class Trends:
    """What happened in a window. `tasks` and `queues` by name; `gap` is a time that nobody has counted."""

    window: Window
    points: list[Point]
    tasks: Mapping[str, Total]
    queues: Mapping[str, Total]
    gap: tuple[datetime, datetime] | None
    is_cut: bool  # the oldest part was left out, for there are too many tasks and queues

    @property
    def seconds(self) -> float:
        """How much time of the window is known."""
        return sum(point.seconds for point in self.points if point.known)

    def depth(self, queue: str) -> float | None:
        """How many jobs were ready in the queue when somebody looked last; None if nobody did."""
        return next((point.depth(queue) for point in reversed(self.points) if point.looks), None)

    def ready(self, queue: str, size: QueueSize) -> float:
        """How many jobs are ready in the queue; where they are too many to count at once, when somebody looked last."""
        counted = float(size.ready)
        return max(counted, self.depth(queue) or 0.0) if size.more_ready else counted

    @property
    def total(self) -> Total:
        """Of the whole window."""
        return _summed(point.total for point in self.points)


def read(window: Window, now: datetime | None = None, *, task: str | None = None) -> Trends:
    """What happened in that window up to `now`: a statement a level, and two for each minute not counted yet.

    With `task`, what ended of that one alone.
    """
    now = now or utc_now()
    reading = _Reading(window, now, task)
    counted_until = reading.begin
    for level in reversed(LEVELS[: LEVELS.index(window.level) + 1]):
        counted_until = reading.take_counted(level, counted_until)
    reading.take_uncounted(counted_until)
    return reading.trends(window)


def _summed(totals: Iterable[Total]) -> Total:
    whole = Total()
    for each in totals:
        whole.add(Figures(each.counts, each.runs, each.waits))
    return whole


class _Reading:
    """Points that are filled, level by level."""

    def __init__(self, window: Window, now: datetime, task: str | None) -> None:
        self.level, self.now, self.task = window.level, now, task
        self.step = timedelta(seconds=window.level.seconds)
        self.begin = start_of(window.level, now - window.length) + self.step
        self.points: dict[datetime, Point] = {}
        for number in range(window.length // self.step):
            start = self.begin + number * self.step
            self.points[start] = Point(start, min(self.step, now - start).total_seconds())
        self._by_point: dict[datetime, Sum] = {}
        self._by_task_and_queue: dict[tuple[str, str], Sum] = {}
        self.gap: tuple[datetime, datetime] | None = None
        self.is_cut = False

    def take_counted(self, level: Level, since: datetime) -> datetime:
        """Add the periods of that level from `since` on. Returns until when they have been counted."""
        found = Metric.objects.of(level.seconds, since, self.now).order_by("-start_at")
        if self.task is not None:
            found = found.filter(Q(task=self.task) | Q(task="", queue=""))
        rows = list(found[: MOST_ROWS + 1].stored())
        if len(rows) > MOST_ROWS:
            oldest = rows[-1][0]
            rows = [row for row in rows if row[0] > oldest]
            self._leave_out(self.begin, oldest + timedelta(seconds=level.seconds))
            self.is_cut = True
        until = since
        for start_at, task, queue, counts, histogram in rows:
            self._add(start_at, task, queue, counts, histogram)
            if not task and not queue:
                until = max(until, start_at + timedelta(seconds=level.seconds))
        return until

    def take_uncounted(self, since: datetime) -> None:
        """Add what ended and came from `since` on, by the jobs; of what is long ago, only whether there was any."""
        begin = max(since, start_of(LEVELS[0], self.now - UNCOUNTED))
        if since < begin and Job.objects.finished().filter(finished_at__gte=since, finished_at__lt=begin).exists():
            self.gap = since, begin
            self._leave_out(since, begin)
        while begin < self.now:
            end = min(start_of(self.level, begin) + self.step, self.now)
            for (task, queue), figures in between(begin, end).items():
                if self.task is None or task == self.task:
                    self._add(begin, task, queue, figures.counts, figures.stored_histogram)
            begin = end

    def _leave_out(self, begin: datetime, end: datetime) -> None:
        for point in self.points.values():
            if point.start < end and point.start + self.step > begin:
                point.known = False

    def _add(
        self,
        moment: datetime,
        task: str,
        queue: str,
        counts: Mapping[str, int],
        histogram: Mapping[str, dict[str, int]],
    ) -> None:
        start = start_of(self.level, moment)
        point = self.points.get(start)
        if point is None:
            return
        if not task and not queue:
            point.looks += counts.get(LOOKS, 0)
            return
        if not task:
            point.depths[queue] += counts.get("ready", 0)
            counts = {ENQUEUED: counts.get(ENQUEUED, 0)}
        self._by_point.setdefault(start, Sum()).add(counts, histogram)
        self._by_task_and_queue.setdefault((task, queue), Sum()).add(counts, histogram)

    def trends(self, window: Window) -> Trends:
        """All of it, added up."""
        for start, found in self._by_point.items():
            self.points[start].total.add(found.figures)
        tasks: dict[str, Total] = {}
        queues: dict[str, Total] = {}
        for (task, queue), found in self._by_task_and_queue.items():
            figures = found.figures
            queues.setdefault(queue, Total()).add(figures)
            if task:
                tasks.setdefault(task, Total()).add(figures)
        return Trends(window, list(self.points.values()), tasks, queues, self.gap, self.is_cut)
