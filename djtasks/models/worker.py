"""Who works, and how the queues are set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Self

from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from djtasks.conf import settings
from djtasks.models.fields import UTCDateTimeField, utc_now
from djtasks.models.managers import AppManager

SILENT_AFTER: Final = 3  # times WORKER_LOST_AFTER: if nobody lives who would declare a worker lost


def tasks_in(text: str | None) -> list[str]:
    """The names in `Worker.tasks`."""
    return list(json.loads(text)) if text else []


class WorkerQuerySet(models.QuerySet["Worker"]):
    """Workers, and what they are asked to do."""

    def live(self) -> Self:
        """Neither stopped nor lost, and heard of lately; without the names of their tasks, which may be many."""
        silent = utc_now() - timedelta(seconds=SILENT_AFTER * settings.WORKER_LOST_AFTER)
        return self.filter(stopped_at=None, lost_at=None, beat_at__gte=silent).defer("tasks")

    def tell(self, worker: str, command: Mapping[str, Any]) -> bool:
        """Ask a live worker to do something, soon. Returns whether it lives.

        Not within a transaction that may last: the worker's beats would wait for it.
        """
        with transaction.atomic(using=self.db):
            row = self.live().select_for_update().filter(pk=worker).first()
            if row is None:
                return False
            commands = [*json.loads(row.command or "[]"), command]
            return bool(self.filter(pk=worker).update(command=json.dumps(commands)))

    def obeyed(self, worker: str, commands: str) -> None:
        """The worker has done what `commands` gave; if more came meanwhile, it will find all of it once more."""
        self.filter(pk=worker, command=commands).update(command=None)


class Worker(models.Model):
    """One run of `runworker`. Its children's leases are owned by `<id>.<number of the child>`.

    `beat` is a counter, not a time: whoever sees it unchanged for `WORKER_LOST_AFTER` seconds of
    its own clock may take the worker for dead, so no two machines' clocks are ever compared.
    """

    id = models.CharField(_("boot id"), max_length=32, primary_key=True)
    hostname = models.CharField(_("name"), max_length=255)
    pid = models.IntegerField(_("process"))
    queues = models.TextField(_("queues"))
    pool = models.CharField(_("pool"), max_length=16)
    concurrency = models.IntegerField(_("concurrency"))
    tasks = models.TextField(null=True, editable=False)  # noqa: DJ001 - JSON list of the names that it knows
    version = models.CharField(_("version"), max_length=32, default="", db_default="")
    beat = models.BigIntegerField(_("beats"), default=0, db_default=0)
    beat_at = UTCDateTimeField(_("last beat"), default=utc_now)
    processed = models.BigIntegerField(_("processed"), default=0, db_default=0)
    failed = models.BigIntegerField(_("failed"), default=0, db_default=0)
    memory = models.BigIntegerField(_("memory (KiB)"), null=True)  # of all its processes
    command = models.TextField(null=True, editable=False)  # noqa: DJ001 - JSON list of what it is asked to do
    scheduler_at = UTCDateTimeField(_("beat last woke"), null=True)  # when it last looked for due schedules
    started_at = UTCDateTimeField(_("started at"), default=utc_now)
    stopped_at = UTCDateTimeField(_("stopped at"), null=True)
    lost_at = UTCDateTimeField(_("lost at"), null=True)

    objects = AppManager.from_queryset(WorkerQuerySet)()

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        default_permissions = ("view",)
        permissions = (("control_worker", _("Can control workers")),)

    def __str__(self) -> str:
        return self.hostname

    @property
    def is_live(self) -> bool:
        return self.stopped_at is None and self.lost_at is None

    @property
    def is_silent(self) -> bool:
        """Whether nobody has heard of it for long, and nobody lives who would declare it lost."""
        return self.is_live and (utc_now() - self.beat_at).total_seconds() > SILENT_AFTER * settings.WORKER_LOST_AFTER

    @staticmethod
    def queues_as_text(named: Sequence[str] | None, excluded: Sequence[str]) -> str:
        """What stands in `queues` of a worker of these queues (None: all), but for the excluded ones."""
        if named is None:
            return json.dumps({"but": list(excluded)} if excluded else None)
        return json.dumps([name for name in named if name not in excluded])

    def named_queues(self) -> list[str]:
        """The queues that it serves by name; [] if it serves all (but some), or none any more."""
        queues = json.loads(self.queues)
        return queues if isinstance(queues, list) else []

    @property
    def serves_none(self) -> bool:
        """Whether it was told to leave its last queue."""
        return self.queues == "[]"

    def excluded_queues(self) -> list[str]:
        """The queues that it leaves to others, of all."""
        queues = json.loads(self.queues)
        return list(queues["but"]) if isinstance(queues, dict) else []

    def knows(self, task: str) -> bool:
        """Whether a task of that name is declared there; of a worker that has not said so, it is supposed."""
        return self.tasks is None or task in json.loads(self.tasks)

    def serves(self, queue: str) -> bool:
        """Whether it takes jobs of that queue."""
        queues = json.loads(self.queues)
        return queue in queues if isinstance(queues, list) else queue not in self.excluded_queues()


class QueueQuerySet(models.QuerySet["Queue"]):
    """Queues by how they are set."""

    def default_priorities(self) -> dict[str, int]:
        """The default priority of each queue that has one."""
        chosen = self.exclude(default_priority=None).values_list("name", "default_priority")
        return {name: priority for name, priority in chosen if priority is not None}

    def limits(self) -> dict[str, tuple[str, int | None]]:
        """Of each queue that has a limit: its rate ("" for none), and how many of its jobs may run at a time."""
        rows = self.exclude(rate_limit="", max_concurrency=None).values_list("name", "rate_limit", "max_concurrency")
        return {name: (rate, places) for name, rate, places in rows}


class Queue(models.Model):
    """How a queue is set. A queue needs no row to exist."""

    name = models.CharField(_("name"), max_length=128, primary_key=True)
    paused = models.BooleanField(_("paused"), default=False, db_default=False)
    paused_at = UTCDateTimeField(_("paused since"), null=True)  # as who paused it says, on whatever broker
    paused_by = models.CharField(_("paused by"), max_length=150, default="", db_default="", blank=True)
    default_priority = models.SmallIntegerField(_("default priority"), null=True, blank=True)
    aging = models.FloatField(_("aging (seconds)"), null=True, blank=True)  # of waiting, for a step of priority
    rate_limit = models.CharField(_("rate limit"), max_length=32, default="", db_default="", blank=True)
    max_concurrency = models.IntegerField(_("concurrency limit"), null=True, blank=True)
    changed_at = UTCDateTimeField(_("changed at"), default=utc_now)

    objects = AppManager.from_queryset(QueueQuerySet)()

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        default_permissions = ("view", "change")
        permissions = (
            ("purge_queue", _("Can purge queues")),
            ("pause_queue", _("Can pause queues")),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_set(self) -> bool:
        """Whether it says anything beside the name."""
        has_limits = bool(self.rate_limit) or self.max_concurrency is not None
        return self.paused or self.default_priority is not None or self.aging is not None or has_limits
