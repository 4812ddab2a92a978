"""Failures of one kind, that is of one task, exception and place: how many nobody has been told of yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Self

from django.db import models, transaction
from django.db.models import F
from django.utils.translation import gettext_lazy as _

from djtasks.models.fields import UTCDateTimeField, utc_now
from djtasks.models.managers import AppManager

ALL = "*"  # the key of the row that stands for all mails together


@dataclass(frozen=True, slots=True)
class Sighting:
    """A failed job: its kind, and itself as the example. `place` is where in the code, '' if that is unknown."""

    task: str
    exception: str
    place: str
    job_id: str

    @property
    def key(self) -> str:
        return sha256("\0".join((self.task, self.exception, self.place)).encode("utf-8", "replace")).hexdigest()


class FailureKindQuerySet(models.QuerySet["FailureKind"]):
    """Kinds of failures by whether somebody is to be told."""

    def note(self, sighting: Sighting, count: int) -> None:
        """Count `count` more failures of this kind."""
        now = utc_now()
        newest = {"count": F("count") + count, "last_at": now, "job_id": sighting.job_id}
        if self.filter(pk=sighting.key).update(**newest):
            return
        texts = {"task": sighting.task, "exception": sighting.exception, "place": sighting.place}
        self.bulk_create([self.model(pk=sighting.key, **texts)], ignore_conflicts=True)
        self.filter(pk=sighting.key).update(**newest)

    def untold(self, every: float) -> Self:
        """Failures that nobody was told of, of kinds about which there was no mail for `every` seconds."""
        before = utc_now() - timedelta(seconds=every)
        quiet = models.Q(mailed_at=None) | models.Q(mailed_at__lt=before)
        return self.filter(quiet, count__gt=0).exclude(pk=ALL).order_by("first_at", "pk")

    def take(self, every: float, most: int, period: float) -> tuple[list[FailureKind], int]:
        """Kinds to be mailed about now, by the caller and nobody else, and how many must wait since `most` were.

        One mail a kind every `every` seconds, `most` mails in `period` seconds: over all workers, since the row `ALL`
        is locked meanwhile. `count` of those given is that of the failures since the last mail.
        """
        if not self.filter(pk=ALL).exists():  # not in the transaction: MySQL keeps a lock on what it ignores
            self.bulk_create([self.model(pk=ALL)], ignore_conflicts=True)
        with transaction.atomic(using=self.db):
            total = self.select_for_update().get(pk=ALL)
            now = utc_now()
            if now - total.first_at >= timedelta(seconds=period):
                total.first_at, total.count = now, 0
            due = list(self.untold(every)[: most + 1])
            taken = due[: max(0, most - total.count)]
            for kind in taken:  # what is noted meanwhile stays for the next mail
                self.filter(pk=kind.pk).update(count=F("count") - kind.count, mailed_at=now)
            self.filter(pk=ALL).update(
                first_at=total.first_at, last_at=now, count=total.count + len(taken), mailed_at=now
            )
        return taken, len(due) - len(taken)

    def give_back(self, kinds: Sequence[FailureKind], mailed_at: datetime) -> None:
        """Mails about these could not be sent: they are still to be told of, as if last told of at `mailed_at`."""
        for kind in kinds:
            self.filter(pk=kind.pk).update(count=F("count") + kind.count, mailed_at=mailed_at)
        self.filter(pk=ALL, count__gte=len(kinds)).update(count=F("count") - len(kinds))

    def prune(self, seconds: float, limit: int) -> int:
        """Delete up to `limit` kinds not seen for so long. Returns how many."""
        old = self.filter(last_at__lt=utc_now() - timedelta(seconds=seconds)).order_by("last_at")
        ids: Iterable[str] = list(old.values_list("pk", flat=True)[:limit])
        return int(self.filter(pk__in=ids).delete()[0]) if ids else 0


class FailureKind(models.Model):
    """What `ERROR_EMAILS` are told of together. `count` is of the failures since the last mail, `job_id` the last one.

    The row `ALL` counts the mails of the period that began at `first_at`, and is the lock of who sends them.
    """

    key = models.CharField(max_length=64, primary_key=True)
    task = models.CharField(_("task"), max_length=255, default="", db_default="")
    exception = models.CharField(_("exception"), max_length=255, default="", db_default="")
    place = models.CharField(_("place"), max_length=255, default="", db_default="")
    job_id = models.CharField(_("last job"), max_length=64, default="", db_default="")
    count = models.BigIntegerField(_("not told of"), default=0, db_default=0)
    first_at = UTCDateTimeField(_("first seen"), default=utc_now)
    last_at = UTCDateTimeField(_("last seen"), default=utc_now, db_index=True)
    mailed_at = UTCDateTimeField(_("last mail"), null=True)

    objects = AppManager.from_queryset(FailureKindQuerySet)()

    class Meta:
        verbose_name = _("kind of failure")
        verbose_name_plural = _("kinds of failures")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.task}: {self.exception}"
