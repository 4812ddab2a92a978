"""Counts of what ended, by task and queue, over periods of several lengths."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from math import exp, floor, log
from typing import Final, NamedTuple, Self

from django.db import IntegrityError, models, transaction
from django.utils.translation import gettext_lazy as _

from djtasks.models.fields import UTCDateTimeField
from djtasks.models.managers import HistoryManager

STEPS: Final = 5  # buckets for each factor of e, so that a value is known to a tenth; count_ended.sql knows it, too
TRIES: Final = 5
READ_AT_ONCE: Final = 200  # rows: text by text it takes half as long again


@dataclass(slots=True)
class Figures:
    """What is counted of one task and queue: endings and other numbers by name, run times and waits by bucket.

    Bucket n holds the seconds from e^(n/5) to e^((n+1)/5).
    """

    counts: Counter[str] = field(default_factory=Counter)
    runs: Counter[int] = field(default_factory=Counter)
    waits: Counter[int] = field(default_factory=Counter)

    @property
    def stored_histogram(self) -> dict[str, dict[str, int]]:
        """Run times and waits as a row holds them."""
        return {
            name: {str(number): count for number, count in buckets.items()}
            for name, buckets in (("run", self.runs), ("wait", self.waits))
        }

    def __add__(self, other: Figures) -> Figures:
        return Figures(self.counts + other.counts, self.runs + other.runs, self.waits + other.waits)


class Stored(NamedTuple):
    """A row as it stands, its JSON read: `counts` and `histogram` are what `Sum.add` takes."""

    start_at: datetime
    seconds: int
    task: str
    queue: str
    whole: bool
    counts: dict[str, int]
    histogram: dict[str, dict[str, int]]


class Sum:
    """Figures of many rows added up as they are stored: to take each apart would cost three times as much."""

    __slots__ = ("_counts", "_runs", "_waits")

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)
        self._runs: dict[str, int] = defaultdict(int)
        self._waits: dict[str, int] = defaultdict(int)

    def add(self, counts: Mapping[str, int], histogram: Mapping[str, Mapping[str, int]]) -> None:
        """Add what a row holds, once its JSON is read."""
        for target, numbers in (
            (self._counts, counts),
            (self._runs, histogram.get("run")),
            (self._waits, histogram.get("wait")),
        ):
            if numbers:
                for name, number in numbers.items():
                    target[name] += number

    @property
    def figures(self) -> Figures:
        """What it comes to."""
        return Figures(Counter(self._counts), _buckets(self._runs), _buckets(self._waits))


def bucket_of(seconds: float) -> int:
    """The bucket in which a time stands."""
    return floor(log(max(seconds, 1e-6)) * STEPS)


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The time (seconds) that `share` (0 to 1) of the counted ones stayed below; None if nothing was counted."""
    total = sum(buckets.values())
    passed = 0
    for number in sorted(buckets):
        passed += buckets[number]
        if passed >= share * total:
            return exp((number + 0.5) / STEPS)
    return None


class MetricQuerySet(models.QuerySet["Metric"]):
    """Metrics by period."""

    def of(self, seconds: int, begin: datetime, end: datetime) -> Self:
        """Those of periods of that length that begin from `begin` on and before `end`."""
        return self.filter(seconds=seconds, start_at__gte=begin, start_at__lt=end)

    def counted(self) -> Self:
        """Of each period that has been counted the row that says so."""
        return self.filter(task="", queue="")

    def add(self, start_at: datetime, seconds: int, figures: Mapping[tuple[str, str], Figures]) -> None:
        """Add to the counts of one period, by (task, queue). Several may do so at once."""
        for attempt in range(TRIES):
            try:
                with transaction.atomic(using=self.db):
                    self._add(start_at, seconds, figures)
                return
            except IntegrityError:  # somebody else has made a row that was missing
                if attempt == TRIES - 1:
                    raise

    def _add(self, start_at: datetime, seconds: int, figures: Mapping[tuple[str, str], Figures]) -> None:
        standing = self.filter(start_at=start_at, seconds=seconds).order_by("task", "queue").select_for_update()
        missing = dict(figures)
        for row in standing:
            if counted := missing.pop((row.task, row.queue), None):
                row.figures += counted
                row.save(update_fields=["counts", "histogram"])
        new = [Metric(start_at=start_at, seconds=seconds, task=task, queue=queue) for task, queue in sorted(missing)]
        for row in new:
            row.figures = missing[row.task, row.queue]
        self.bulk_create(new)

    def stored(self) -> Iterator[Stored]:
        """Each row, without an instance of it."""
        rows = iter(self.values_list(*Stored._fields))
        while portion := list(islice(rows, READ_AT_ONCE)):
            read = json.loads(f"[{','.join(f'[{row[-2]},{row[-1]}]' for row in portion)}]")
            for row, (counts, histogram) in zip(portion, read, strict=True):
                yield Stored._make((*row[:-2], counts, histogram))

    def begin(self, start_at: datetime, seconds: int, *, whole: bool = False) -> bool:
        """Claim the counting of one period, in the caller's transaction: whoever gets to it later is told False.

        `whole`: the row that says so will hold what all others of the period come to.
        """
        try:
            with transaction.atomic(using=self.db):
                self.create(start_at=start_at, seconds=seconds, task="", queue="", whole=whole)
        except IntegrityError:
            return False
        return True

    def summed(self) -> dict[tuple[str, str], Figures]:
        """The figures of these rows, added up by (task, queue)."""
        found: dict[tuple[str, str], Sum] = {}
        for row in self.stored():
            found.setdefault((row.task, row.queue), Sum()).add(row.counts, row.histogram)
        return {kind: total.figures for kind, total in found.items()}


class Metric(models.Model):
    """Counts and histograms of one task and queue over one period; without a task, of the queue.

    The row without both says that the period has been counted, and how often it was looked at how deep queues are.
    Where it is `whole`, it also holds what came and ended in all queues together.
    """

    task = models.CharField(_("task"), max_length=255)
    queue = models.CharField(_("queue"), max_length=128)
    start_at = UTCDateTimeField(_("from"))
    seconds = models.IntegerField(_("period (seconds)"))
    counts = models.TextField(default="{}")  # JSON: ending → number
    histogram = models.TextField(default="{}")  # JSON: run, wait → bucket → number
    whole = models.BooleanField(default=False, db_default=False)

    objects = HistoryManager.from_queryset(MetricQuerySet)()

    class Meta:
        verbose_name = _("metric")
        verbose_name_plural = _("metrics")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["seconds", "start_at", "task", "queue"], name="djtasks_metric_level"),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.start_at}"

    @property
    def figures(self) -> Figures:
        """What is counted."""
        stored = json.loads(self.histogram)
        return Figures(Counter(json.loads(self.counts)), _buckets(stored.get("run")), _buckets(stored.get("wait")))

    @figures.setter
    def figures(self, figures: Figures) -> None:
        self.counts = json.dumps(figures.counts)
        self.histogram = json.dumps(figures.stored_histogram)


class Task(Metric):
    """The tasks, as the admin lists them: what their names and their metrics tell."""

    class Meta:
        proxy = True
        verbose_name = _("task")
        verbose_name_plural = _("tasks")
        default_permissions = ("view",)


def _buckets(stored: Mapping[str, int] | None) -> Counter[int]:
    return Counter({int(number): count for number, count in (stored or {}).items()})
