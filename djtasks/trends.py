"""What was counted, read: how many jobs came and ended in a time, how long they waited and ran, how deep queues were.

Of each length of time about as many rows are read, whatever ran in it. What is not counted yet comes from the jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Q

from djtasks import states
from djtasks.brokers.base import QueueSize
from djtasks.models import Job, Metric
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures, MetricQuerySet, Stored, Sum, quantile
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
    """What happened in that window up to `now`: a statement or two a level, and two for each minute not counted yet.

    With `task`, what ended of that one alone.
    """
    now = now or utc_now()
    reading = _Reading(window, now, task)
    reading.take_uncounted(reading.take_counted())
    return reading.trends(window)


def _summed(totals: Iterable[Total]) -> Total:
    whole = Total()
    for each in totals:
        whole.add(Figures(each.counts, each.runs, each.waits))
    return whole


@dataclass(slots=True)
class _Span:
    """Periods of one level that begin from `begin` on and before `end`."""

    level: Level
    begin: datetime
    end: datetime


class _Reading:
    """Points that are filled, level by level.

    A point needs one row for each queue and one for all tasks together. Only the sums by task are made of the rows of
    tasks, which are many: of periods as long as there are.
    """

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
        self._came: dict[datetime, Counter[str]] = {}
        self._told: set[tuple[int, datetime]] = set()  # periods whose points do not need the rows of tasks
        self._longer = LEVELS[LEVELS.index(window.level) + 1]
        self._longer_starts: list[datetime] = []  # of such periods that have been counted
        self._cut_until = self.begin
        self.gap: tuple[datetime, datetime] | None = None

    def take_counted(self) -> datetime:
        """Add what has been counted. Returns until when."""
        spans, begin = list[_Span](), self.begin
        for level in reversed(LEVELS[: LEVELS.index(self.level) + 1]):
            end = self._take_queues(level, begin)
            spans.append(_Span(level, max(begin, self._cut_until), end))
            begin = end
        spans[-1].end = self.now  # what leaves no row stands in its minute before that is counted
        if self.task is None:
            spans = [*self._lengthened(spans[0]), *spans[1:]]
        self._take_tasks([span for span in spans if span.begin < span.end])
        return begin

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
                    self._add(Stored(begin, 0, task, queue, False, figures.counts, figures.stored_histogram))
            begin = end

    def trends(self, window: Window) -> Trends:
        """All of it, added up."""
        tasks: dict[str, Total] = {}
        queues: dict[str, Total] = {}
        for start, point in self.points.items():
            if start >= self._cut_until:
                point.total.add(self._by_point.get(start, Sum()).figures)
                for queue, number in self._came.get(start, {}).items():
                    queues.setdefault(queue, Total()).counts[ENQUEUED] += number
        for (task, queue), found in self._by_task_and_queue.items():
            figures = found.figures
            queues.setdefault(queue, Total()).add(figures)
            tasks.setdefault(task, Total()).add(figures)
        return Trends(window, list(self.points.values()), tasks, queues, self.gap, self._cut_until > self.begin)

    def _take_queues(self, level: Level, since: datetime) -> datetime:
        """Add the rows without a task from `since` on. Returns until when that level has been counted."""
        found = Metric.objects.of(level.seconds, since, self.now)
        found = found.counted() if self.task is not None else found.filter(task="")
        if level is self.level and self.task is None:
            longer = Metric.objects.of(self._longer.seconds, since, self.now).counted()
            found = found.union(longer, all=True)
        rows = self._read(found.order_by("-start_at"), level.seconds)
        self._longer_starts += [row.start_at for row in rows if row.seconds == self._longer.seconds]
        rows = [row for row in rows if row.seconds == level.seconds]
        if self.task is None:
            self._told |= {(row.seconds, row.start_at) for row in rows if row.whole}
        until = since
        for row in rows:
            if row.queue:
                self._add(row)
            else:
                until = max(until, row.start_at + timedelta(seconds=row.seconds))
                self._add_whole(row)
        return until

    def _take_tasks(self, spans: Sequence[_Span]) -> None:
        """Add the rows of tasks in these spans."""
        chosen = Q(task__gt="") if self.task is None else Q(task=self.task)
        first, *others = (Metric.objects.of(each.level.seconds, each.begin, each.end).filter(chosen) for each in spans)
        for row in self._read(first.union(*others, all=True).order_by("-start_at")):
            self._add(row)

    def _lengthened(self, span: _Span) -> list[_Span]:
        """The span in longer periods, where they have been counted and no point needs the rows of the shorter ones."""
        length, at, found = timedelta(seconds=self._longer.seconds), span.begin, list[_Span]()
        for start in sorted(self._longer_starts):
            shorter = {(span.level.seconds, start + n * self.step) for n in range(length // self.step)}
            if shorter <= self._told:
                self._told.add((self._longer.seconds, start))
                if not found or at < start:
                    found += [_Span(span.level, at, start), _Span(self._longer, start, start)]
                found[-1].end = at = start + length
        return [*found, _Span(span.level, at, span.end)]

    def _read(self, found: MetricQuerySet, seconds: int | None = None) -> list[Stored]:
        """These rows, the newest first; without the oldest ones if there are too many.

        Then what is left out ends with the oldest period, or so many seconds after its start.
        """
        rows = list(found[: MOST_ROWS + 1].stored())
        if len(rows) > MOST_ROWS:
            oldest = rows[-1]
            rows = [row for row in rows if row.start_at > oldest.start_at]
            self._cut_until = max(self._cut_until, oldest.start_at + timedelta(seconds=seconds or oldest.seconds))
            self._leave_out(self.begin, self._cut_until)
        return rows

    def _leave_out(self, begin: datetime, end: datetime) -> None:
        for point in self.points.values():
            if point.start < end and point.start + self.step > begin:
                point.known = False

    def _add_whole(self, row: Stored) -> None:
        """Add the row that says that a period has been counted."""
        start = start_of(self.level, row.start_at)
        self.points[start].looks += row.counts.pop(LOOKS, 0)
        if (row.seconds, row.start_at) in self._told:
            self._by_point.setdefault(start, Sum()).add(row.counts, row.histogram)

    def _add(self, row: Stored) -> None:
        """Add what is counted of a queue, or of a task in it."""
        start = start_of(self.level, row.start_at)
        counts: Mapping[str, int] = row.counts
        if row.task:
            self._by_task_and_queue.setdefault((row.task, row.queue), Sum()).add(counts, row.histogram)
        else:
            counts = {ENQUEUED: row.counts.get(ENQUEUED, 0)}
            self._came.setdefault(start, Counter())[row.queue] += counts[ENQUEUED]
            self.points[start].depths[row.queue] += row.counts.get("ready", 0)
        if (row.seconds, row.start_at) not in self._told:
            self._by_point.setdefault(start, Sum()).add(counts, row.histogram)
