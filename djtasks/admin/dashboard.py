"""The dashboard: what happens in all queues, at a glance, on the index of the app; and a fragment that renews it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from djtasks import states, trends
from djtasks.admin import attention
from djtasks.admin.charts import about, charts, number, pace, ready_text, scheduled_text
from djtasks.admin.presentation import NOTHING, age, served_queues
from djtasks.admin.schedule_list import BY_STATUS
from djtasks.admin.schedule_presentation import in_words, next_run_text
from djtasks.brokers import get_broker
from djtasks.brokers.base import QueueSize
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, PeriodicTask, Queue, Worker
from djtasks.models.fields import utc_now
from djtasks.models.managers import showing
from djtasks.queues import Standing, standing
from djtasks.selection import MOST_COUNTED
from djtasks.trends import Total, Trends, Window

if TYPE_CHECKING:
    from djtasks.admin.job import JobAdmin

DEFAULT: Final = "1h"
LABELS: Final[Mapping[str, Promise | str]] = {
    "10m": gettext_lazy("10 minutes"),
    "1h": gettext_lazy("hour"),
    "1d": gettext_lazy("day"),
    "1w": gettext_lazy("week"),
}
REFRESH: Final = 5  # seconds
CHARTS_EVERY: Final = {"10m": 5, "1h": 5, "1d": 30, "1w": 60}  # seconds: of a long time they change slowly
TOP: Final = 8  # tasks, schedules
MOST_QUEUES: Final = 50
MOST_WORKERS: Final = 50


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task in a table; '' as an address if it may not be seen."""

    name: str
    total: Total
    url: str
    failures_url: str

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def count(self) -> str:
        return number(self.total.ended)

    @property
    def failed(self) -> str:
        return number(self.total.failed)

    @property
    def failure_rate(self) -> str:
        return f"{number(round(self.total.failure_rate * 100, 1))} %"

    @property
    def p50(self) -> str:
        return about(self.total.run(0.5))

    @property
    def p95(self) -> str:
        return about(self.total.run(0.95))


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue in the table."""

    queue: Standing
    url: str
    ready: str
    scheduled: str
    came: str
    ended: str
    waits: str
    oldest: SafeString | str


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A live worker in the table: `busy` of its `concurrency`."""

    worker: Worker
    url: str
    busy: int

    @property
    def queues(self) -> str:
        return served_queues(self.worker)

    @property
    def processed(self) -> str:
        return number(self.worker.processed)

    @property
    def failed(self) -> str:
        return number(self.worker.failed)

    @property
    def last_beat(self) -> SafeString | str:
        return age(self.worker.beat_at)

    @property
    def started(self) -> SafeString | str:
        return age(self.worker.started_at)


