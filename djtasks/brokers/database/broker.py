"""The database broker: the queue is the job table, for all vendors; only statements and wake-up differ."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.db import connections
from django.db.models import F, Q

from djtasks import states
from djtasks.brokers import base
from djtasks.brokers.base import LimitStanding, Loss, Watcher
from djtasks.brokers.database import limiting, uniqueness
from djtasks.brokers.database.operated import BATCH, OperatedQueues, as_delivery, errors_named
from djtasks.brokers.database.wakeup import Notifier, Wakeup
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured
from djtasks.message import Delivery, Message, Wait, moment, portions
from djtasks.models import Job, Worker, statements
from djtasks.models.attempts import with_attempt
from djtasks.models.job import row_of


class DatabaseBroker(OperatedQueues):
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
        self._lead = limiting.Lead()

    def enqueue(self, messages: Sequence[Message]) -> Mapping[str, str]:
        holders: Mapping[str, str] = {}
        unique = [each for each in messages if each.unique_key is not None]
        plain = [each for each in messages if each.unique_key is None] if unique else messages
        with errors_named():
            if plain and statements.enqueue(self.connection, plain) != len(plain):
                self._exhume(plain)
            if unique:
                with self._atomic():
                    holders = uniqueness.enqueue(unique)
                    self._exhume(unique)
            if messages:
                self._notifier.after_commit(self.connection, (message.queue for message in messages))
        return holders

    def unlock(self, messages: Sequence[Message], *, have_ended: bool = False) -> None:
        with errors_named():
            uniqueness.unlock(messages)

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

    def claim(
        self, queue: str, *, limit: int, worker: str, refused: Collection[str] = (), only: str | None = None
    ) -> list[Delivery]:
        with errors_named():
            return statements.claim(self.connection, queue, limit, worker, refused, only)

    def forget_claims(self, worker: str, *, but: Collection[str]) -> int:
        with errors_named():
            unknown = Job.objects.running().filter(worker=worker).exclude(pk__in=but)
            return int(unknown.update(state=states.PENDING, worker="", started_at=None))

    def revoked(self, ids: Sequence[str]) -> set[str]:
        with errors_named():
            return set(Job.objects.filter(pk__in=ids, revoked=True).values_list("pk", flat=True))

    def start(self, deliveries: Sequence[Delivery]) -> list[str]:
        with errors_named(), self._atomic():
            now = statements.now(self.connection)
            return [
                each.id
                for each in deliveries
                if Job.objects.held(each).update(state=states.STARTED, started_at=now, acked_early=True)
            ]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Free their places; else there is nothing to do: the row, whose state is the queue, has been recorded."""
        self._give_back(deliveries, begun=True)

    def _give_back(self, deliveries: Sequence[Delivery], *, begun: bool) -> None:
        if limited := [each for each in deliveries if each.grants]:
            with errors_named():
                self._woken(limiting.give_back(limited, begun=begun))

    def release(self, deliveries: Sequence[Delivery], *, delay: float = 0.0, count: base.Count | None = None) -> None:
        changes: dict[str, Any] = {"state": states.PENDING, "worker": "", "started_at": None, "acked_early": False}
        if count is not None:
            changes[count] = F(count) + 1
        with errors_named(), self._atomic():
            if delay > 0:
                run_at = statements.now(self.connection) + timedelta(seconds=delay)
                changes.update(state=states.SCHEDULED, run_at=run_at)
            for worker in {each.worker for each in deliveries}:
                for portion in portions(deliveries, lambda _each: 0, BATCH, 1):  # SQLite takes a thousand terms
                    Job.objects.running().filter(_tokens(portion), worker=worker).update(**changes)
            if not delay:
                self._notifier.after_commit(self.connection, (each.message.queue for each in deliveries))
        self._give_back(deliveries, begun=count is not None)

    def reschedule(self, deliveries: Sequence[tuple[Delivery, Message]]) -> None:
        with errors_named(), self._atomic():
            now = statements.now(self.connection)
            for delivery, message in deliveries:
                Job.objects.held(delivery).update(**row_of(message, now))
        self._give_back([delivery for delivery, _message in deliveries], begun=True)

    def defer(
        self, deliveries: Sequence[Delivery], key: str, interval: float, *, ahead: float, most: int
    ) -> list[Delivery]:
        with errors_named():
            granted, recalled = limiting.defer(deliveries, key, interval, ahead, most, self._lead)
            self._woken(recalled)
            return granted

    def take_places(self, deliveries: Sequence[Delivery], key: str, places: int, *, most: int) -> list[Delivery]:
        if not deliveries:
            return []
        with errors_named():
            taken, called = limiting.take_places(deliveries, key, places, most)
            self._woken(called)
            return taken

    def recall(self, limit: str) -> int:
        with errors_named():
            return self._woken(limiting.recall(limit))

    def fill_places(self) -> int:
        with errors_named():
            return self._woken(limiting.fill_places())

    def limits(self) -> list[LimitStanding]:
        with errors_named():
            return limiting.standings()

    def waits(self, ids: Sequence[str]) -> dict[str, Wait]:
        with errors_named():
            return limiting.waits(ids)

    def _woken(self, queues: Sequence[str]) -> int:
        if queues:
            self._notifier.after_commit(self.connection, queues)
        return len(queues)

    def until_due(self) -> float | None:
        with errors_named():
            return statements.until_due(self.connection)

    def promote(self, *, limit: int = 1000) -> int:
        with errors_named():
            queues = statements.promote(self.connection, limit)
            if queues:
                self._notifier.after_commit(self.connection, queues)
            return len(queues)

    def queues(self) -> list[str]:
        with errors_named():
            return statements.queues(self.connection)

    def oldest(self, queues: Collection[str]) -> dict[str, datetime]:
        with errors_named():
            found = statements.oldest(self.connection)
        return {queue: moment(since) for queue, since in found.items() if queue in queues}

    def beat(self, workers: Sequence[str]) -> set[str]:
        with errors_named():
            if statements.beat(self.connection, workers) == len(set(workers)):
                return set(workers)
            return set(workers) & statements.beats(self.connection).keys()

    def beats(self) -> Mapping[str, int]:
        with errors_named():
            return statements.beats(self.connection)

    def owners(self) -> set[str]:
        with errors_named():
            return Job.objects.all().owners()

    def rescue(self, losses: Sequence[Loss], *, rescuer: str) -> list[Delivery]:
        ended: list[Delivery] = []
        for loss in losses:
            with errors_named(), self._atomic():
                if loss.beat is None or _declare_lost(loss, statements.now(self.connection)):
                    ended += self._rescue(loss, rescuer)
        return ended

    def _rescue(self, loss: Loss, rescuer: str) -> list[Delivery]:
        owner = Q(worker=loss.worker) | (Q(worker__startswith=f"{loss.worker}.") if loss.beat is not None else Q())
        skips = self.connection.features.has_select_for_update_skip_locked
        # What a dead process's transaction still locks is found by the keeper's next look at the owners.
        leased = list(Job.objects.running().filter(owner).select_for_update(skip_locked=skips).order_by("id"))
        alone = loss.was_alone(len(leased))
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
        with errors_named():
            self._wakeup().wait(timeout)

    @cached_property
    def one_writer(self) -> bool:
        return self.connection.vendor == "sqlite"

    def wakeable(self, queues: Sequence[str], *, worker: str | None = None, limit: int = 1) -> int | None:
        with errors_named():
            return self._wakeup().fileno()

    def drain_wakeups(self) -> None:
        with errors_named():
            self._wakeup().drain()

    def watcher(self, queues: Sequence[str]) -> Watcher | None:
        if self.connection.vendor == "postgresql":
            return None
        with errors_named():
            return self._wakeup().watcher(queues)

    def close(self) -> None:
        self.connection.close()

    def _wakeup(self) -> Wakeup:
        connection = self.connection
        wakeup: Wakeup | None = getattr(self._local, "wakeup", None)
        if wakeup is None or wakeup.connection is not connection:
            wakeup = self._local.wakeup = Wakeup(connection, settings.BROKER_OPTIONS.get("listen", True))
        return wakeup


def _tokens(deliveries: Iterable[Delivery]) -> Q:
    tokens = Q()
    for each in deliveries:
        tokens |= Q(pk=each.id, token=each.token)
    return tokens


def _declare_lost(loss: Loss, now: datetime) -> bool:
    """Mark the worker as lost, unless it has beaten meanwhile."""
    skips = connections[settings.DATABASE].features.has_select_for_update_skip_locked
    # Not a plain UPDATE: whoever holds the row locked would hold up all who look after the others.
    standing = Worker.objects.filter(pk=loss.worker, beat=loss.beat or 0, lost_at=None)
    found = standing.select_for_update(skip_locked=skips).first()
    return found is not None and bool(Worker.objects.filter(pk=found.pk).update(lost_at=now))


def _counts(job: Job, loss: Loss) -> bool:
    """Whether the job may have begun in the process that died."""
    return job.acked_early or not loss.known or _is_begun(job, loss)


def _is_begun(job: Job, loss: Loss) -> bool:
    return (job.pk, job.token) in loss.started


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
    return replace(as_delivery(job), worker=rescuer, token=job.token + 1, losses=job.losses + losses)
