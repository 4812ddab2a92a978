"""What stands in the queues in the database, as operators see and change it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, Final

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Count, F, Q, Value, When

from djtasks import states
from djtasks.brokers.base import Broker, QueueSize, Whereabouts
from djtasks.brokers.database import limiting
from djtasks.brokers.database.wakeup import Notifier
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, TaskRevokedError
from djtasks.message import PRIORITIES, Delivery, microseconds
from djtasks.models import Job, Queue, Ticket, statements
from djtasks.models.fields import utc_now
from djtasks.models.job import JobQuerySet, message_of
from djtasks.models.managers import history_alias

BATCH: Final = 500  # jobs that are moved in one transaction
MOST_COUNTED: Final = 10_000  # jobs before another
REVOKED_RANK = -1000  # before every priority, so that what was revoked ends at once, even in a paused queue


class OperatedQueues(Broker):
    """The operator's part of the database broker."""

    _notifier: Notifier

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection; within `showing` that to a replica."""
        return connections[history_alias()]

    def cancel(self, ids: Sequence[str]) -> int:
        with errors_named(), self._atomic():
            count = self._flag(ids)
            if count < len(set(ids)):
                bury(set(ids) - set(Job.objects.filter(pk__in=ids).values_list("pk", flat=True)))
            self._notifier.after_commit(self.connection, ["*"])
            return count

    def _flag(self, ids: Sequence[str]) -> int:
        waiting = Case(When(state__in=states.WAITING, then=Value(states.PENDING)), default=F("state"))
        unfinished = Job.objects.filter(pk__in=ids).exclude(state__in=states.SETTLED)
        limiting.forget(ids)
        return unfinished.update(revoked=True, rank=REVOKED_RANK, state=waiting)

    def hasten(self, ids: Sequence[str]) -> list[str]:
        with errors_named(), self._atomic():
            waiting = list(self._locked(Job.objects.scheduled().filter(pk__in=ids)))
            now = statements.now(self.connection)
            made = Job.objects.filter(pk__in=waiting)
            made.update(state=states.PENDING, run_at=now, order_key=microseconds(now))
            self._notifier.after_commit(self.connection, made.order_by().values_list("queue", flat=True).distinct())
            return waiting

    def leases(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        with errors_named():
            rows = Job.objects.running().filter(pk__in=ids).values_list("pk", "worker", "token")
            return {pk: (worker, token) for pk, worker, token in rows}

    def peek(self, queue: str, *, scheduled: bool = False, offset: int = 0, limit: int = 100) -> list[Delivery]:
        with errors_named():
            jobs = Job.objects.scheduled() if scheduled else Job.objects.ready()
            return [as_delivery(job) for job in jobs.filter(queue=queue)[offset : offset + limit]]

    def locate(self, job_id: str) -> Whereabouts | None:
        with errors_named():
            job = Job.objects.filter(pk=job_id).exclude(state__in=states.SETTLED).first()
            if job is None:
                return None
            is_ready, is_scheduled = job.state == states.PENDING, job.state in (states.SCHEDULED, states.RETRY)
            return Whereabouts(
                delivery=as_delivery(job),
                before=_before(job) if is_ready else None,
                due_at=job.run_at if is_scheduled else None,
                is_paused=Queue.objects.filter(name=job.queue, paused=True).exists(),
            )

    def walk(self, portion: int = 500, *, held: bool = False) -> Iterator[Sequence[Delivery]]:
        chosen = Job.objects.exclude(state__in=states.SETTLED) if held else Job.objects.waiting()
        last = ""
        while True:
            with errors_named():
                jobs = list(chosen.filter(pk__gt=last).order_by("pk")[:portion])
            if not jobs:
                return
            yield [as_delivery(job) for job in jobs]
            last = jobs[-1].pk

    def sizes(self, most: int | None = None) -> Mapping[str, QueueSize]:
        with errors_named():
            if most is not None:
                return _sizes_up_to(self.connection, most)
            # Each by its own index; states of several indexes together would be a walk through the whole table.
            parts = (Job.objects.ready(), Job.objects.scheduled(), Job.objects.running())
            counted = [_count(jobs, place) for place, jobs in enumerate(parts)]
            counts = {(queue, place): count for queue, place, count in counted[0].union(*counted[1:], all=True)}
            paused = dict(Queue.objects.values_list("name", "paused"))
        return {name: _size(name, counts, paused) for name in sorted({queue for queue, _ in counts} | set(paused))}

    def purge(self, queue: str) -> int:
        with errors_named(), self._atomic():
            waiting = Job.objects.waiting().filter(queue=queue)
            Ticket.objects.filter(pk__in=waiting.values("pk")).delete()
            return waiting.delete()[0]

    def pause(self, queue: str) -> None:
        self._set_paused(queue, True)

    def resume(self, queue: str) -> None:
        self._set_paused(queue, False)
        self._notifier.after_commit(self.connection, [queue])

    def is_paused(self, queue: str) -> bool:
        with errors_named():
            return statements.is_paused(self.connection, queue)

    def move(
        self, source: str, target: str, *, task: str | None = None, limit: int | None = None
    ) -> Iterator[Sequence[str]]:
        left = inf if limit is None else limit
        for jobs in (Job.objects.ready(), Job.objects.scheduled()):
            waiting = jobs.filter(queue=source, **({"task": task} if task else {}))
            found = BATCH
            while found == BATCH and left > 0:
                ids = self._move(waiting, target, int(min(BATCH, left)))
                found, left = len(ids), left - len(ids)
                if ids:
                    yield ids

    def _move(self, waiting: JobQuerySet, target: str, limit: int) -> list[str]:
        with errors_named(), self._atomic():
            ids = list(self._locked(waiting)[:limit])
            Job.objects.filter(pk__in=ids).update(queue=target)
            self._notifier.after_commit(self.connection, [target])
            return ids

    def age(self, queue: str, *, step: float, limit: int = 100) -> int:
        with errors_named():
            ready = Job.objects.ready().filter(queue=queue).order_by("rank", "order_key")  # as the index has it
            now = microseconds(statements.now(self.connection))
            rank: int | None = -PRIORITIES[-1]  # of the highest priority, above which nothing is raised
            raised = 0
            while (rank := ready.filter(rank__gt=rank).values_list("rank", flat=True).first()) is not None:
                waited = ready.filter(rank=rank, order_key__lte=now - round(step * 1_000_000))
                due = _due_to_rise(waited.only("priority", "order_key")[:limit], rank, now, step)
                raised += self._raise(waited, due) if due else 0
            return raised

    def _raise(self, waiting: JobQuerySet, due: Mapping[int, Sequence[str]]) -> int:
        with self._atomic():
            return sum(
                Job.objects.filter(pk__in=list(self._locked(waiting.filter(pk__in=ids)))).update(rank=rank)
                for rank, ids in due.items()
            )

    def _locked(self, jobs: JobQuerySet) -> Any:
        """The ids of those of `jobs` that nobody claims at this moment, locked."""
        skips = self.connection.features.has_select_for_update_skip_locked
        return jobs.select_for_update(skip_locked=skips).values_list("pk", flat=True)

    def _set_paused(self, queue: str, paused: bool) -> None:
        with errors_named():
            Queue.objects.update_or_create(name=queue, defaults={"paused": paused, "changed_at": utc_now()})

    def _atomic(self) -> Any:
        return transaction.atomic(using=settings.DATABASE)


@contextmanager
def errors_named() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        hint = " Run: manage.py migrate djtasks" if "no such table" in str(error) else ""
        what = f"The database {settings.DATABASE!r} did not do what was asked: {error}.{hint}"
        raise BrokerUnavailable(what) from error


def bury(ids: Iterable[str]) -> None:
    """Remember that these ids, which nobody knows yet, are revoked."""
    why = "The job was cancelled before it came."
    kind = f"{TaskRevokedError.__module__}.{TaskRevokedError.__qualname__}"
    now = utc_now()
    rows = [
        Job(id=each, state=states.REVOKED, revoked=True, finished_at=now, exception=kind, exception_message=why)
        for each in ids
    ]
    Job.objects.bulk_create(rows, ignore_conflicts=True)


def _due_to_rise(jobs: Iterable[Job], rank: int, now: int, step: float) -> dict[int, list[str]]:
    """Those of these jobs, which stand at `rank`, that have waited for a better one: their ids by that."""
    due: dict[int, list[str]] = {}
    for job in jobs:
        steps = int((now - job.order_key) / (step * 1_000_000))
        wanted = max(-PRIORITIES[-1], -job.priority - steps)
        if wanted < rank:
            due.setdefault(wanted, []).append(job.pk)
    return due


def _before(job: Job) -> int:
    """How many are ready in its queue that will be claimed before it, as far as they are counted."""
    same_rank = Q(rank=job.rank) & (Q(order_key__lt=job.order_key) | Q(order_key=job.order_key, pk__lt=job.pk))
    return (
        Job.objects.ready().filter(Q(rank__lt=job.rank) | same_rank, queue=job.queue).order_by()[:MOST_COUNTED].count()
    )


def as_delivery(job: Job) -> Delivery:
    return Delivery(
        message_of(job),
        job.worker,
        job.token,
        job.losses,
        job.refusals,
        job.revoked,
        job.attempts or "[]",
        job.created_at,
    )


def _sizes_up_to(connection: BaseDatabaseWrapper, most: int) -> Mapping[str, QueueSize]:
    """As `sizes`: cheap however much stands in the queues."""
    ready = statements.count_ready(connection, most)
    scheduled, running = statements.count_others(connection, most * 10)
    paused = dict(Queue.objects.values_list("name", "paused"))
    return {
        name: QueueSize(
            ready.get(name, 0),
            scheduled.get(name, 0),
            running.get(name, 0),
            paused=paused.get(name, False),
            more_ready=ready.get(name, 0) >= most,
            more_scheduled=sum(scheduled.values()) >= most * 10,
        )
        for name in sorted({*ready, *scheduled, *running, *paused})
    }


def _count(jobs: JobQuerySet, place: int) -> Any:
    """How many of `jobs` stand in each queue: rows of queue, `place`, count."""
    by_queue = jobs.order_by().values("queue").annotate(place=Value(place), count=Count("*"))
    return by_queue.values_list("queue", "place", "count")


def _size(name: str, counts: Mapping[tuple[str, int], int], paused: Mapping[str, bool]) -> QueueSize:
    ready, scheduled, running = (counts.get((name, place), 0) for place in range(3))
    return QueueSize(ready, scheduled, running, paused=paused.get(name, False))