class Dashboard:
    """What is shown to one user on one site; each part only to those who may see its pages."""

    def __init__(self, job_admin: JobAdmin, request: HttpRequest, window: Window) -> None:
        self.job_admin, self.request, self.window = job_admin, request, window
        self.url = partial(job_admin.url_elsewhere, request)
        queue_admin = job_admin.admin_site._registry.get(Queue) if self.url(Queue, "changelist") else None
        self.queue_url = attention.queue_pages(self.url, getattr(queue_admin, "queue_url", None))

    def context(self, *, with_charts: bool) -> dict[str, Any]:
        """What the template needs."""
        found, queues, error = trends.read(self.window), *self._queues()
        oldest = self._oldest(queues)
        workers = list(Worker.objects.live().order_by("hostname", "pk"))
        busy = busy_of(workers)
        sees_queues = bool(self.url(Queue, "changelist"))
        return {
            "windows": self._windows(),
            "window_label": LABELS[self.window.name],
            "window_seconds": int(self.window.length.total_seconds()),
            "fragment_url": f"{self.job_admin.url('dashboard')}?{urlencode({'window': self.window.name})}",
            "refresh": REFRESH,
            "charts_every": CHARTS_EVERY[self.window.name],
            "zone": timezone.get_current_timezone_name(),
            "updated": utc_now(),
            "notices": self._notices(found, queues, error, workers),
            "figures": _figures(found, None if error else queues, oldest, workers, busy),
            "charts": charts(found, None if error else depths_of(queues, found)) if with_charts else [],
            "sees_queues": sees_queues,
            "queues": self._queue_rows(queues, found, oldest) if sees_queues else [],
            "queues_url": self.url(Queue, "changelist"),
            "error": error,
            "slowest": self._slowest(found),
            "failing": self._failing(found),
            "sees_workers": bool(self.url(Worker, "changelist")),
            "workers": [WorkerRow(each, self.url(Worker, "change", each.pk), busy[each.pk]) for each in workers][
                :MOST_WORKERS
            ],
            "workers_url": self.url(Worker, "changelist"),
            "schedules_url": self.url(PeriodicTask, "changelist"),
            "next_runs": self._next_runs(),
        }

    def _windows(self) -> list[tuple[str, Promise | str, bool]]:
        return [(name, LABELS[name], name == self.window.name) for name in trends.WINDOWS]

    def _queues(self) -> tuple[list[Standing], str]:
        try:
            return standing(MOST_COUNTED), ""
        except BrokerUnavailable as error:
            return [], str(error)

    def _oldest(self, queues: Sequence[Standing]) -> dict[str, datetime]:
        try:
            return get_broker().oldest([each.name for each in queues if each.size.ready])
        except BrokerUnavailable:
            return {}

    def _notices(
        self, found: Trends, queues: Sequence[Standing], error: str, workers: Sequence[Worker]
    ) -> list[attention.Notice]:
        notices = list(attention.of_broker(error))
        if self.url(Worker, "changelist"):
            notices += attention.of_workers(self.url, len(workers), all_of(queues))
        if self.url(Queue, "changelist"):
            notices += attention.of_queues(queues, self.queue_url, bool(workers))
        if self.url(PeriodicTask, "changelist"):
            notices += attention.of_schedules(self.url)
        notices += attention.of_statistics(found, self.url)
        return sorted(notices, key=lambda notice: not notice.is_error)

    def _queue_rows(self, queues: Sequence[Standing], found: Trends, oldest: Mapping[str, datetime]) -> list[QueueRow]:
        busiest = sorted(queues, key=lambda each: (-each.size.ready, each.name))[:MOST_QUEUES]
        rows = []
        for each in sorted(busiest, key=lambda each: each.name):
            total = found.queues.get(each.name, Total())
            seconds = found.seconds
            rows.append(
                QueueRow(
                    queue=each,
                    url=self.queue_url(each.name),
                    ready=ready_text(each.size, found.depth(each.name)),
                    scheduled=scheduled_text(each.size),
                    came=pace(total.came / seconds) if seconds else NOTHING,
                    ended=pace(total.ended / seconds) if seconds else NOTHING,
                    waits=about(total.wait(0.95)),
                    oldest=age(oldest.get(each.name)),
                )
            )
        return rows

    def _slowest(self, found: Trends) -> list[TaskRow]:
        slow = {name: total.run(0.95) or 0.0 for name, total in found.tasks.items() if total.runs}
        return [self._task_row(name, found.tasks[name]) for name in sorted(slow, key=lambda name: -slow[name])[:TOP]]

    def _failing(self, found: Trends) -> list[TaskRow]:
        failing = [(name, total) for name, total in found.tasks.items() if total.failed]
        failing.sort(key=lambda pair: (-pair[1].failed, pair[0]))
        return [self._task_row(name, total) for name, total in failing[:TOP]]

    def _task_row(self, name: str, total: Total) -> TaskRow:
        jobs = self.job_admin.url("changelist")
        failures = urlencode({"task": name, "state": states.FAILURE})
        return TaskRow(name, total, f"{jobs}?{urlencode({'task': name})}", f"{jobs}?{failures}")

    def _next_runs(self) -> list[tuple[PeriodicTask, str, str, SafeString | str]]:
        if not self.url(PeriodicTask, "changelist"):
            return []
        rows = PeriodicTask.objects.filter(BY_STATUS["live"]).order_by("next_run_at", "name")[:TOP]
        return [(row, self.url(PeriodicTask, "change", row.pk), in_words(row), next_run_text(row)) for row in rows]


def all_of(queues: Sequence[Standing]) -> QueueSize:
    """How many jobs stand in all queues together."""
    sizes = [each.size for each in queues]
    return QueueSize(
        ready=sum(each.ready for each in sizes),
        scheduled=sum(each.scheduled for each in sizes),
        running=sum(each.running for each in sizes),
        more_ready=any(each.more_ready for each in sizes),
        more_scheduled=any(each.more_scheduled for each in sizes),
    )


