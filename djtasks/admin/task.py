"""Tasks in the admin: which there are, how each is declared and how it does, its rate, and a form to send one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from djtasks import control, registry, states, trends
from djtasks.admin import failures, task_facts
from djtasks.admin.app_admin import LookOnlyAdmin, only_shows
from djtasks.admin.charts import about, charts_of_task, distribution, number, pace
from djtasks.admin.dashboard import CHARTS_EVERY, LABELS, TaskRow, window_of
from djtasks.admin.presentation import NOTHING, age, breakable
from djtasks.admin.queue import in_address, name_in_address
from djtasks.admin.send_form import CallForm
from djtasks.admin.sending import send, tell
from djtasks.admin.task_facts import Knowledge, Known
from djtasks.builtin import NOT_BY_HAND
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, Limit
from djtasks.rates import checked_rate
from djtasks.trends import Total, Trends

PER_PAGE: Final = 100
REFRESH: Final = 30  # seconds
SEND: Final = "djtasks.send_task"
SET_RATE: Final = "djtasks.change_limit"


@dataclass(frozen=True, slots=True)
class Line(TaskRow):
    """A task of the list."""

    knowledge: Knowledge
    page_url: str
    rate: str

    @property
    def module(self) -> SafeString:
        return breakable(self.name.rpartition(".")[0])


class RateForm(forms.Form):
    """The rate that an operator sets; the same as in the list of limits."""

    rate = forms.CharField(
        label=gettext_lazy("Rate"),
        required=False,
        max_length=32,
        help_text=gettext_lazy(
            "Such as 10/s, 10/m or 10/h, over all workers: 10/m is one in six seconds. “none” is no limit; empty is "
            "what the code says. Workers heed it within seconds; what waits for its turn is called back."
        ),
    )

    def clean_rate(self) -> str:
        try:
            return checked_rate(self.cleaned_data["rate"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class TaskAdmin(LookOnlyAdmin):
    change_list_template = "admin/djtasks/task/change_list.html"
    change_form_template = "admin/djtasks/task/change_form.html"
    send_template = "admin/djtasks/task/send.html"
    rate_template = "admin/djtasks/task/rate.html"

    def get_urls(self) -> list[Any]:
        return [*self.paths_of_one({"send": self.send_view, "rate": self.rate_view}), *super().get_urls()]

    def task_url(self, page: str, task: str) -> str:
        """The address of a page of one task; '' for a name that is none."""
        if not task:
            return ""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{page}"
        piece = in_address(task) if set(task) <= {"."} else quote(task)
        return reverse(name, args=[piece], current_app=self.admin_site.name)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """What was done is logged with the job that was sent, and the limit that was set."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return HttpResponseRedirect(self.task_url("change", self._known(object_id)[0]))

    # All of them

    @method_decorator(require_safe)
    @only_shows
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The tasks that this process, the workers, the statistics or the limits know."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        window, known = window_of(request), Known()
        found = trends.read(window)
        search, after = request.GET.get("q", "").strip(), request.GET.get("after", "")
        names = {*known.names(), *found.tasks, *Limit.objects.filter(is_task=True).values_list("key", flat=True)}
        matching = sorted(name for name in names if search.lower() in name.lower() and name > after)
        shown = matching[:PER_PAGE]
        query = {"window": window.name, **({"q": search} if search else {})}
        context = {
            "title": _("Tasks"),
            "cl": {"opts": self.opts},  # for the way back at the top of Django's template
            "actions_on_top": True,  # or else Django's template would have inline style
            "lines": self._lines(request, shown, known, found),
            "elsewhere": known.elsewhere,
            "windows": self._windows(window, {"q": search} if search else {}),
            "window": window,
            "search": search,
            "first_url": f"?{urlencode(query)}" if after else "",
            "next_url": f"?{urlencode({**query, 'after': shown[-1]})}" if len(matching) > PER_PAGE else "",
        }
        return self.response(request, self.change_list_template, {**context, **(extra_context or {})})

    def _lines(self, request: HttpRequest, names: list[str], known: Known, found: Trends) -> list[Line]:
        limits = {row.key: row for row in Limit.objects.filter(pk__in=names)}
        jobs = self.url_elsewhere(request, Job, "changelist")
        return [
            Line(
                name,
                found.tasks.get(name, Total()),
                url=f"{jobs}?{urlencode({'task': name})}" if jobs else "",
                failures_url=f"{jobs}?{urlencode({'task': name, 'state': states.FAILURE})}" if jobs else "",
                knowledge=known.of(name),
                page_url=self.task_url("change", name),
                rate=(limit.rate or limit.declared) if (limit := limits.get(name)) else "",
            )
            for name in names
        ]

    def _windows(self, window: trends.Window, query: dict[str, str]) -> list[tuple[str, Any, bool]]:
        return [
            (f"?{urlencode({**query, 'window': name})}", LABELS[name], name == window.name) for name in trends.WINDOWS
        ]

    # One of them

    @method_decorator(require_safe)
    @only_shows
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """How a task is declared, and how its jobs have done lately."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        name, known = self._known(object_id)
        task, window = registry.find(name), window_of(request)
        found = trends.read(window, task=name)
        sees_jobs = bool(self.url_elsewhere(request, Job, "changelist"))
        with_messages = request.user.has_perm("djtasks.view_job_arguments")
        kinds, failed = failures.newest(name, with_messages=with_messages) if sees_jobs else ([], 0)
        context = {
            "title": _("Task"),
            "original": name,
            "name": name,
            "heading": breakable(name),
            "knowledge": known.of(name),
            "docstring": task_facts.docstring_of(task) if task else "",
            "signature": task_facts.signature_of(task) if task else "",
            "options": task_facts.options_of(task) if task else [],
            "limit": Limit.objects.filter(pk=name, is_task=True).first(),
            "buttons": self._buttons(request, name),
            "links": self._links(request, name),
            "windows": self._windows(window, {}),
            "window_label": LABELS[window.name],
            "fragment_url": f"?{urlencode({'window': window.name})}",
            "refresh": REFRESH,
            "charts_every": max(REFRESH, CHARTS_EVERY[window.name]),
            "figures": _figures(found),
            "charts": charts_of_task(found),
            "bars": distribution(found.total.runs),
            "sees_jobs": sees_jobs,
            "kinds": [(each, age(each.last.finished_at), self._job_url(request, each.last.pk)) for each in kinds],
            "failed": failed,
            "is_cut": failed == failures.MOST,
            "looked_at": number(failures.LOOKED_AT),
        }
        return self.response(request, self.change_form_template, {**context, **(extra_context or {})})

    def _known(self, object_id: str) -> tuple[str, Known]:
        """The name in an address, and who knows it."""
        name, known = name_in_address(object_id), Known()
        if "\0" in name or not task_facts.is_known(name, known):
            raise Http404(_("No task of this name is known: no code here, no worker and no job has it."))
        return name, known

    def _job_url(self, request: HttpRequest, pk: str) -> str:
        return self.url_elsewhere(request, Job, "change", pk)

    def _buttons(self, request: HttpRequest, name: str) -> list[tuple[str, str, str]]:
        buttons = ((_("Send"), "send", SEND), (_("Set the rate"), "rate", SET_RATE))
        return [
            (page, label, self.task_url(page, name))
            for label, page, permission in buttons
            if request.user.has_perm(permission) and not (page == "send" and name in NOT_BY_HAND)
        ]

    def _links(self, request: HttpRequest, name: str) -> list[tuple[str, str]]:
        if not (jobs := self.url_elsewhere(request, Job, "changelist")):
            return []
        failed = urlencode({"task": name, "state": states.FAILURE})
        return [(_("Jobs"), f"{jobs}?{urlencode({'task': name})}"), (_("Failures"), f"{jobs}?{failed}")]

    def send_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for the arguments; send the task on POST."""
        if not request.user.has_perm(SEND) or not self.has_view_permission(request):
            raise PermissionDenied
        name, known = self._known(object_id)
        if name in NOT_BY_HAND:  # each of the things that it does takes a permission of its own
            raise PermissionDenied
        task = registry.find(name)
        data = request.POST if request.method == "POST" else None
        form = CallForm(data, task=task, as_json="json" in request.GET)
        if data is not None and form.is_valid():
            sent, holder = send(request, name, form)
            if sent:
                return self._sent(request, name, sent, holder)
        context = {
            "title": _("Send a task"),
            "original": name,
            "name": name,
            "signature": task_facts.signature_of(task) if task else "",
            "docstring": task_facts.docstring_of(task) if task else "",
            "knowledge": known.of(name),
            "form": form,
            "has_fields": task is not None,
            "as_json": "json" in request.GET,
            "back_url": self.task_url("change", name),
        }
        return self.response(request, self.send_template, context)

    def _sent(self, request: HttpRequest, name: str, sent: str, holder: str | None) -> HttpResponse:
        if holder is None:
            self.log_addition(request, Job(pk=sent, task=name), _("Sent."))
        return HttpResponseRedirect(tell(self, request, sent, holder) or self.task_url("change", name))

    def rate_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask how often jobs of the task may begin; set it on POST."""
        if not request.user.has_perm(SET_RATE) or not self.has_view_permission(request):
            raise PermissionDenied
        name, _known = self._known(object_id)
        limit = Limit.objects.filter(pk=name, is_task=True).first()
        initial = {"rate": limit.rate if limit else ""}
        form = RateForm(request.POST if request.method == "POST" else None, initial=initial)
        if request.method == "POST" and form.is_valid() and self._set_rate(request, form, name):
            return HttpResponseRedirect(self.task_url("change", name))
        context = {
            "title": _("Set the rate of a task"),
            "action": {"name": "rate", "label": _("Set the rate")},
            "original": name,
            "name": name,
            "limit": limit,
            "form": form,
            "back_url": self.task_url("change", name),
        }
        return self.response(request, self.rate_template, context)

    def _set_rate(self, request: HttpRequest, form: RateForm, name: str) -> bool:
        rate = form.cleaned_data["rate"]
        try:
            control.set_rate(name, rate or None)
        except (ValueError, BrokerUnavailable) as error:
            form.add_error("rate", str(error))
            return False
        self.log_change(request, Limit(pk=name), f"{_('Rate set.')} {rate}".strip())
        self.message_user(request, _("The rate is set. Workers heed it within seconds."), messages.SUCCESS)
        return True


def _figures(found: Trends) -> list[tuple[str, str, SafeString | str, str]]:
    """What stands on top: a word for it in the markup, its label, the figure, and what else there is to say of it."""
    total, seconds = found.total, found.seconds
    share = f"{number(round(total.failure_rate * 100, 1))} %"
    return [
        ("ended", _("Ended"), number(total.ended), pace(total.ended / seconds) if seconds else NOTHING),
        ("failed", _("Failed"), number(total.failed), _("%(share)s of what ended") % {"share": share}),
        ("p50", _("Run time, p50"), about(total.run(0.5)), ""),
        ("p95", _("Run time, p95"), about(total.run(0.95)), ""),
        ("p99", _("Run time, p99"), about(total.run(0.99)), ""),
        ("wait", _("Time in queue, p95"), about(total.wait(0.95)), ""),
    ]
