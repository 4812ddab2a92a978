"""Jobs in the admin: the list, the page of one job, and what may be done to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from djtasks import bulk, selection
from djtasks.admin import actions, again, all_jobs, dashboard, listing, page
from djtasks.admin.actions import JobAction
from djtasks.admin.app_admin import ReadOnlyAdmin, only_shows
from djtasks.admin.presentation import NOTHING, age, breakable, run_time, state_pill
from djtasks.admin.source import copies
from djtasks.admin.timeline import timeline
from djtasks.admin.tree import Links, tree
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, PeriodicTask, Queue
from djtasks.why import why

REFRESH = 2  # seconds in which the page of a job that has not ended is renewed
LONGEST_SUMMARY = 100  # jobs that a confirmation names


class JobAdmin(ReadOnlyAdmin):
    list_display = (
        "shown_state",
        "shown_task",
        "shown_queue",
        "enqueued",
        "shown_run_time",
        "finished",
        "shown_worker",
        "started",
        "shown_priority",  # last: a narrow page shows the first ones, the others by scrolling
    )
    list_display_links = ("shown_task",)
    list_filter = (
        listing.StateFilter,
        listing.EnqueuedFilter,
        listing.EndedFilter,
        listing.LongerFilter,
        listing.QueueFilter,
        listing.WorkerFilter,
        listing.TaskFilter,
        listing.GroupFilter,
        listing.RootFilter,
        listing.ParentFilter,
        listing.ScheduleFilter,
    )
    list_per_page = 50
    sortable_by = ()
    ordering = ("-id",)
    search_fields = ("id", "task")
    search_help_text = gettext_lazy("An id or its beginning; or a part of a task, of an error, of arguments")
    actions = (actions.RETRY.choice, actions.CANCEL.choice, actions.STOP.choice, actions.DELETE.choice)
    change_list_template = "admin/djtasks/job/change_list.html"
    change_form_template = "admin/djtasks/job/change_form.html"

    # The list

    @admin.display(description=gettext_lazy("state"))
    def shown_state(self, job: Job) -> SafeString:
        return state_pill(job)

    @admin.display(description=gettext_lazy("task"))
    def shown_task(self, job: Job) -> SafeString:
        if not job.task:  # unreadable, or cancelled before it came
            return format_html('<span class="djtasks-module">{}</span>', job.pk)
        module, _dot, name = job.task.rpartition(".")
        return format_html('{} <span class="djtasks-module">{}</span>', name, breakable(module))

    @admin.display(description=gettext_lazy("queue"))
    def shown_queue(self, job: Job) -> str:
        return job.queue

    @admin.display(description=gettext_lazy("priority"))
    def shown_priority(self, job: Job) -> int:
        return job.priority

    @admin.display(description=gettext_lazy("enqueued"))
    def enqueued(self, job: Job) -> str:
        return age(job.created_at)

    @admin.display(description=gettext_lazy("started"))
    def started(self, job: Job) -> str:
        return age(job.started_at)

    @admin.display(description=gettext_lazy("finished"))
    def finished(self, job: Job) -> str:
        return age(job.finished_at)

    @admin.display(description=gettext_lazy("run time"))
    def shown_run_time(self, job: Job) -> str:
        return run_time(job)

    @admin.display(description=gettext_lazy("worker"))
    def shown_worker(self, job: Job) -> str:
        return getattr(job, "worker_name", job.worker) or NOTHING

    @only_shows
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {
            "queues_url": self._queues_url(request),
            "waits_elsewhere": not get_broker().transactional,
            "looked_through": _("Only the newest %(count)s that the filters leave were looked through for the rest.")
            % {"count": f"{selection.LOOKED_THROUGH:,}"},
            "for_all": all_jobs.offered(request, self, listing.selection_of(request)),
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    @property
    def shows_all_jobs(self) -> bool:
        """Whether everybody who may see jobs sees all of them, on this site."""
        return type(self).get_queryset is admin.ModelAdmin.get_queryset

    def _queues_url(self, request: HttpRequest) -> str:
        return self.url_elsewhere(request, Queue, "changelist")

    def _schedule_url(self, request: HttpRequest, job: Job) -> str:
        pk = PeriodicTask.objects.filter(name=job.periodic_task).values_list("pk", flat=True).first()
        return self.url_elsewhere(request, PeriodicTask, "change", pk) if pk is not None else ""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[listing.JobChangeList]:
        return listing.JobChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return queryset, False  # the list of jobs seeks by itself

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup in listing.LOOKUPS

    # The page of one job

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        job = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, job):
            raise PermissionDenied
        if job is None:
            return self.missing(request, object_id)
        context = {**self._context_of(request, job), **(extra_context or {})}
        return self.response(request, self.change_form_template, context)

    def _context_of(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        may_read = request.user.has_perm("djtasks.view_job_arguments")
        attempts, raw_attempts = page.attempts(job, with_errors=may_read)
        return {
            "title": _("Job"),
            "original": job,
            "job": job,
            "heading": breakable(job.task),
            "fragment_url": self.url("live", job.pk),
            "refresh": REFRESH,
            "timeline": timeline(job),
            "pill": state_pill(job),
            "reasons": [] if job.is_finished else why(job.pk),
            "facts": page.facts(job, self._schedule_url(request, job) if job.periodic_task else ""),
            "private": page.private(job) if may_read else None,
            "attempts": attempts,
            "raw_attempts": raw_attempts,
            "copies": copies(job) if may_read else None,
            "tree": tree(job, Links(partial(self.url, "change"), self._list_url)),
            "buttons": self._buttons(request, job),
            "history_url": self.url("history", job.pk),
        }

    def _buttons(self, request: HttpRequest, job: Job) -> list[tuple[str, Promise | str, str]]:
        """What may be done now: a word for it in the markup, its label, its address."""
        found: list[tuple[str, Promise | str, str]] = [
            (each.name, each.label, self.url(each.name, job.pk))
            for each in actions.ALL
            if each.deed.fits(job) and each.is_allowed(request) and (job.keeps_arguments or each is not actions.RETRY)
        ]
        if again.is_offered(request, job):
            found.append(("again", again.LABEL, self.url("again", job.pk)))
        return found

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A piece of HTML: the page of the job as it is now."""
        job = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, job):
            raise PermissionDenied
        if job is None:
            raise Http404
        request.current_app = self.admin_site.name
        context = self._context_of(request, job)
        return HttpResponse(render_to_string("admin/djtasks/job/_job.html", context, request=request))

    def _list_url(self, query: Mapping[str, str]) -> str:
        return f"{self.url('changelist')}?{urlencode(query)}"

    def missing(self, request: HttpRequest, object_id: str) -> HttpResponse:
        job_id = unquote(object_id)
        if _waits_without_row(job_id):
            text = _("Job %(id)s waits, and has no row until it runs. What waits, in its order, stands here by queue.")
            text = f"{text} {' '.join(each.text.replace('%', '%%') for each in why(job_id))}"
            address = self._queues_url(request) or self.url("changelist")
        else:
            text = _("There is no job %(id)s. Its row may have been deleted after RESULT_EXPIRES.")
            address = self.url("changelist")
        self.message_user(request, text % {"id": job_id}, messages.WARNING)
        return HttpResponseRedirect(address)

    # What may be done

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return actions.RETRY.is_allowed(request)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return actions.CANCEL.is_allowed(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return actions.DELETE.is_allowed(request) and (obj is None or obj.is_finished)

    @admin.action(description=gettext_lazy("Retry selected jobs"), permissions=["retry"])
    def retry_jobs(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse:
        return self._act_on_many(request, actions.RETRY, queryset)

    @admin.action(description=gettext_lazy("Cancel selected jobs"), permissions=["revoke"])
    def cancel_jobs(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse:
        return self._act_on_many(request, actions.CANCEL, queryset)

    @admin.action(description=gettext_lazy("Cancel and stop selected jobs that run"), permissions=["revoke"])
    def stop_jobs(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse:
        return self._act_on_many(request, actions.STOP, queryset)

    @admin.action(description=gettext_lazy("Delete selected finished jobs"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse:
        return self._act_on_many(request, actions.DELETE, queryset)

    def get_urls(self) -> list[Any]:
        of_one: dict[str, Callable[..., HttpResponse]] = {
            "again": partial(again.again_view, job_admin=self),
            "live": require_safe(self.live_view),
            **{each.name: partial(self.act_view, action=each) for each in actions.ALL},
        }
        return [*dashboard.urls(self), *all_jobs.urls(self), *self.paths_of_one(of_one), *super().get_urls()]

    def act_view(self, request: HttpRequest, object_id: str, action: JobAction) -> HttpResponse:
        """Ask whether to do it to one job; do it on POST."""
        if not action.is_allowed(request) or not self.has_view_permission(request):
            raise PermissionDenied
        job = self.get_object(request, unquote(object_id))
        if job is None:
            return self.missing(request, object_id)
        back = self.url("change", job.pk)
        if request.method == "POST":
            self._perform(request, action, [job.pk])
            return HttpResponseRedirect(self.url("changelist") if action is actions.DELETE else back)
        return self._ask(request, action, [job], back)

    def _act_on_many(self, request: HttpRequest, action: JobAction, queryset: QuerySet[Job]) -> HttpResponse:
        """Ask whether to do it to the selected jobs; do it once that is confirmed."""
        if not action.is_allowed(request):
            raise PermissionDenied
        back = request.get_full_path()
        if request.POST.get("select_across") == "1":
            return all_jobs.all_view(request, action, self)
        jobs = list(queryset.order_by("-id")[: bulk.MOST_AT_ONCE + 1])
        if request.POST.get("confirmed"):
            self._perform(request, action, [job.pk for job in jobs[: bulk.MOST_AT_ONCE]])
            return HttpResponseRedirect(back)
        return self._ask(request, action, jobs, back)

    def _perform(self, request: HttpRequest, action: JobAction, ids: Sequence[str]) -> None:
        try:
            count = action.perform(request, ids)
        except BrokerUnavailable as error:
            self.message_user(request, str(error), messages.ERROR)
            return
        self.message_user(request, action.done % count, messages.SUCCESS if count else messages.WARNING)

    def _ask(self, request: HttpRequest, action: JobAction, jobs: list[Job], back: str) -> HttpResponse:
        is_too_many = len(jobs) > bulk.MOST_AT_ONCE
        jobs = jobs[: bulk.MOST_AT_ONCE]
        touched = [job for job in jobs if action.deed.fits(job)]
        rest = len(jobs) - len(touched)
        context = {
            "title": action.title,
            "original": action.title,
            "action": action,
            "touched": [(job, state_pill(job), age(job.created_at)) for job in touched[:LONGEST_SUMMARY]],
            "ids": [job.pk for job in touched],
            "unnamed": max(0, len(touched) - LONGEST_SUMMARY),
            "left_alone": action.left_alone % rest if rest else "",
            "most_at_once": bulk.MOST_AT_ONCE if is_too_many else None,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "back_url": back,
        }
        return self.response(request, "admin/djtasks/job/confirm.html", context)


def _waits_without_row(job_id: str) -> bool:
    """Whether the broker knows a job that the job table does not (yet)."""
    broker = get_broker()
    try:
        return not broker.transactional and bool(broker.known([job_id]))
    except BrokerUnavailable:
        return False
