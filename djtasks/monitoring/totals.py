"""What has ended today on the whole site, as the statistics have counted it: numbers that only grow, until midnight.

What is counted is deleted one day, so a sum of all of it would shrink. To who scrapes, a counter that begins at 0 is
one whose process has begun anew; that a shrinking one does not, is why these begin at each midnight (UTC).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from djtasks.models import Metric
from djtasks.models.metric import Figures, Sum
from djtasks.monitoring.labels import task_label
from djtasks.statistics import ENQUEUED, LEVELS


@dataclass(slots=True)
class Totals:
    """What ended by task and queue, what was sent by queue. `until`: the end of what was counted, if anything was."""

    until: datetime | None = None
    ended: dict[tuple[str, str], Figures] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)


def today() -> Totals:
    """The day in which what was counted last lies: about as many rows are read, whatever ran in it."""
    finest = timedelta(seconds=LEVELS[0].seconds)
    counted = Metric.objects.counted().filter(seconds=LEVELS[0].seconds).order_by("-start_at")
    last = counted.values_list("start_at", flat=True).first()
    if last is None:
        return Totals()
    since = last.replace(hour=0, minute=0)
    sums: dict[tuple[str, str], Sum] = {}
    for level in reversed(LEVELS):
        begin = since
        for row in Metric.objects.of(level.seconds, begin, last + finest).stored():
            sums.setdefault((row.task, row.queue), Sum()).add(row.counts, row.histogram)
            if not row.task and not row.queue:
                since = max(since, row.start_at + timedelta(seconds=level.seconds))
    totals = Totals(until=last + finest)
    for (task, queue), found in sums.items():
        _take(totals, task, queue, found.figures)
    return totals


def _take(totals: Totals, task: str, queue: str, figures: Figures) -> None:
    if task:
        kind = task_label(task), queue
        totals.ended[kind] = totals.ended.get(kind, Figures()) + figures
    elif queue:
        totals.sent[queue] = totals.sent.get(queue, 0) + figures.counts[ENQUEUED]
