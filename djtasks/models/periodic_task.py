"""The schedule of a task, one row each."""

from __future__ import annotations

from typing import ClassVar, Self

from django.db import models
from django.utils.translation import gettext_lazy as _

from djtasks.models.fields import UTCDateTimeField, utc_now
from djtasks.models.managers import AppManager


class PeriodicTask(models.Model):
    """When a task is to be enqueued, and with what."""

    class CatchUp(models.TextChoices):
        SKIP = "skip", _("skip what was missed")
        ONCE = "once", _("run once for all that was missed")
        ALL = "all", _("run each that was missed")

    name = models.CharField(_("name"), max_length=200, unique=True)
    task = models.CharField(_("task"), max_length=255)
    schedule = models.CharField(_("schedule"), max_length=255)
    timezone = models.CharField(_("time zone"), max_length=64, default="", db_default="", blank=True)
    args = models.TextField(_("arguments"), default="[]")
    kwargs = models.TextField(_("keyword arguments"), default="{}")
    headers = models.TextField(_("headers"), default="{}")
    queue = models.CharField(_("queue"), max_length=128, default="", db_default="", blank=True)
    priority = models.SmallIntegerField(_("priority"), null=True, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True, db_default=True)
    start_at = UTCDateTimeField(_("not before"), null=True, blank=True)
    end_at = UTCDateTimeField(_("not after"), null=True, blank=True)
    one_off = models.BooleanField(_("only once"), default=False, db_default=False)
    max_runs = models.IntegerField(_("runs at most"), null=True, blank=True)
    expires = models.FloatField(_("a tick expires after (seconds)"), null=True, blank=True)
    jitter = models.FloatField(_("jitter (seconds)"), default=0, db_default=0.0)
    overlap = models.BooleanField(_("may overlap"), default=True, db_default=True)
    catch_up = models.CharField(_("missed ticks"), max_length=8, choices=CatchUp, default=CatchUp.ONCE)
    misfire_grace = models.FloatField(_("grace for missed ticks (seconds)"), null=True, blank=True)
    source = models.CharField(_("source"), max_length=16, default="admin", db_default="admin")
    last_run_at = UTCDateTimeField(_("last run"), null=True, blank=True)
    next_run_at = UTCDateTimeField(_("next run"), null=True, blank=True, db_index=True)
    total_run_count = models.IntegerField(_("runs"), default=0, db_default=0)
    changed_at = UTCDateTimeField(_("changed at"), default=utc_now)

    objects: ClassVar[AppManager[Self]] = AppManager()

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")

    def __str__(self) -> str:
        return self.name
