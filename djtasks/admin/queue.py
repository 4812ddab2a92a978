"""The queues in the admin, as the broker has them: how much stands in each, what waits in one, and what may be done.

No row of `Queue` or `Job` is listed: a queue needs no row to exist, and on some brokers what waits has none.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from djtasks.admin import page, queue_actions
from djtasks.admin.presentation import age
from djtasks.admin.queue_actions import QueueAction
from djtasks.admin.worker import LookOnlyAdmin
from djtasks.brokers import get_broker
from djtasks.brokers.base import QueueSize
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Delivery, Message, checked_queue
from djtasks.models import Job
from djtasks.queues import Standing, standing, standing_of

PER_PAGE: Final = 100  # jobs
FARTHEST: Final = 10**9  # jobs that may be skipped
LONGEST_ARGUMENTS: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class Row:
    """One job that waits. `url` is '' if it has no page, `arguments` if they may not be seen or there are none."""

    position: int
    delivery: Delivery
    url: str
    arguments: str

    @property
    def message(self) -> Message:
        return self.delivery.message

    @property
    def name(self) -> str:
        return self.message.task.rpartition(".")[2]

    @property
    def module(self) -> str:
        return self.message.task.rpartition(".")[0]

    @property
    def enqueued(self) -> str:
        return age(self.delivery.created_at)

    @property
    def due(self) -> str:
        return age(self.message.eta)

    @property
    def expires(self) -> str:
        return age(self.message.expires_at) if self.message.expires_at else ""

    @property
    def has_notes(self) -> bool:
        delivery = self.delivery
        return bool(delivery.malformed or delivery.revoked or delivery.token or delivery.losses)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what waits in a queue: `deliveries` are those after the first `offset`, of `total`."""

    scheduled: bool
    offset: int
    standing: Standing
    deliveries: Collection[Delivery] = ()
    error: str = ""

    @property
    def size(self) -> QueueSize:
        return self.standing.size

    @property
    def total(self) -> int:
        return self.size.scheduled if self.scheduled else self.size.ready

    @property
    def first(self) -> int:
        return self.offset + 1

    @property
    def last(self) -> int:
        return self.offset + len(self.deliveries)


class QueueAdmin(LookOnlyAdmin):
    change_list_template = "admin/djtasks/queue/change_list.html"
    change_form_template = "admin/djtasks/queue/change_form.html"
    act_template = "admin/djtasks/queue/act.html"

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """All queues that hold jobs or are set."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        queues, error = [], ""
        try:
            for each in standing():
                queues.append((each, self.queue_url(each.name), self.queue_url(each.name, scheduled=1)))
        except BrokerUnavailable as unavailable:
            error = str(unavailable)
        context = {
            "title": _("Queues"),
            "cl": {"opts": self.opts},  # for the way back at the top of Django's template
            "actions_on_top": True,  # or else Django's template would have inline style
            "queues": queues,
            "has_settings": any(each.is_set for each, *_urls in queues),
            "has_notes": any(each.notes() for each, *_urls in queues),
            "error": error,
        }
        return self._response(request, self.change_list_template, context, extra_context)

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
        return [
            path(
                f"<path:object_id>/{action.name}/",
                self.admin_site.admin_view(partial(self.act_view, action=action)),
                name=f"{self.opts.app_label}_{self.opts.model_name}_{action.name}",
            )
            for action in queue_actions.ALL
        ] + super().get_urls()

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
            found = standing_of(queue)
            form = action.form(request.POST if request.method == "POST" else None, queue=found) if action.form else None
            if request.method == "POST" and (form is None or form.is_valid()):
                told = action.perform(request, queue, form.cleaned_data if form else {})
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
            "form": form,
            "back_url": self.queue_url(queue),
            "error": "",
        }
        return self._response(request, self.act_template, context, None)

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
        request.current_app = self.admin_site.name  # as Django's own views do
        context = {**self.page_context(request), **context, **(extra_context or {})}
        return TemplateResponse(request, template, context, status=503 if context["error"] else 200)

    def _shows_jobs(self, request: HttpRequest) -> bool:
        job_admin = self.admin_site._registry.get(Job)
        return job_admin is not None and job_admin.has_view_permission(request)

    def _rows(self, request: HttpRequest, part: Part) -> list[Row]:
        may_read = request.user.has_perm("djtasks.view_job_arguments")
        ids = [each.id for each in part.deliveries] if self._shows_jobs(request) else []
        with_page = set(Job.objects.filter(pk__in=ids).values_list("pk", flat=True)) if ids else set()
        return [
            Row(
                position=position,
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

        def url(offset: int) -> str:
            return self.queue_url(queue, **({"scheduled": 1} if part.scheduled else {}), offset=offset)

        return {
            "previous_url": url(max(0, part.offset - PER_PAGE)) if part.offset else "",
            "next_url": url(part.last) if part.deliveries and part.last < part.total else "",
        }


def in_address(queue: str) -> str:
    """The queue's name as a piece of an address. Dots too: browsers drop a piece '..' with the one before it."""
    return str(quote(queue)).replace(".", "_2E")


def name_in_address(piece: str) -> str:
    """The queue's name of which `in_address` made this. What is '_2E' in a name stands there as '_5F2E'."""
    return str(unquote(piece.replace("_2E", ".")))


def offset_in(text: str) -> int:
    """How many jobs to skip; 0 for what is no number of jobs."""
    try:
        offset = int(text)
    except ValueError:
        return 0
    return offset if 0 <= offset <= FARTHEST else 0


def look(queue: str, *, scheduled: bool, offset: int) -> Part:
    """What the broker says of the queue at this moment."""
    part = Part(scheduled, offset, Standing(name=queue))
    if not is_queue(queue):  # and PostgreSQL refuses to be asked for a NUL
        return part
    try:
        part = replace(part, standing=standing_of(queue))
        return replace(part, deliveries=get_broker().peek(queue, scheduled=scheduled, offset=offset, limit=PER_PAGE))
    except BrokerUnavailable as error:
        return replace(part, error=str(error))


def is_queue(name: str) -> bool:
    """Whether a queue can have this name."""
    try:
        checked_queue(name)
    except ValueError:
        return False
    return True


def arguments_of(message: Message) -> str:
    """The arguments in one line, masked; cut where it gets too long."""
    shown = page.private(Job(task=message.task, args=message.args, kwargs=message.kwargs))
    pieces = [f"{each.name}={each.value}" if each.name else each.value for each in shown.arguments]
    lines = (shown.raw_arguments or ", ".join(pieces)).splitlines()
    text = " ".join(line.strip() for line in lines)
    return text if len(text) <= LONGEST_ARGUMENTS else f"{text[:LONGEST_ARGUMENTS]}…"
