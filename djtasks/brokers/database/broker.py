"""The database broker: the queue is the job table, for all vendors; only statements and wake-up differ."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Count, F, Q, Value, When

from djtasks import states
from djtasks.brokers import base
from djtasks.brokers.base import Broker, Loss, QueueSize
from djtasks.brokers.database.wakeup import Notifier, Wakeup
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured, TaskRevokedError
from djtasks.message import PRIORITIES, Delivery, Message, microseconds
from djtasks.models import Job, Queue, Worker, statements
from djtasks.models.attempts import with_attempt
from djtasks.models.fields import utc_now
from djtasks.models.job import JobQuerySet, message_of, row_of

BATCH: Final = 500  # jobs that are moved in one transaction
REVOKED_RANK = -1000  # before every priority, so that what was revoked ends at once, even in a paused queue


class DatabaseBroker(Broker):
    """Keeps the queues in the table of `Job` on the alias `DATABASE`."""

    transactional: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        alias = urlsplit(url).netloc
        if alias and alias != settings.DATABASE:
            raise ImproperlyConfigured(
                f"BROKER_URL names the database {alias!r}, but the tables are in {settings.DATABASE!r}: "
                f"set DJTASKS['DATABASE'] = {alias!r}, or BROKER_URL = 'database://'."
            )
        self._notifier = Notifier()
        self._local = threading.local()

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection."""
        return connections[settings.DATABASE]

    def enqueue(self, messages: Sequence[Message]) -> None:
        if messages:
            with _errors_named():
                if statements.enqueue(self.connection, messages) != len(messages):
                    self._exhume(messages)
                self._notifier.after_commit(self.connection, (message.queue for message in messages))

    def _exhume(self, messages: Sequence[Message]) -> None:
        """Let those come whose ids were taken because they were revoked before: they end as that, in their queues."""
        foreseeable = {each.id: each for each in messages if each.check or each.parent_id is not None}
        if not foreseeable:
            return
        with self._atomic():
            found = Job.objects.tombstones().filter(pk__in=list(foreseeable)).select_for_update().order_by("id")
            buried = list(found.values_list("pk", flat=True))
            if buried:
                Job.objects.tombstones().filter(pk__in=buried).delete()
                statements.enqueue(self.connection, [foreseeable[each] for each in buried])
                self._flag(buried)

    def claim(self, queue: str, *, limit: int, worker: str, refused: Collection[str] = ()) -> list[Delivery]:
        with _errors_named():
            return statements.claim(self.connection, queue, limit, worker, refused)

    def forget_claims(self, worker: str, *, but: Collection[str]) -> int:
        with _errors_named():
            unknown = Job.objects.running().filter(worker=worker).exclude(pk__in=but)
            return int(unknown.update(state=states.PENDING, worker="", started_at=None))

    def start(self, deliveries: Sequence[Delivery]) -> list[str]:
        with _errors_named(), self._atomic():
            now = statements.now(self.connection)
            return [
                each.id
                for each in deliveries
                if Job.objects.held(each).update(state=states.STARTED, started_at=now, acked_early=True)
            ]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to do: the row, whose state is the queue, has been recorded as finished."""

    def release(self, deliveries: Sequence[Delivery], *, delay: float = 0.0, count: base.Count | None = None) -> None:
        changes: dict[str, Any] = {"state": states.PENDING, "worker": "", "started_at": None, "acked_early": False}
        if count is not None:
            changes[count] = F(count) + 1
        with _errors_named(), self._atomic():
            if delay > 0:
                run_at = statements.now(self.connection) + timedelta(seconds=delay)
                changes.update(state=states.SCHEDULED, run_at=run_at)
            for worker in {each.worker for each in deliveries}:
                tokens = Q()
                for each in deliveries:
                    tokens |= Q(pk=each.id, token=each.token)
                Job.objects.running().filter(tokens, worker=worker).update(**changes)
            if not delay:
                self._notifier.after_commit(self.connection, (each.message.queue for each in deliveries))

    def reschedule(self, deliveries: Sequence[tuple[Delivery, Message]]) -> None:
        with _errors_named(), self._atomic():
            now = statements.now(self.connection)
            for delivery, message in deliveries:
                Job.objects.held(delivery).update(**row_of(message, now))

    def promote(self, *, limit: int = 1000) -> int:
        with _errors_named():
            queues = statements.promote(self.connection, limit)
            if queues:
                self._notifier.after_commit(self.connection, queues)
            return len(queues)

    def queues(self) -> list[str]:
        with _errors_named():
            return statements.queues(self.connection)

    def beat(self, workers: Sequence[str]) -> set[str]:
        with _errors_named(), self._atomic():
            now = statements.now(self.connection)
            live = Worker.objects.filter(pk__in=workers, lost_at=None, stopped_at=None)
            if live.update(beat=F("beat") + 1, beat_at=now) == len(set(workers)):
                return set(workers)
            return set(live.values_list("pk", flat=True))

    def beats(self) -> Mapping[str, int]:
        with _errors_named():
            return dict(Worker.objects.filter(lost_at=None, stopped_at=None).values_list("pk", "beat"))

    def owners(self) -> set[str]:
        with _errors_named():
            return set(Job.objects.running().order_by().values_list("worker", flat=True).distinct())

    def rescue(self, losses: Sequence[Loss], *, rescuer: str) -> list[Delivery]:
        ended: list[Delivery] = []
        for loss in losses:
            with _errors_named(), self._atomic():
                if loss.beat is None or _declare_lost(loss, statements.now(self.connection)):
                    ended += self._rescue(loss, rescuer)
        return ended

    def _rescue(self, loss: Loss, rescuer: str) -> list[Delivery]:
        owner = Q(worker=loss.worker) | (Q(worker__startswith=f"{loss.worker}.") if loss.beat is not None else Q())
        skips = self.connection.features.has_select_for_update_skip_locked
        # What a dead process's transaction still locks is found by the keeper's next look at the owners.
        leased = list(Job.objects.running().filter(owner).select_for_update(skip_locked=skips).order_by("id"))
        alone = loss.known or len(leased) == 1
        ended = []
        for job in leased:
            if not _counts(job, loss):
                Job.objects.filter(pk=job.pk).update(state=states.PENDING, worker="", started_at=None)
            elif loss.final and _is_begun(job, loss):
                ended.append(_leased_to(rescuer, job, losses=0))
            elif job.acked_early or (job.losses + 1 >= settings.TASK_MAX_LOSSES and alone):
                ended.append(_leased_to(rescuer, job))
            else:
                _count_loss(job)
        self._notifier.after_commit(self.connection, (job.queue for job in leased))
        return ended

    def wait(self, queues: Sequence[str], *, timeout: float) -> None:
        with _errors_named():
            self._wakeup().wait(timeout)

    @property
    def one_writer(self) -> bool:
        return self.connection.vendor == "sqlite"

    def wakeable(self, queues: Sequence[str]) -> int | None:
        with _errors_named():
            return self._wakeup().fileno()

    def drain_wakeups(self) -> None:
        with _errors_named():
            self._wakeup().drain()

    def has_changed(self) -> bool | None:
        if self.connection.vendor != "sqlite":
            return None
        with _errors_named():
            return self._wakeup().changed()

    def cancel(self, ids: Sequence[str]) -> int:
        with _errors_named(), self._atomic():
            count = self._flag(ids)
            if count < len(set(ids)):
                _bury(set(ids) - set(Job.objects.filter(pk__in=ids).values_list("pk", flat=True)))
            self._notifier.after_commit(self.connection, ["*"])
            return count

    def _flag(self, ids: Sequence[str]) -> int:
        waiting = Case(When(state__in=states.WAITING, then=Value(states.PENDING)), default=F("state"))
        unfinished = Job.objects.filter(pk__in=ids).exclude(state__in=states.SETTLED)
        return unfinished.update(revoked=True, rank=REVOKED_RANK, state=waiting)

    def leases(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        with _errors_named():
            rows = Job.objects.running().filter(pk__in=ids).values_list("pk", "worker", "token")
            return {pk: (worker, token) for pk, worker, token in rows}

    def peek(self, queue: str, *, scheduled: bool = False, offset: int = 0, limit: int = 100) -> list[Delivery]:
        with _errors_named():
            jobs = Job.objects.scheduled() if scheduled else Job.objects.ready()
            return [_as_delivery(job) for job in jobs.filter(queue=queue)[offset : offset + limit]]

    def sizes(self) -> Mapping[str, QueueSize]:
        with _errors_named():
            unfinished = Job.objects.filter(state__in=(*states.WAITING, *states.RUNNING)).order_by()
            counts = {
                (queue, state): count
                for queue, state, count in unfinished.values_list("queue", "state").annotate(count=Count("pk"))
            }
            paused = dict(Queue.objects.values_list("name", "paused"))
        return {name: _size(name, counts, paused) for name in sorted({queue for queue, _ in counts} | set(paused))}

    def purge(self, queue: str) -> int:
        with _errors_named():
            return Job.objects.waiting().filter(queue=queue).delete()[0]

    def pause(self, queue: str) -> None:
        self._set_paused(queue, True)

    def resume(self, queue: str) -> None:
        self._set_paused(queue, False)
        self._notifier.after_commit(self.connection, [queue])

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
        with _errors_named(), self._atomic():
            ids = list(self._locked(waiting)[:limit])
            Job.objects.filter(pk__in=ids).update(queue=target)
            self._notifier.after_commit(self.connection, [target])
            return ids

    def age(self, queue: str, *, step: float, limit: int = 100) -> int:
        with _errors_named():
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
        with _errors_named():
            Queue.objects.update_or_create(name=queue, defaults={"paused": paused, "changed_at": utc_now()})

    def close(self) -> None:
        self.connection.close()

    def _atomic(self) -> Any:
        return transaction.atomic(using=settings.DATABASE)

    def _wakeup(self) -> Wakeup:
        connection = self.connection
        wakeup: Wakeup | None = getattr(self._local, "wakeup", None)
        if wakeup is None or wakeup.connection is not connection:
            wakeup = self._local.wakeup = Wakeup(connection, settings.BROKER_OPTIONS.get("listen", True))
        return wakeup


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        hint = " Run: manage.py migrate djtasks" if "no such table" in str(error) else ""
        what = f"The database {settings.DATABASE!r} did not do what was asked: {error}.{hint}"
        raise BrokerUnavailable(what) from error


def _bury(ids: Iterable[str]) -> None:
    """Remember that these ids, which nobody knows yet, are revoked."""
    why = "The job was cancelled before it came."
    kind = f"{TaskRevokedError.__module__}.{TaskRevokedError.__qualname__}"
    now = utc_now()
    rows = [
        Job(id=each, state=states.REVOKED, revoked=True, finished_at=now, exception=kind, exception_message=why)
        for each in ids
    ]
    Job.objects.bulk_create(rows, ignore_conflicts=True)


def _declare_lost(loss: Loss, now: datetime) -> bool:
    """Mark the worker as lost, unless it has beaten meanwhile."""
    skips = connections[settings.DATABASE].features.has_select_for_update_skip_locked
    # Not a plain UPDATE: whoever holds the row locked would hold up all who look after the others.
    standing = Worker.objects.filter(pk=loss.worker, beat=loss.beat or 0, lost_at=None)
    found = standing.select_for_update(skip_locked=skips).first()
    return found is not None and bool(Worker.objects.filter(pk=found.pk).update(lost_at=now))


def _due_to_rise(jobs: Iterable[Job], rank: int, now: int, step: float) -> dict[int, list[str]]:
    """Those of these jobs, which stand at `rank`, that have waited for a better one: their ids by that."""
    due: dict[int, list[str]] = {}
    for job in jobs:
        steps = int((now - job.order_key) / (step * 1_000_000))
        wanted = max(-PRIORITIES[-1], -job.priority - steps)
        if wanted < rank:
            due.setdefault(wanted, []).append(job.pk)
    return due


def _counts(job: Job, loss: Loss) -> bool:
    """Whether the job may have begun in the process that died."""
    return job.acked_early or not loss.known or _is_begun(job, loss)


def _is_begun(job: Job, loss: Loss) -> bool:
    return loss.started == (job.pk, job.token)


def _count_loss(job: Job) -> None:
    attempt = {**job.current_attempt(), "ending": "LOST", "error": "The worker process died."}
    Job.objects.filter(pk=job.pk).update(
        state=states.PENDING,
        worker="",
        started_at=None,
        losses=F("losses") + 1,
        attempts=with_attempt(job.attempts, attempt),
    )


def _leased_to(rescuer: str, job: Job, losses: int = 1) -> Delivery:
    Job.objects.filter(pk=job.pk).update(worker=rescuer, token=F("token") + 1, losses=F("losses") + losses)
    return replace(_as_delivery(job), worker=rescuer, token=job.token + 1, losses=job.losses + losses)


def _as_delivery(job: Job) -> Delivery:
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


def _size(name: str, counts: Mapping[tuple[str, str], int], paused: Mapping[str, bool]) -> QueueSize:
    return QueueSize(
        ready=counts.get((name, states.PENDING), 0),
        scheduled=counts.get((name, states.SCHEDULED), 0) + counts.get((name, states.RETRY), 0),
        running=counts.get((name, states.RECEIVED), 0) + counts.get((name, states.STARTED), 0),
        paused=paused.get(name, False),
    )