def depths_of(queues: Sequence[Standing], found: Trends) -> dict[str, float]:
    """How many jobs are ready in each queue, as far as is known."""
    return {each.name: found.ready(each.name, each.size) for each in queues}


def busy_of(workers: Sequence[Worker]) -> dict[str, int]:
    """How many processes of each worker, or runs in them, have a job."""
    owners = dict.fromkeys(Job.objects.running().order_by().values_list("worker", flat=True).distinct())
    began = Job.objects.running().filter(state=states.STARTED).order_by().values_list("worker", flat=True)
    processes = {each.pk: 0 for each in workers}
    runs = dict(processes)
    for owner in owners:
        if (worker := owner.partition(".")[0]) in processes:
            processes[worker] += 1
    for owner in began:
        if (worker := owner.partition(".")[0]) in runs:
            runs[worker] += 1
    return {each.pk: min(each.concurrency, max(processes[each.pk], runs[each.pk])) for each in workers}


def _figures(
    found: Trends,
    queues: Sequence[Standing] | None,
    oldest: Mapping[str, datetime],
    workers: Sequence[Worker],
    busy: Mapping[str, int],
) -> list[tuple[str, str, SafeString | str, str]]:
    """What stands on top: a word for it in the markup, its label, the figure, and what else there is to say of it."""
    total, seconds = found.total, found.seconds
    waiting = all_of(queues or ())
    all_processes = sum(each.concurrency for each in workers)
    share = f"{number(round(total.failure_rate * 100, 1))} %"
    return [
        ("in", _("In"), pace(total.came / seconds) if seconds else NOTHING, _jobs(total.came)),
        ("out", _("Out"), pace(total.ended / seconds) if seconds else NOTHING, _jobs(total.ended)),
        ("failed", _("Failed"), number(total.failed), _("%(share)s of what ended") % {"share": share}),
        (
            "waiting",
            _("Waiting"),
            NOTHING if queues is None else ready_text(waiting, sum(depths_of(queues, found).values())),
            _("%(count)s scheduled") % {"count": scheduled_text(waiting)},
        ),
        ("oldest", _("Oldest waits since"), age(min(oldest.values(), default=None)), ""),
        (
            "p95",
            _("Time in queue, p95"),
            about(total.wait(0.95)),
            _("run time %(p95)s") % {"p95": about(total.run(0.95))},
        ),
        (
            "busy",
            _("Busy"),
            _("%(busy)d of %(all)d") % {"busy": sum(busy.values()), "all": all_processes},
            _("workers: %(count)d") % {"count": len(workers)},
        ),
    ]


def _jobs(count: int) -> str:
    return _("%(count)s jobs") % {"count": number(count)}


def context_of(job_admin: JobAdmin, request: HttpRequest) -> dict[str, Any]:
    """What the template needs, in the window that the address asks for; without charts if it has `charts=0`."""
    with_charts = request.GET.get("charts") != "0"
    with showing(Job):
        return Dashboard(job_admin, request, window_of(request)).context(with_charts=with_charts)


def window_of(request: HttpRequest) -> Window:
    """The window that the address asks for; the usual one if it asks for none that there is."""
    return trends.WINDOWS.get(request.GET.get("window", ""), trends.WINDOWS[DEFAULT])


def urls(job_admin: JobAdmin) -> list[URLPattern]:
    """Where the fragment is."""
    view = job_admin.admin_site.admin_view(partial(fragment, job_admin=job_admin))
    return [path("dashboard/", view, name=f"{job_admin.opts.app_label}_{job_admin.opts.model_name}_dashboard")]


@require_safe
def fragment(request: HttpRequest, job_admin: JobAdmin) -> HttpResponse:
    """A piece of HTML: the dashboard as it is now; without charts if the address has `charts=0`."""
    if not job_admin.has_view_permission(request):
        raise PermissionDenied
    request.current_app = job_admin.admin_site.name
    context = {"dashboard": context_of(job_admin, request)}
    return HttpResponse(render_to_string("admin/djtasks/dashboard/_dashboard.html", context, request=request))
