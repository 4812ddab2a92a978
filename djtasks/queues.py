"""The queues as people see them: what stands in each, how it is set, who serves it and who sends to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.utils.translation import gettext as _

from djtasks import registry, routing
from djtasks.brokers import get_broker
from djtasks.brokers.base import QueueSize
from djtasks.conf import settings
from djtasks.models import Job, PeriodicTask, Queue, Worker
from djtasks.moments import distance

MOST_NAMED: Final = 20  # workers that serve a queue
RECENT: Final = 1_000  # newest jobs that are looked at for names of queues
EMPTY: Final = QueueSize(ready=0, scheduled=0, running=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one queue stands. `workers` counts the live ones that serve it."""

    name: str
    size: QueueSize = EMPTY
    default_priority: int | None = None
    aging: float | None = None  # seconds of waiting that count as one priority
    rate_limit: str = ""
    max_concurrency: int | None = None
    paused_at: datetime | None = None
    paused_by: str = ""
    workers: int = 0
    served_by: tuple[tuple[str, str], ...] = ()  # the first of these: boot ids and names
    has_senders: bool = True  # as far as can be told

    @property
    def is_set(self) -> bool:
        """Whether it has a default priority or limits, or jobs age in it."""
        has_limits = bool(self.rate_limit) or self.max_concurrency is not None
        return self.default_priority is not None or self.aging is not None or has_limits

    @property
    def is_unserved(self) -> bool:
        """Jobs wait, and no live worker will take them."""
        return bool(self.size.ready or self.size.scheduled) and not self.workers

    def notes(self) -> list[str]:
        """What somebody should know of it, a sentence each."""
        found = []
        if self.size.paused and self.paused_at:
            found.append(
                _("Paused by %(name)s, %(since)s.") % {"name": self.paused_by or "?", "since": distance(self.paused_at)}
            )
        if self.is_unserved:
            found.append(_("No live worker serves it."))
        if not self.has_senders:
            found.append(_("A worker serves it, but nobody is known to send to it."))
        return found


def known_queues() -> list[str]:
    """The queues that settings, tasks and routes name; a worker without `-Q` looks into these first."""
    named = {settings.TASK_DEFAULT_QUEUE} | routing.queues()
    named.update(task.queue for task in registry.all_tasks() if task.queue)
    return sorted(named)


def standing(most: int | None = None) -> list[Standing]:
    """All queues that hold jobs, are set, or are named by a live worker; by name. Raises BrokerUnavailable.

    `most` is how far is counted, as in `Broker.sizes`.
    """
    sizes = get_broker().sizes(most)
    rows = {row.name: row for row in Queue.objects.all()}
    workers = list(Worker.objects.live().order_by("hostname", "pk"))
    named = {name for worker in workers for name in worker.named_queues()}
    unheard = named - sizes.keys() - set(known_queues())
    unheard -= _heard_of(unheard) if unheard else set()
    names = sorted({*sizes, *named, *(row.name for row in rows.values() if row.is_set)})
    return [_standing(name, sizes.get(name, EMPTY), rows.get(name), workers, name not in unheard) for name in names]


def standing_of(name: str, most: int | None = None) -> Standing:
    """The queue of that name; one that nobody knows is an empty one. Raises BrokerUnavailable."""
    return next((each for each in standing(most) if each.name == name), None) or Standing(
        name=name, **_served(name, Worker.objects.live().order_by("hostname", "pk"))
    )


def _standing(name: str, size: QueueSize, row: Queue | None, workers: Iterable[Worker], has_senders: bool) -> Standing:
    return Standing(
        name=name,
        size=size,
        default_priority=row.default_priority if row else None,
        aging=row.aging if row else None,
        rate_limit=row.rate_limit if row else "",
        max_concurrency=row.max_concurrency if row else None,
        paused_at=row.paused_at if row else None,
        paused_by=row.paused_by if row else "",
        **_served(name, workers),
        has_senders=has_senders,
    )


def _served(name: str, workers: Iterable[Worker]) -> dict[str, Any]:
    serving = [(worker.pk, worker.hostname) for worker in workers if worker.serves(name)]
    return {"workers": len(serving), "served_by": tuple(serving[:MOST_NAMED])}


def _heard_of(names: Iterable[str]) -> set[str]:
    """Those of these queues that a schedule names, or in which one of the newest jobs stood."""
    recent = set(Job.objects.order_by("-id").values_list("queue", flat=True)[:RECENT])
    return recent | set(PeriodicTask.objects.filter(queue__in=list(names)).values_list("queue", flat=True))
