"""Schedules in the admin: the list, the form with its preview, the page of one, and what may be done to them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin import actions as django_actions
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from djtasks import control
from djtasks.admin import page, schedule_form, schedule_list
from djtasks.admin.app_admin import AppAdmin
from djtasks.admin.presentation import NOTHING, breakable, exact_and_age
from djtasks.admin.schedule_presentation import (
    dots,
    in_words,
    last_run_text,
    next_run_text,
    run_rows,
    source_of,
    status_pill,
)
from djtasks.admin.schedule_runs import last_runs, recent_runs, wakefulness
from djtasks.bulk import MOST_AT_ONCE
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, PeriodicTask, Worker

LONGEST_PROBLEM: Final = 200  # characters of it in the list


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """The runs of one row of the list. `last` is None if its job has no row; an address is '' if it may not be seen."""

    recent: Sequence[Job]
    last: Job | None
    last_url: str
    all_url: str


class PeriodicTaskAdmin(AppAdmin):
    form = schedule_form.ScheduleForm
    list_display = (
        "shown_name",
        "shown_schedule",
        "next_run",
        "last_runs",
        "total_run_count",
        "enabled",
        "shown_source",
    )
    list_display_links = ("shown_name",)
    list_filter = (schedule_list.StatusFilter, schedule_list.SourceFilter, schedule_list.ScheduledTaskFilter)
    list_per_page = 50
    ordering = ("name",)
    search_fields = ("name", "task")
    search_help_text = gettext_lazy("A name, a task, or a part of one")
    actions = ("enable", "disable", "run_now", "delete_selected")
    change_list_template = "admin/djtasks/periodictask/change_list.html"
    change_form_template = "admin/djtasks/periodictask/change_form.html"

    class Media:
        js = ("djtasks/schedule.js",)

    # The list

    @admin.display(description=gettext_lazy("name"), ordering="name")
    def shown_name(self, row: PeriodicTask) -> SafeString:
        mark = format_html(" {}", status_pill(row)) if row.status != "live" else ""
        problem = ""
        if row.problem:
            problem = format_html(
                '<span class="djtasks-problem">{}</span>', Truncator(row.problem).chars(LONGEST_PROBLEM)
            )
        task = row.task.rpartition(".")[2]
        name = '{}{}<span class="djtasks-module" title="{}">{}</span>{}'
        return format_html(name, breakable(row.name), mark, row.task, task, problem)

    @admin.display(description=gettext_lazy("schedule"))
    def shown_schedule(self, row: PeriodicTask) -> SafeString:
        return format_html('<span title="{}">{}</span>', row.schedule, in_words(row))

    @admin.display(description=gettext_lazy("next run"), ordering="next_run_at")
    def next_run(self, row: PeriodicTask) -> SafeString | str:
        return next_run_text(row)

    @admin.display(description=gettext_lazy("last runs"), ordering="last_run_at")
    def last_runs(self, row: PeriodicTask) -> SafeString | str:
        found: FoundRuns = row.found_runs  # type: ignore[attr-defined]  # `changelist_view` put it there
        text = last_run_text(row, found.last, found.last_url)
        return format_html("{} {}", text, dots(found.recent, found.all_url)) if found.recent else text

    @admin.display(description=gettext_lazy("source"), ordering="source")
    def shown_source(self, row: PeriodicTask) -> str:
        return source_of(row)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup in schedule_list.LOOKUPS

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, {**self._beat_context(request), **(extra_context or {})})
        if isinstance(response, TemplateResponse) and response.context_data and "cl" in response.context_data:
            self._add_runs(request, response.context_data["cl"].result_list)
        return response

    def _add_runs(self, request: HttpRequest, rows: Sequence[PeriodicTask]) -> None:
        recent = recent_runs([row.name for row in rows])
        last = last_runs(rows, recent)
        for row in rows:
            job = last.get(row.last_job or "")
            url = self.url_elsewhere(request, Job, "change", job.pk) if job else ""
            found = FoundRuns(recent[row.name], job, url, self._runs_url(request, row))
            row.found_runs = found  # type: ignore[attr-defined]

    def _beat_context(self, request: HttpRequest) -> dict[str, Any]:
        beat = wakefulness()
        return {
            "beat": beat,
            "beat_woke": exact_and_age(beat.woke_at),
            "workers_url": self.url_elsewhere(request, Worker, "changelist"),
        }

    def _runs_url(self, request: HttpRequest, row: PeriodicTask) -> str:
        address = self.url_elsewhere(request, Job, "changelist")
        return f"{address}?{urlencode({'periodic_task': row.name})}" if address else ""

    # The page of one

    def get_form(
        self, request: HttpRequest, obj: PeriodicTask | None = None, change: bool = False, **options: Any
    ) -> Any:
        if obj is not None and self._is_fixed(request, obj):
            options["help_texts"] = {}  # they tell what to write
        return super().get_form(request, obj, change, **options)

    def get_fieldsets(self, request: HttpRequest, obj: PeriodicTask | None = None) -> Any:
        may_read = request.user.has_perm("djtasks.view_job_arguments")
        is_fixed = obj is not None and self._is_fixed(request, obj)
        return schedule_form.fieldsets(obj, is_fixed=is_fixed, may_read=may_read)

    def _is_fixed(self, request: HttpRequest, row: PeriodicTask) -> bool:
        return _is_in_code(row) or not self.has_change_permission(request, row)

    def get_readonly_fields(self, request: HttpRequest, obj: PeriodicTask | None = None) -> tuple[str, ...]:
        shown = ("coming", "shown_arguments", "shown_headers", "hidden_arguments")
        if obj is None or not _is_in_code(obj):
            return shown
        return (*shown, *(name for name in self.form.Meta.fields if name != "enabled"))

    @admin.display(description=gettext_lazy("next runs"))
    def coming(self, row: PeriodicTask) -> SafeString:
        """Where the preview goes while a schedule is typed; without scripts nothing is there."""
        address = self.url("preview") + (f"?{urlencode({'row': row.pk})}" if row.pk else "")
        return format_html('<div class="djtasks-coming" data-djtasks-preview="{}" aria-live="polite"></div>', address)

    @admin.display(description=gettext_lazy("arguments"))
    def shown_arguments(self, row: PeriodicTask) -> SafeString | str:
        shown = page.private(Job(task=row.task, args=row.args, kwargs=row.kwargs))
        text = "\n".join(f"{each.name} = {each.value}" if each.name else each.value for each in shown.arguments)
        return _as_code(shown.raw_arguments or text)

    @admin.display(description=gettext_lazy("headers"))
    def shown_headers(self, row: PeriodicTask) -> SafeString | str:
        return _as_code(page.private(Job(task=row.task, headers=row.headers)).headers)

    @admin.display(description=gettext_lazy("arguments"))
    def hidden_arguments(self, row: PeriodicTask) -> str:
        return _("They are shown to users with the permission “Can view the arguments and results of jobs”.")

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id)) if object_id else None
        context = self._context_of(request, row) if row and self.has_view_permission(request, row) else {}
        return super().changeform_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def _context_of(self, request: HttpRequest, row: PeriodicTask) -> dict[str, Any]:
        runs = recent_runs([row.name])
        job_url = partial(self.url_elsewhere, request, Job, "change")
        last = last_runs([row], runs).get(str(row.last_job))
        return {
            **self._beat_context(request),
            "row": row,
            "task": breakable(row.task),
            "show_save_and_add_another": not _is_in_code(row),
            "pill": status_pill(row),
            "words": in_words(row),
            "preview": schedule_form.of_row(row),
            "note": schedule_form.note_on(row.task),
            "next_run": next_run_text(row),
            "last_run": last_run_text(row, last, job_url(last.pk) if last else ""),
            "source": source_of(row),
            "runs": [(*each, job_url(each[0].pk)) for each in run_rows(runs[row.name])],
            "runs_url": self._runs_url(request, row),
            "buttons": self._buttons(request, row),
            "history_url": self.url("history", str(row.pk)),
        }

    def _buttons(self, request: HttpRequest, row: PeriodicTask) -> list[tuple[str, str, str]]:
        """What may be done to it at this moment: name, label, address."""
        found = []
        if self.has_run_permission(request) and row.status not in ("broken", "gone"):
            found.append(("run", _("Run now")))
        if self.has_change_permission(request, row) and not row.gone:
            found.append(("disable", _("Disable")) if row.enabled else ("enable", _("Enable")))
        return [(name, label, self.url(name, str(row.pk))) for name, label in found]

    def has_delete_permission(self, request: HttpRequest, obj: PeriodicTask | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or not _is_in_code(obj) or obj.gone)

    def has_run_permission(self, request: HttpRequest) -> bool:
        return request.user.is_active and request.user.has_perm("djtasks.run_periodictask")

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is not None and self.has_delete_permission(request) and not self.has_delete_permission(request, row):
            self._explain_why_it_stays(request, [row.name])
            return HttpResponseRedirect(self.url("change", str(row.pk)))
        return super().delete_view(request, object_id, extra_context)

    def _explain_why_it_stays(self, request: HttpRequest, names: Sequence[str]) -> None:
        text = _(
            "Not deleted: %(names)s. What stands in the code would come back with the next start of a worker. "
            "Disable it here, or take it out of the code."
        )
        self.message_user(request, text % {"names": _listed(names)}, messages.WARNING)

    # While one is typed

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        preview = path("preview/", self.admin_site.admin_view(self.preview_view), name=f"{name}_preview")
        of_one = {action: partial(self.act_view, action=action) for action in ("run", "enable", "disable")}
        return [preview, *self.paths_of_one(of_one), *super().get_urls()]

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """A piece of HTML: what the schedule that was typed means, its next runs, or what is wrong with it."""
        if request.method != "GET":
            return HttpResponseNotAllowed(["GET"])
        row = self.get_object(request, request.GET["row"]) if request.GET.get("row") else None
        if not (self.has_change_permission(request, row) if row else self.has_add_permission(request)):
            raise PermissionDenied
        form_class = self.get_form(request, None, fields=schedule_form.PREVIEWED)
        form = form_class(request.GET, instance=copy(row) if row else PeriodicTask())
        shown = schedule_form.preview(form, row, request.GET.get("task", "").strip())
        return HttpResponse(
            render_to_string("admin/djtasks/periodictask/_preview.html", {"preview": shown}, request=request)
        )

    # What may be done

    @admin.action(description=gettext_lazy("Enable selected schedules"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._switch(request, queryset.filter(gone=False), True)
        if queryset.filter(gone=True).exists():
            text = _("What is gone from the code cannot run, so it is left alone.")
            self.message_user(request, text, messages.WARNING)

    @admin.action(description=gettext_lazy("Disable selected schedules"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._switch(request, queryset, False)

    @admin.action(description=gettext_lazy("Run selected schedules now"), permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        rows = list(queryset.order_by("name")[: MOST_AT_ONCE + 1])
        self._run(request, rows[:MOST_AT_ONCE])
        if len(rows) > MOST_AT_ONCE:
            text = _("More were selected. Only the first %(count)d are run at a time.") % {"count": MOST_AT_ONCE}
            self.message_user(request, text, messages.WARNING)

    @admin.action(description=gettext_lazy("Delete selected schedules"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> HttpResponse | None:
        staying = queryset.from_code().filter(gone=False)  # type: ignore[attr-defined]
        if names := list(staying.order_by("name").values_list("name", flat=True)[:MOST_AT_ONCE]):
            self._explain_why_it_stays(request, names)
        going = queryset.exclude(pk__in=list(staying.values_list("pk", flat=True)))
        return django_actions.delete_selected(self, request, going) if going.exists() else None

    def act_view(self, request: HttpRequest, object_id: str, action: str) -> HttpResponse:
        """Do it to one schedule, on POST."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        allowed = self.has_run_permission(request) if action == "run" else self.has_change_permission(request)
        if not allowed or not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return HttpResponseRedirect(self.url("changelist"))
        if action == "run":
            self._run(request, [row])
        else:
            getattr(self, action)(request, PeriodicTask.objects.filter(pk=row.pk))
        return HttpResponseRedirect(self.url("change", str(row.pk)))

    def _switch(self, request: HttpRequest, queryset: QuerySet[PeriodicTask], enabled: bool) -> None:
        rows = list(queryset.exclude(enabled=enabled))
        PeriodicTask.objects.filter(pk__in=[row.pk for row in rows]).update(enabled=enabled)
        if rows:
            note = _("Enabled.") if enabled else _("Disabled.")
            LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, note)  # type: ignore[arg-type]
        self.message_user(request, _switched(len(rows), enabled), messages.SUCCESS if rows else messages.WARNING)

    def _run(self, request: HttpRequest, rows: Sequence[PeriodicTask]) -> None:
        """Send a job of each, and say which were sent."""
        sent = []
        for row in rows:
            if row.status in ("broken", "gone"):
                self._say_not_sent(request, row, row.problem or _("it is gone from the code"))
                continue
            try:
                job_id = control.run_schedule(row.name)
            except (TypeError, ValueError, BrokerUnavailable, PeriodicTask.DoesNotExist) as error:
                self._say_not_sent(request, row, error)
            else:
                sent.append((row, job_id))
        if sent:
            LogEntry.objects.log_actions(request.user.pk, [row for row, _id in sent], CHANGE, _("Run now."))  # type: ignore[arg-type]
            self._say_sent(request, sent)

    def _say_sent(self, request: HttpRequest, sent: Sequence[tuple[PeriodicTask, str]]) -> None:
        text = ngettext("A job of %(names)s was sent.", "A job each of %(names)s was sent.", len(sent))
        shown = text % {"names": _listed([row.name for row, _id in sent])}
        address = self.url_elsewhere(request, Job, "change", sent[0][1]) if len(sent) == 1 else ""
        if address:
            shown = format_html('{} <a href="{}">{}</a>', shown, address, _("To the job"))
        self.message_user(request, shown, messages.SUCCESS)

    def _say_not_sent(self, request: HttpRequest, row: PeriodicTask, why: object) -> None:
        text = _("No job of %(name)s was sent: %(why)s") % {"name": row.name, "why": why}
        self.message_user(request, text, messages.ERROR)


def _is_in_code(row: PeriodicTask) -> bool:
    return row.source != PeriodicTask.Source.ADMIN


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" … (+{more})" if more > 0 else "")


def _switched(count: int, enabled: bool) -> str:
    if enabled:
        text = ngettext(
            "%d schedule was enabled. It runs from its next time on.",
            "%d schedules were enabled. They run from their next times on.",
            count,
        )
    else:
        text = ngettext("%d schedule was disabled.", "%d schedules were disabled.", count)
    return text % count


def _as_code(text: str) -> SafeString | str:
    return format_html('<pre class="djtasks-text">{}</pre>', text) if text else NOTHING
