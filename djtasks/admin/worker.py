"""Workers in the admin: who works on what, who was lost, and what may be asked of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from djtasks.admin import worker_actions
from djtasks.admin.app_admin import LookOnlyAdmin
from djtasks.admin.charts import number
from djtasks.admin.dashboard import REFRESH, busy_of
from djtasks.admin.listing import starts_with
from djtasks.admin.presentation import (
    NOTHING,
    age,
    breakable,
    exact_and_age,
    memory,
    pill,
    run_time,
    served_queues,
    state_pill,
)
from djtasks.admin.worker_actions import WorkerAction
from djtasks.models import Job, Queue, Worker

MOST_JOBS: Final = 100  # of one worker, on its page
NOT_LISTED: Final = ("tasks", "command")
STATUSES: Final = {
    "live": gettext_lazy("Live"),
    "lost": gettext_lazy("Lost"),
    "stopped": gettext_lazy("Stopped"),
    "all": gettext_lazy("All"),
}


class StatusFilter(admin.SimpleListFilter):
    """Those that live, unless others are asked for; shown as tabs, not at the side."""

    title = gettext_lazy("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, Any]]:
        return list(STATUSES.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Worker]) -> QuerySet[Worker]:
        match self.value():
            case "all":
                return queryset
            case "stopped":
                return queryset.exclude(stopped_at=None).filter(lost_at=None)
            case "lost":
                live = Worker.objects.live().values("pk")
                return queryset.filter(~Q(lost_at=None) | Q(stopped_at=None)).exclude(pk__in=live)
        return queryset.filter(pk__in=Worker.objects.live().values("pk"))


class WorkerChangeList(ChangeList):
    """Workers with how many jobs each runs."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        live = [worker for worker in self.result_list if worker.is_live]
        found = busy_of(live) if live else {}
        for worker in self.result_list:
            worker.busy = found.get(worker.pk)


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job that the worker runs. `url` is '' for those who may not see its page."""

    job: Job
    url: str

    @property
    def pill(self) -> SafeString:
        return state_pill(self.job)

    @property
    def name(self) -> str:
        return self.job.task.rpartition(".")[2]

    @property
    def module(self) -> SafeString:
        return breakable(self.job.task.rpartition(".")[0])

    @property
    def elapsed(self) -> str:
        return run_time(self.job)

    @property
    def child(self) -> str:
        return self.job.worker.rpartition(".")[2]


class WorkerAdmin(LookOnlyAdmin):
    change_form_template = "admin/djtasks/worker/change_form.html"
    act_template = "admin/djtasks/worker/act.html"
    change_list_template = "admin/djtasks/worker/change_list.html"
    list_display = (
        "hostname",
        "status",
        "shown_busy",
        "shown_pool",
        "served",
        "shown_memory",
        "processed",
        "failed",
        "up_since",
        "last_beat",
        "pid",
    )
    list_filter = (StatusFilter,)
    list_per_page = 50
    sortable_by = ()
    ordering = ("-started_at", "id")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        chosen = request.GET.get("status", "")
        chosen = chosen if chosen in STATUSES else "live"
        tabs = [(f"?{urlencode({'status': name})}", title, name == chosen) for name, title in STATUSES.items()]
        context = {"title": _("Workers"), "tabs": tabs, **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WorkerChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        return super().get_queryset(request).defer(*NOT_LISTED)

    @admin.display(description=gettext_lazy("status"))
    def status(self, worker: Worker) -> SafeString:
        if worker.lost_at:
            return pill(_("lost"), "failure")
        if worker.stopped_at:
            return pill(_("stopped"), "cancelled")
        return pill(_("silent"), "retry") if worker.is_silent else pill(_("live"), "success")

    @admin.display(description=gettext_lazy("busy"))
    def shown_busy(self, worker: Any) -> str:
        if worker.busy is None:
            return NOTHING
        return _("%(busy)d of %(all)d") % {"busy": worker.busy, "all": worker.concurrency}

    @admin.display(description=gettext_lazy("queues"))
    def served(self, worker: Worker) -> str:
        return served_queues(worker)

    @admin.display(description=gettext_lazy("pool"))
    def shown_pool(self, worker: Worker) -> str:
        return f"{worker.pool} × {worker.concurrency}"

    @admin.display(description=gettext_lazy("memory"))
    def shown_memory(self, worker: Worker) -> str:
        return memory(worker.memory)

    @admin.display(description=gettext_lazy("started"))
    def up_since(self, worker: Worker) -> str:
        return age(worker.started_at)

    @admin.display(description=gettext_lazy("last beat"))
    def last_beat(self, worker: Worker) -> str:
        return age(worker.beat_at)

    # The page of one

    def get_urls(self) -> list[Any]:
        views = {each.name: partial(self.act_view, action=each) for each in worker_actions.ALL}
        return [*self.paths_of_one(views), *super().get_urls()]

    @method_decorator(require_safe)
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What one worker does, and what may be asked of it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        worker = self._worker(object_id)
        jobs = self._jobs(request, worker)
        context = {
            "title": _("Worker"),
            "original": worker,
            "worker": worker,
            "pill": self.status(worker),
            "facts": self._facts(request, worker, len(jobs)),
            "jobs": jobs[:MOST_JOBS],
            "has_more": len(jobs) > MOST_JOBS,
            "jobs_link": self.jobs_link("worker", worker.pk) if self._sees_jobs(request) else "",
            "buttons": self._buttons(request, worker),
            "is_asked": bool(worker.command),
            "history_url": self.url("history", worker.pk),
            "refresh": REFRESH,
        }
        return self.response(request, self.change_form_template, {**context, **(extra_context or {})})

    def act_view(self, request: HttpRequest, object_id: str, action: WorkerAction) -> HttpResponse:
        """Ask whether, or how, to tell one worker; tell it on POST."""
        if not action.is_allowed(request) or not self.has_view_permission(request):
            raise PermissionDenied
        worker = self._worker(object_id)
        back_url = self.url("change", worker.pk)
        if not action.fits(worker):
            self.message_user(request, _("This worker cannot do that, or lives no more."), messages.WARNING)
            return HttpResponseRedirect(back_url)
        form = action.form_for(request, worker)
        if (values := action.values(request, form)) is not None:
            if action.perform(request, worker, values):
                told = _("The worker was told, and does it within seconds.")
                self.message_user(request, f"{action.note} {told}", messages.SUCCESS)
            else:
                self.message_user(request, _("The worker lives no more."), messages.WARNING)
            return HttpResponseRedirect(back_url)
        context = {
            "title": f"{action.label}: {worker.hostname}",
            "original": worker,
            "worker": worker,
            "served": served_queues(worker),
            "action": action,
            "form": form,
            "back_url": back_url,
        }
        return self.response(request, self.act_template, context)

    def _worker(self, object_id: str) -> Worker:
        worker = Worker.objects.defer("tasks").filter(pk=unquote(object_id)).first()
        if worker is None:
            raise Http404(_("There is no such worker. Of those that live no more, the last hundred are kept."))
        return worker

    def _sees_jobs(self, request: HttpRequest) -> bool:
        return bool(self.url_elsewhere(request, Job, "changelist"))

    def _jobs(self, request: HttpRequest, worker: Worker) -> list[JobRow]:
        """What it has claimed and begun, one more than are shown; what began first at first."""
        if not worker.is_live or not self._sees_jobs(request):
            return []
        found = Job.objects.running().filter(starts_with("worker", f"{worker.pk}."))
        rows = found.only("id", "task", "queue", "state", "custom_state", "started_at", "seconds", "worker")
        listed = sorted(rows[: MOST_JOBS + 1], key=lambda job: (job.started_at is None, job.started_at, job.pk))
        return [JobRow(job, self.url_elsewhere(request, Job, "change", job.pk)) for job in listed]

    def _facts(self, request: HttpRequest, worker: Worker, jobs: int) -> list[tuple[str, Any]]:
        ending = [
            (label, exact_and_age(moment))
            for label, moment in ((_("Stopped"), worker.stopped_at), (_("Lost"), worker.lost_at))
            if moment
        ]
        return [
            (_("Queues"), self._queues(request, worker)),
            (_("Pool"), self.shown_pool(worker)),
            (_("Memory"), memory(worker.memory)),
            (_("Processed"), number(worker.processed)),
            (_("Failed"), number(worker.failed)),
            (_("Started"), exact_and_age(worker.started_at)),
            (_("Last beat"), exact_and_age(worker.beat_at)),
            *ending,
            (_("Beat looked for due schedules"), age(worker.scheduler_at)),
            (_("Process"), str(worker.pid)),
            (_("Version"), worker.version or NOTHING),
            (_("Boot id"), format_html("<code>{}</code>", worker.pk)),
        ]

    def _queues(self, request: HttpRequest, worker: Worker) -> str:
        queue_admin: Any = self.admin_site._registry.get(Queue)
        named = worker.named_queues()
        if not named or queue_admin is None or not queue_admin.has_view_permission(request):
            return served_queues(worker)
        links = [(queue_admin.queue_url(name), name) for name in named]
        return format_html_join(", ", '<a href="{}">{}</a>', links)

    def _buttons(self, request: HttpRequest, worker: Worker) -> list[tuple[WorkerAction, str]]:
        return [
            (each, self.url(each.name, worker.pk))
            for each in worker_actions.ALL
            if each.fits(worker) and each.is_allowed(request)
        ]
