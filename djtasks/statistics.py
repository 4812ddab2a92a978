"""Statistics: what ended is counted by task and queue, minute by minute, and added up for longer periods.

So a page about the last week costs the same whatever ran in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Final

from django.db import connections, transaction
from django.db.models import Count

from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.message import first_id
from djtasks.models import Job, Metric, statements
from djtasks.models.fields import utc_now
from djtasks.models.managers import history_alias
from djtasks.models.metric import Figures

LAG: Final = timedelta(seconds=15)  # until a period is counted: what ended in it is stored by then
ENQUEUED: Final = "ENQUEUED"
DEPTHS: Final = ("ready", "scheduled", "running")  # of a queue, each time that it was looked at
LOOKS: Final = "looks"


@dataclass(frozen=True, slots=True)
class Level:
    """Periods of one length (seconds), and for how long they are kept."""

    seconds: int
    kept: timedelta


LEVELS: Final = (
    Level(60, timedelta(hours=3)),
    Level(600, timedelta(days=2)),
    Level(3600, timedelta(days=90)),
    Level(86_400, timedelta(days=90)),
)


def count(now: datetime | None = None) -> int:
    """Count all periods that are over and have not been counted. Returns how many. Many may do so at once."""
    now = now or utc_now()
    counted = 0
    for start in _uncounted(LEVELS[0], now, _first_end):
        is_last = start + timedelta(seconds=2 * LEVELS[0].seconds) > now - LAG
        counted += _count(start, with_depths=is_last)
    for finer, level in pairwise(LEVELS):
        for start in _uncounted(level, now, partial(_first_period, finer)):
            counted += _add_up(finer, level, start)
    return counted


def add(figures: Mapping[tuple[str, str], Figures]) -> None:
    """Add to what is counted of this minute, by (task, queue)."""
    Metric.objects.add(start_of(LEVELS[0], utc_now()), LEVELS[0].seconds, figures)


def is_recent(moment: datetime) -> bool:
    """Whether the minute of that moment has not been counted yet."""
    return start_of(LEVELS[0], moment) + timedelta(seconds=LEVELS[0].seconds) > utc_now() - LAG


def prune(now: datetime | None = None) -> int:
    """Delete what is older than its level is kept. Returns how many rows."""
    now = now or utc_now()
    return sum(Metric.objects.filter(seconds=each.seconds, start_at__lt=now - each.kept).delete()[0] for each in LEVELS)


def _uncounted(level: Level, now: datetime, beginning: Callable[[datetime], datetime | None]) -> Iterator[datetime]:
    """The starts of the periods of `level` that are over and have not been counted; none older than it is kept.

    `beginning` tells from when on there is something to count.
    """
    length = timedelta(seconds=level.seconds)
    counted = Metric.objects.counted().filter(seconds=level.seconds).order_by("-start_at")
    last = counted.values_list("start_at", flat=True).first()
    oldest = start_of(level, now - level.kept) + length
    since = oldest if last is None else max(last + length, oldest)
    latest = start_of(level, now - LAG) - length
    start = max(since, min(start_of(level, beginning(since) or latest), latest))
    while start <= latest:
        yield start
        start += length


def _first_end(since: datetime) -> datetime | None:
    ended = Job.objects.finished().filter(finished_at__gte=since)
    return ended.order_by("finished_at").values_list("finished_at", flat=True).first()


def _first_period(level: Level, since: datetime) -> datetime | None:
    finer = Metric.objects.filter(seconds=level.seconds, start_at__gte=since)
    return finer.order_by("start_at").values_list("start_at", flat=True).first()


def start_of(level: Level, moment: datetime) -> datetime:
    """The start of the period in which that moment lies."""
    stamp = int(moment.timestamp())
    return datetime.fromtimestamp(stamp - stamp % level.seconds, UTC)


def _count(start: datetime, *, with_depths: bool) -> bool:
    """Count one period of the finest level. Returns whether nobody else has."""
    level = LEVELS[0]
    with transaction.atomic(using=settings.DATABASE):
        if not Metric.objects.begin(start, level.seconds, whole=True):
            return False
        end = start + timedelta(seconds=level.seconds)
        found = between(start, end)
        whole = _whole(found) + _whole(Metric.objects.of(level.seconds, start, end).summed())
        if with_depths:
            whole.counts[LOOKS] = 1  # a queue that is not named then was empty
            for queue, depths in _depths().items():
                found.setdefault(("", queue), Figures()).counts.update(depths)
        Metric.objects.add(start, level.seconds, {**found, ("", ""): whole})
    return True


def _whole(found: Mapping[tuple[str, str], Figures]) -> Figures:
    """What all of it comes to, so that a chart of many periods need not read each task."""
    whole = Figures()
    for (task, queue), figures in found.items():
        if task:
            whole += figures
        elif queue:
            whole.counts[ENQUEUED] += figures.counts[ENQUEUED]
    return whole


def _add_up(finer: Level, level: Level, start: datetime) -> bool:
    """Make one period of a level out of those of the finer one. Returns whether nobody else has."""
    parts = Metric.objects.of(finer.seconds, start, start + timedelta(seconds=level.seconds))
    with transaction.atomic(using=settings.DATABASE):
        whole = not parts.counted().filter(whole=False).exists()
        if not Metric.objects.begin(start, level.seconds, whole=whole):
            return False
        Metric.objects.add(start, level.seconds, parts.summed())
    return True


def between(start: datetime, end: datetime) -> dict[tuple[str, str], Figures]:
    """What ended and what was sent in that time, by (task, queue), counted from the rows of jobs."""
    found = _ended(start, end)
    for queue, number in _enqueued(start, end).items():
        found.setdefault(("", queue), Figures()).counts[ENQUEUED] = number
    return found


def _ended(start: datetime, end: datetime) -> dict[tuple[str, str], Figures]:
    found: dict[tuple[str, str], Figures] = {}
    for task, queue, state, run, wait, number in statements.count_ended(connections[history_alias()], start, end):
        figures = found.setdefault((task, queue), Figures())
        figures.counts[state] += number
        if run is not None:
            figures.runs[run] += number
        if wait is not None:
            figures.waits[wait] += number
    return found


def _enqueued(start: datetime, end: datetime) -> dict[str, int]:
    """By queue, what was sent in that time, as its ids tell; jobs whose caller chose the id are not counted."""
    first, last = (first_id(each) for each in (start, end))
    sent = Job.objects.filter(pk__gte=first, pk__lt=last).order_by()
    return dict(sent.values_list("queue").annotate(Count("pk")))


def _depths() -> Mapping[str, Counter[str]]:
    sizes = get_broker().sizes()
    return {
        queue: Counter({LOOKS: 1, **{name: getattr(size, name) for name in DEPTHS}}) for queue, size in sizes.items()
    }
