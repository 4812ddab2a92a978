"""The queues in the admin, as the broker has them: how much stands in each, what waits in one, and what may be done.

No row of `Queue` or `Job` is listed: a queue needs no row to exist, and on some brokers what waits has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from djtasks import control, trends
from djtasks.admin import queue_actions
from djtasks.admin.app_admin import LookOnlyAdmin, only_shows
from djtasks.admin.charts import pace, ready_text, scheduled_text
from djtasks.admin.presentation import NOTHING, age
from djtasks.admin.queue_actions import QueueAction
from djtasks.admin.waiting import FARTHEST, Part, Row, arguments_of, is_queue, look, offset_in
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, Queue, Worker
from djtasks.queues import Standing, standing, standing_of

QUEUES_PER_PAGE: Final = 100
RATES: Final = trends.WINDOWS["1h"]
RUN_NOW: Final = "change_queue"  # the permission
MOST_NAMED: Final = 3  # workers, in the list


@dataclass(frozen=True, slots=True)
class Line:
    """One queue of the list; `came` and `ended` of the last hour."""

    queue: Standing
    url: str
    scheduled_url: str
    ready: str
    scheduled: str
    came: str
    ended: str
    oldest: SafeString | str

    @property
    def served_by(self) -> str:
        names = ", ".join(name for _pk, name in self.queue.served_by[:MOST_NAMED])
        more = self.queue.workers - MOST_NAMED
        return _("%(names)s and %(count)d more") % {"names": names, "count": more} if more > 0 else names


class QueueAdmin(LookOnlyAdmin):
    change_list_template = "admin/djtasks/queue/change_list.html"
    change_form_template = "admin/djtasks/queue/change_form.html"
    act_template = "admin/djtasks/queue/act.html"

    @method_decorator(require_safe)
    @only_shows
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """All queues that hold jobs or are set."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        lines, next_after, error = list[Line](), "", ""
        after = request.GET.get("after", "")
        try:
            found = [each for each in standing(FARTHEST) if each.name > after]
            lines = self._lines(found[:QUEUES_PER_PAGE])
            next_after = lines[-1].queue.name if len(found) > QUEUES_PER_PAGE else ""
        except BrokerUnavailable as unavailable:
            error = str(unavailable)
        context = {
            "title": _("Queues"),
            "cl": {"opts": self.opts},  # for the way back at the top of Django's template
            "actions_on_top": True,  # or else Django's template would have inline style
            "lines": lines,
            "first_url": self.url("changelist") if after else "",
            "next_url": f"{self.url('changelist')}?{urlencode({'after': next_after})}" if next_after else "",
            "error": error,
        }
        return self._response(request, self.change_list_template, context, extra_context)

    def _lines(self, queues: Sequence[Standing]) -> list[Line]:
        """These queues with what came, ended and waits in them. Raises BrokerUnavailable."""
        counted = trends.read(RATES)
        oldest = get_broker().oldest([each.name for each in queues if each.size.ready])
        lines = []
        for each in queues:
            total = counted.queues.get(each.name, trends.Total())
            lines.append(
                Line(
                    each,
                    self.queue_url(each.name),
                    self.queue_url(each.name, scheduled=1),
                    ready=ready_text(each.size, counted.depth(each.name)),
                    scheduled=scheduled_text(each.size),
                    came=pace(total.came / counted.seconds) if counted.seconds else NOTHING,
                    ended=pace(total.ended / counted.seconds) if counted.seconds else NOTHING,
                    oldest=age(oldest.get(each.name)),
                )
            )
        return lines

    @method_decorator(require_safe)
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What waits in one queue; a queue that nobody knows is an empty one."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        queue = name_in_address(object_id)
        part = look(queue, scheduled="scheduled" in request.GET, offset=offset_in(request.GET.get("offset", "")))
        rows = self._rows(request, part)
        context = {
            "title": _("Queue"),
            "original": queue,
            "queue": queue,
            "part": part,
            "standing": part.standing,
            "buttons": self._buttons(request, part),
            "error": part.error,
            "rows": rows,
            "has_expiry": any(row.expires for row in rows),
            "has_notes": any(row.has_notes for row in rows),
            "has_arguments": any(row.arguments for row in rows),
            "ready_url": self.queue_url(queue),
            "scheduled_url": self.queue_url(queue, scheduled=1),
            "jobs_link": self.jobs_link("queue", queue) if self._shows_jobs(request) else "",
            "workers": [
                (name, self.url_elsewhere(request, Worker, "change", pk)) for pk, name in part.standing.served_by
            ],
            "unnamed": part.standing.workers - len(part.standing.served_by),
            "run_now_url": self._run_now_url(queue) if part.scheduled and self._may_run_now(request) else "",
            **self._other_parts(queue, part),
        }
        return self._response(request, self.change_form_template, context, extra_context)

    def _buttons(self, request: HttpRequest, part: Part) -> list[tuple[QueueAction, str]]:
        """What may be done now, each with its address."""
        if part.error or not is_queue(part.standing.name):
            return []
        return [
            (each, self._act_url(each, part.standing.name))
            for each in queue_actions.ALL
            if each.fits(part.standing) and each.is_allowed(request)
        ]

    def get_urls(self) -> list[Any]:
        views = {each.name: partial(self.act_view, action=each) for each in queue_actions.ALL}
        return [*self.paths_of_one({**views, "run_now": self.run_now_view}), *super().get_urls()]

    def _act_url(self, action: QueueAction, queue: str) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{action.name}"
        return reverse(name, args=[in_address(queue)], current_app=self.admin_site.name)

    def act_view(self, request: HttpRequest, object_id: str, action: QueueAction) -> HttpResponse:
        """Ask whether, or how, to do it to one queue; do it on POST."""
        queue = name_in_address(object_id)
        if not action.is_allowed(request) or not self.has_view_permission(request):
            raise PermissionDenied
        if not is_queue(queue):
            raise Http404(_("No queue can have this name."))
        try:
            found = standing_of(queue, FARTHEST)
            form = action.form_for(request, found)
            if (values := action.values(request, form)) is not None:
                told = action.perform(request, queue, values)
                self.message_user(request, told, messages.SUCCESS)
                return HttpResponseRedirect(self.queue_url(queue))
        except BrokerUnavailable as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(self.queue_url(queue))
        context = {
            "title": f"{action.label}: {queue}",
            "original": queue,
            "action": action,
            "standing": found,
            "ready": ready_text(found.size),
            "scheduled": scheduled_text(found.size),
            "form": form,
            "back_url": self.queue_url(queue),
            "error": "",
        }
        return self._response(request, self.act_template, context, None)

    def _may_run_now(self, request: HttpRequest) -> bool:
        return request.user.is_active and request.user.has_perm(f"djtasks.{RUN_NOW}")

    def _run_now_url(self, queue: str) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_run_now"
        return reverse(name, args=[in_address(queue)], current_app=self.admin_site.name)

    @method_decorator(require_POST)
    def run_now_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let one job run that waits for its time."""
        if not self._may_run_now(request) or not self.has_view_permission(request):
            raise PermissionDenied
        queue, job_id = name_in_address(object_id), request.POST.get("job", "")
        try:
            if control.run_now(job_id):
                self.log_change(request, Queue(name=queue), f"{_('Run now.')} {job_id}")
                self.message_user(request, _("The job is ready and runs next in its turn."), messages.SUCCESS)
            else:
                text = _("The job does not wait for its time any more, or it waits for a limit, and was left alone.")
                self.message_user(request, text, messages.WARNING)
        except BrokerUnavailable as error:
            self.message_user(request, str(error), messages.ERROR)
        return HttpResponseRedirect(self.queue_url(queue, scheduled=1))

    def queue_url(self, queue: str, **query: int) -> str:
        """The address of the page of one queue; '' for a name that none can have."""
        if not queue:
            return ""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        address = reverse(name, args=[in_address(queue)], current_app=self.admin_site.name)
        return f"{address}?{urlencode(query)}" if query else address

    def _response(
        self, request: HttpRequest, template: str, context: dict[str, Any], extra_context: dict[str, Any] | None
    ) -> HttpResponse:
        status = 503 if context["error"] else 200
        return self.response(request, template, {**context, **(extra_context or {})}, status=status)

    def _shows_jobs(self, request: HttpRequest) -> bool:
        job_admin = self.admin_site._registry.get(Job)
        return job_admin is not None and job_admin.has_view_permission(request)

    def _rows(self, request: HttpRequest, part: Part) -> list[Row]:
        may_read = request.user.has_perm("djtasks.view_job_arguments")
        ids = [each.id for each in part.deliveries] if self._shows_jobs(request) else []
        with_page = set(Job.objects.filter(pk__in=ids).values_list("pk", flat=True)) if ids else set()
        waits = get_broker().waits([each.id for each in part.deliveries]) if part.scheduled and not part.error else {}
        return [
            Row(
                position=position,
                wait=waits.get(each.id),
                delivery=each,
                url=self._job_url(each.id) if each.id in with_page else "",
                arguments=arguments_of(each.message) if may_read else "",
            )
            for position, each in enumerate(part.deliveries, part.first)
        ]

    def _job_url(self, pk: str) -> str:
        return reverse("admin:djtasks_job_change", args=[quote(pk)], current_app=self.admin_site.name)

    def _other_parts(self, queue: str, part: Part) -> dict[str, str]:
        """The addresses of the jobs before and after these; '' where there are none."""
        query = {"scheduled": 1} if part.scheduled else {}
        found = {f"{name}_url": self.queue_url(queue, **query, offset=at) for name, at in part.offsets.items()}
        return {"previous_url": "", "next_url": "", **found}


def in_address(queue: str) -> str:
    """The queue's name as a piece of an address. Dots too: browsers drop a piece '..' with the one before it."""
    return str(quote(queue)).replace(".", "_2E")


def name_in_address(piece: str) -> str:
    """The queue's name of which `in_address` made this. What is '_2E' in a name stands there as '_5F2E'."""
    return str(unquote(piece.replace("_2E", ".")))
