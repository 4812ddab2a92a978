"""Limits on how often, and how many at a time, jobs of a task begin, where the queue is the job table."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import models, transaction
from django.db.models import OuterRef, Value
from django.db.models.functions import Concat
from django.utils.translation import gettext_lazy as _

from djtasks import states
from djtasks.message import CONCURRENCY, RATE, microseconds, moment
from djtasks.models.fields import utc_now
from djtasks.models.job import Job
from djtasks.models.managers import AppManager


class LimitQuerySet(models.QuerySet["Limit"]):
    """Limits, by who has set them."""

    def declare(self, declared: Iterable[tuple[str, str, int | None]]) -> None:
        """Take what the code says: task, rate ("" for none), how many at a time (None: any number)."""
        wanted = {task: (rate, places) for task, rate, places in declared}
        with transaction.atomic(using=self.db):
            limited = [task for task, limits in wanted.items() if limits != ("", None)]
            self.bulk_create([Limit(key=task, is_task=True) for task in limited], ignore_conflicts=True)
            for row in self.filter(pk__in=list(wanted)):
                rate, places = wanted[row.key]
                if (row.declared, row.max_concurrency, row.is_task) != (rate, places, True):
                    self.filter(pk=row.pk).update(declared=rate, max_concurrency=places, is_task=True)
                    self.filter(key__startswith=f"{row.key}[").update(max_concurrency=places)

    def prune(self, limit: int) -> int:
        """Delete up to `limit` rows of keys that nobody has used for a day, and so many tickets of jobs that are gone.

        Returns of how many rows it has found most.
        """
        stale = list(Ticket.objects.all().stale().values_list("pk", flat=True)[:limit])
        Ticket.objects.filter(pk__in=stale).delete()
        yesterday = microseconds(utc_now() - timedelta(days=1))
        idle = self.filter(is_task=False, rate="", parked=False, next_slot__lt=yesterday)
        used = Ticket.objects.filter(
            limit__in=[Concat(Value(CONCURRENCY), OuterRef("pk")), Concat(Value(RATE), OuterRef("pk"))]
        )
        ids = list(idle.exclude(models.Exists(used)).values_list("pk", flat=True)[:limit])
        self.filter(pk__in=ids, next_slot__lt=yesterday, parked=False).delete()
        return max(len(stale), len(ids))


class Limit(models.Model):
    """A task's limits, or the state of one of their keys: the slot given last, how many run at a time.

    With the queues elsewhere the state is there; what is set is here.
    """

    key = models.CharField(_("task or key"), max_length=255, primary_key=True)
    is_task = models.BooleanField(default=False, db_default=False, editable=False)
    rate = models.CharField(_("rate"), max_length=32, default="", db_default="", blank=True)  # set by an operator
    declared = models.CharField(_("rate in the code"), max_length=32, default="", db_default="", blank=True)
    max_concurrency = models.IntegerField(_("at a time"), null=True, blank=True)
    next_slot = models.BigIntegerField(default=0, db_default=0)  # µs: the slot that was given last
    interval = models.BigIntegerField(default=0, db_default=0, editable=False)  # µs between two slots
    parked = models.BooleanField(default=False, db_default=False, editable=False)  # whether jobs wait for a place

    objects = AppManager.from_queryset(LimitQuerySet)()

    class Meta:
        verbose_name = _("limit")
        verbose_name_plural = _("limits")
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.key

    @property
    def is_limited(self) -> bool:
        """Whether the task has any limit."""
        return bool(self.rate or self.declared or self.max_concurrency is not None)

    @property
    def last_slot(self) -> datetime | None:
        """When the last one that was let through was to begin."""
        return moment(self.next_slot) if self.next_slot else None


class TicketQuerySet(models.QuerySet["Ticket"]):
    """Tickets by where their jobs stand."""

    def of(self, limit: str, standing: int) -> Any:
        """Those of one limit, first come first, whose jobs stand as their tickets say."""
        jobs = Job.objects.filter(pk=models.OuterRef("pk"), state__in=_STATES[standing])
        found = self.filter(limit=limit, standing=standing).filter(models.Exists(jobs))
        return found.order_by("rank", "slot")

    def stale(self) -> Any:
        """Those of jobs that have ended, or are gone."""
        return self.exclude(
            models.Exists(Job.objects.filter(pk=models.OuterRef("pk")).exclude(state__in=states.SETTLED))
        )


class Ticket(models.Model):
    """What one job has of a limit: a slot of a rate that it waits for; or a place, or its position in the line for one.

    Only jobs that are limited have one, and it only counts while the job's own row says the same.
    """

    WAITS, CALLED, HOLDS = 0, 1, 2

    job = models.CharField(max_length=64, primary_key=True)
    limit = models.CharField(max_length=255)  # "rate:<key>", "concurrency:<key>"
    standing = models.SmallIntegerField(default=WAITS)
    rank = models.SmallIntegerField(default=0)
    slot = models.BigIntegerField(default=0)  # µs: when it may begin; of what waits for a place, its order

    objects = AppManager.from_queryset(TicketQuerySet)()

    class Meta:
        verbose_name = _("ticket")
        verbose_name_plural = _("tickets")
        default_permissions = ()
        indexes = (models.Index(fields=["limit", "standing", "rank", "slot"], name="djtasks_ticket_line"),)

    def __str__(self) -> str:
        return f"{self.limit} {self.job}"


_STATES: Final = {
    Ticket.WAITS: (states.SCHEDULED,),
    Ticket.CALLED: (states.PENDING,),
    Ticket.HOLDS: states.RUNNING,
}
