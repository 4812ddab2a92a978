"""How the whole site stands, for Prometheus: read from the store at each scrape. It needs prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Max, Min, Sum
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from djtasks import trends
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import RATE
from djtasks.models import Outbox, PeriodicTask, Worker
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures
from djtasks.monitoring import families, totals
from djtasks.monitoring.labels import queue_labels, task_label
from djtasks.queues import Standing, known_queues, standing
from djtasks.restraint import queue_of, task_of
from djtasks.selection import MOST_COUNTED

RECENTLY: Final = timedelta(hours=1)


class SiteCollector:
    """Queues, workers, schedules, and what has ended today. With the database down, it raises what that does."""

    def describe(self) -> list[Metric]:
        """Nothing, so that nobody collects just to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        now = utc_now()
        yield from _of_broker(now)
        yield from _of_workers(now)
        yield from _of_schedules(now)
        yield from _of_outbox(now)
        yield from _of_statistics(now)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"djtasks_{name}", text, value=value)


def _age(now: datetime, since: datetime | None, none: float = 0.0) -> float:
    return none if since is None else max(0.0, (now - since).total_seconds())


def _of_broker(now: datetime) -> Iterator[Metric]:
    """What only the broker knows; that it does not answer is worth knowing, too."""
    try:
        queues = standing(MOST_COUNTED)
        oldest = get_broker().oldest([each.name for each in queues if each.size.ready])
        limits = get_broker().limits()
    except BrokerUnavailable:
        yield _gauge("broker_up", "Whether the broker answers.", 0)
        return
    yield _gauge("broker_up", "Whether the broker answers.", 1)
    yield from _of_queues(queues, {name: _age(now, since) for name, since in oldest.items()})
    waiting: dict[tuple[str, str], int] = {}
    for each in limits:
        kind = "rate" if each.limit.startswith(RATE) else "concurrency"
        name = ("", f"queue_{kind}") if queue_of(each.key) else (task_label(task_of(each.key)), kind)
        waiting[name] = waiting.get(name, 0) + each.waiting
    family = GaugeMetricFamily(
        "djtasks_limit_waiting_jobs", "Jobs that wait for their slot or their place.", labels=["task", "limit"]
    )
    for labels, number in sorted(waiting.items()):
        family.add_metric(labels, number)
    yield family


def _of_queues(queues: Sequence[Standing], ages: dict[str, float]) -> Iterator[Metric]:
    labels = queue_labels((each.name for each in queues), known_queues())
    ready = _ready(queues)

    def family(name: str, text: str, value: Callable[[Standing], float], joined: Callable[..., float]) -> Metric:
        """`joined` makes one of the values of those that share a label."""
        found: dict[str, list[float]] = {}
        for each in queues:
            found.setdefault(labels[each.name], []).append(value(each))
        made = GaugeMetricFamily(f"djtasks_queue_{name}", text, labels=["queue"])
        for label, values in sorted(found.items()):
            made.add_metric([label], joined(values))
        return made

    yield family("ready_jobs", "Jobs that a worker may claim.", lambda each: ready[each.name], sum)
    yield family("scheduled_jobs", "Jobs that wait for their time, retries too.", lambda each: each.size.scheduled, sum)
    yield family("running_jobs", "Jobs that a worker holds.", lambda each: each.size.running, sum)
    yield family(
        "oldest_seconds", "How long its oldest ready job has waited.", lambda each: ages.get(each.name, 0), max
    )
    yield family("workers", "Live workers that serve it.", lambda each: each.workers, min)
    yield family("paused", "Whether it is paused.", lambda each: each.size.paused, max)


def _ready(queues: Sequence[Standing]) -> dict[str, float]:
    """How many jobs are ready in each queue; of one that holds very many, as many as a minute ago."""
    if not any(each.size.more_ready for each in queues):
        return {each.name: each.size.ready for each in queues}
    lately = trends.read(trends.WINDOWS["10m"])
    return {each.name: lately.ready(each.name, each.size) for each in queues}


def _of_workers(now: datetime) -> Iterator[Metric]:
    live = Worker.objects.live().aggregate(
        workers=Count("pk"), places=Sum("concurrency"), woke=Max("scheduler_at"), beat=Min("beat_at")
    )
    lost = Worker.objects.filter(lost_at__gte=now - RECENTLY).count()
    yield _gauge("workers", "Workers that live.", live["workers"])
    yield _gauge("places", "Jobs that they can run at a time.", live["places"] or 0)
    yield _gauge("workers_lost", "Workers that were lost within the last hour.", lost)
    yield _gauge(
        "oldest_beat_seconds",
        "Since the last beat of that live worker's that is the oldest.",
        _age(now, live["beat"]),
    )
    yield _gauge(
        "scheduler_age_seconds", "Since beat last looked for what is due.", _age(now, live["woke"], none=float("inf"))
    )


def _of_schedules(now: datetime) -> Iterator[Metric]:
    overdue = PeriodicTask.objects.due(now).values_list("next_run_at", flat=True).first()
    yield _gauge("schedules", "Schedules that have a next run.", PeriodicTask.objects.live().count())
    yield _gauge("schedules_broken", "Schedules that cannot run.", PeriodicTask.objects.broken().count())
    yield _gauge(
        "schedule_lag_seconds", "By how much that run is late which is due and was not sent.", _age(now, overdue)
    )


def _of_outbox(now: datetime) -> Iterator[Metric]:
    found = Outbox.objects.aggregate(count=Count("pk"), oldest=Min("created_at"))
    yield _gauge("outbox_messages", "Messages that the broker has not got yet.", found["count"])
    yield _gauge("outbox_oldest_seconds", "How long the oldest of them has waited.", _age(now, found["oldest"]))


def _of_statistics(now: datetime) -> Iterator[Metric]:
    found = totals.today()
    ended = _labelled(found.ended)
    yield families.jobs("djtasks_jobs", "Jobs that ended today (UTC), to the last minute.", ended)
    yield families.runs("djtasks_run_seconds", "How long they ran.", ended)
    yield families.waits("djtasks_wait_seconds", "How long they had been ready when they began.", ended)
    labels = queue_labels(found.sent, known_queues())
    family = CounterMetricFamily("djtasks_sent_jobs", "Jobs that were sent today (UTC).", labels=["queue"])
    for label, number in _joined((labels[queue], number) for queue, number in found.sent.items()):
        family.add_metric([label], number)
    yield family
    yield _gauge(
        "statistics_age_seconds",
        "Since the end of what these count: 15 to 75 s, if all is well.",
        _age(now, found.until, none=float("inf")),
    )


def _labelled(found: families.ByKind) -> families.ByKind:
    labels = queue_labels((queue for _task, queue in found), known_queues())
    labelled: dict[tuple[str, str], Figures] = {}
    for (task, queue), figures in found.items():
        kind = task, labels[queue]
        labelled[kind] = labelled.get(kind, Figures()) + figures
    return labelled


def _joined(numbers: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for label, number in numbers:
        found[label] = found.get(label, 0) + number
    return sorted(found.items())
