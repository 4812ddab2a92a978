"""The list of jobs: its filters, its search and its limits, made so that it answers on millions of rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from djtasks import registry, states
from djtasks.conf import settings
from djtasks.models import Job, Queue, Worker

LONGEST_LIST: Final = 10_000  # jobs that are counted and paged through
RECENT: Final = 1_000  # newest jobs that are looked at for names of queues
MOST_CHOICES: Final = 100  # of one filter
NOT_LISTED: Final = (
    "args",
    "kwargs",
    "result",
    "exception_message",
    "exception_args",
    "traceback",
    "attempts",
    "meta",
    "headers",
    "options",
)
# Any other lookup would let people search what they may not see, or the whole table.
LOOKUPS: Final = frozenset(
    {"state", "enqueued", "queue", "task", "worker", "parent_id", "root_id", "group_id", "periodic_task"}
)
_AFTER_ASCII: Final = "\x7f"


class CappedPaginator(Paginator):  # type: ignore[type-arg]  # no generic at run time
    """Counts no further than `LONGEST_LIST`."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]  # the admin gives nothing else
        return rows.order_by()[:LONGEST_LIST].count()

    @property
    def is_capped(self) -> bool:
        """Whether there may be more than what is listed."""
        return self.count >= LONGEST_LIST


class JobChangeList(ChangeList):
    """Jobs without their big texts, and with the names of their workers."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        return super().get_queryset(request, exclude_parameters).defer(*NOT_LISTED)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        names = worker_names(job.worker for job in self.result_list)
        for job in self.result_list:
            job.worker_name = names.get(job.worker, job.worker)


def worker_names(owners: Iterable[str]) -> dict[str, str]:
    """The names of the workers by what stands in `Job.worker`, for those that are known."""
    ids = {owner: owner.partition(".")[0] for owner in owners if owner}
    hostnames = dict(Worker.objects.filter(pk__in=set(ids.values())).values_list("pk", "hostname")) if ids else {}
    return {owner: hostnames[boot_id] for owner, boot_id in ids.items() if boot_id in hostnames}


def starts_with(field: str, prefix: str) -> Q:
    """Rows whose ASCII `field` starts with `prefix`; as a range, which an index answers on every database."""
    return Q(**{f"{field}__gte": prefix, f"{field}__lt": prefix + _AFTER_ASCII})


def search(jobs: QuerySet[Job], term: str) -> QuerySet[Job]:
    """Jobs by their id or its beginning, or by a task's name: a part of it if the task is known here."""
    term = term.strip()
    if not term:
        return jobs
    known = [name for name in registry.names() if term.lower() in name.lower()]
    return jobs.filter(starts_with("id", term) | starts_with("task", term) | Q(task__in=known))


class ChoiceFilter(admin.SimpleListFilter):
    """One of some names; a name that is asked for is offered, whether or not it was found."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        choices = dict(self.choices_now())
        asked = self.used_parameters.get(str(self.parameter_name))
        if asked and asked not in choices:
            choices[asked] = asked
        return list(choices.items())

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class StateFilter(ChoiceFilter):
    title = _("state")
    parameter_name = "state"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return [(state, state) for state in (*states.WAITING, *states.RUNNING, *states.SETTLED)]


class TaskFilter(ChoiceFilter):
    title = _("task")
    parameter_name = "task"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return [(name, name) for name in registry.names()]


class QueueFilter(ChoiceFilter):
    """The queues that are set, that tasks name, or that recent jobs stood in."""

    title = _("queue")
    parameter_name = "queue"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        names = set(Job.objects.order_by("-id").values_list("queue", flat=True)[:RECENT])
        names.update(Queue.objects.values_list("name", flat=True)[:MOST_CHOICES])
        names.update(task.queue for task in registry.all_tasks() if task.queue)
        names.add(settings.TASK_DEFAULT_QUEUE)
        return [(name, name) for name in sorted(names)[:MOST_CHOICES]]


class WorkerFilter(ChoiceFilter):
    """The workers that were started last."""

    title = _("worker")
    parameter_name = "worker"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        newest = Worker.objects.order_by("-started_at")[:MOST_CHOICES]
        return [(worker.pk, f"{worker.hostname} · {worker.pid}") for worker in newest]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset.filter(Q(worker=value) | starts_with("worker", f"{value}.")) if value else queryset


class _AskedFilter(ChoiceFilter):
    """What only links lead to: it is offered where it is asked for, so that it can be seen and taken back."""

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return ()


class GroupFilter(_AskedFilter):
    title = _("group")
    parameter_name = "group_id"


class ParentFilter(_AskedFilter):
    title = _("parent")
    parameter_name = "parent_id"


class RootFilter(_AskedFilter):
    """The jobs of a workflow, the one that it began with among them."""

    title = _("workflow")
    parameter_name = "root_id"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset.filter(Q(root_id=value) | Q(pk=value)) if value else queryset


class ScheduleFilter(_AskedFilter):
    """The runs of one schedule."""

    title = _("schedule")
    parameter_name = "periodic_task"


class EnqueuedFilter(admin.SimpleListFilter):
    """Jobs of the last hour, day, …"""

    title = _("enqueued")
    parameter_name = "enqueued"
    spans = {
        "1h": timedelta(hours=1),
        "24h": timedelta(days=1),
        "7d": timedelta(days=7),
        "30d": timedelta(days=30),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        return [
            ("1h", _("In the last hour")),
            ("24h", _("In the last 24 hours")),
            ("7d", _("In the last 7 days")),
            ("30d", _("In the last 30 days")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        span = self.spans.get(self.value() or "")
        return queryset.filter(created_at__gte=datetime.now(UTC) - span) if span else queryset
