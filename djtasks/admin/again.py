"""Run a job again with other arguments: a new job of the same task, by a form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djtasks import registry
from djtasks.admin.send_form import CallForm
from djtasks.admin.sending import send, tell
from djtasks.builtin import NOT_BY_HAND
from djtasks.exceptions import MalformedMessage
from djtasks.models import Job

if TYPE_CHECKING:
    from djtasks.admin.job import JobAdmin

LABEL: Final = gettext_lazy("Run again …")


def is_allowed(request: HttpRequest) -> bool:
    """Whether whoever asks may send tasks, and see what is to be changed."""
    return request.user.is_active and request.user.has_perms(("djtasks.send_task", "djtasks.view_job_arguments"))


def is_offered(request: HttpRequest, job: Job) -> bool:
    """Whether this job can be run again by whoever asks."""
    return bool(job.task) and job.task not in NOT_BY_HAND and job.keeps_arguments and is_allowed(request)


def again_view(request: HttpRequest, object_id: str, job_admin: JobAdmin) -> HttpResponse:
    """Ask for the arguments of a new job, which those of this one stand for at first; send it on POST."""
    if not is_allowed(request) or not job_admin.has_view_permission(request):
        raise PermissionDenied
    job = job_admin.get_object(request, unquote(object_id))
    if job is None:
        return job_admin.missing(request, object_id)
    back = job_admin.url("change", job.pk)
    try:
        args, kwargs = job.arguments()
    except MalformedMessage:
        args, kwargs = [], {}
    form = CallForm(
        request.POST if request.method == "POST" else None,
        task=registry.find(job.task),
        args=args,
        kwargs=kwargs,
        initial={"queue": job.queue, "priority": job.priority},
    )
    if request.method == "POST" and is_offered(request, job) and form.is_valid():
        sent, holder = send(request, job.task, form)
        if sent:
            return _sent(request, job_admin, job, sent, holder)
    context: dict[str, Any] = {
        "title": _("Run again"),
        "original": job,
        "job": job,
        "form": form,
        "is_known": form.task is not None,
        "is_offered": is_offered(request, job),
        "back_url": back,
    }
    return job_admin.response(request, "admin/djtasks/job/again.html", context)


def _sent(request: HttpRequest, job_admin: JobAdmin, job: Job, sent: str, holder: str | None) -> HttpResponse:
    if holder is None:
        note = _("Run again as %(id)s.") % {"id": sent}
        LogEntry.objects.log_actions(request.user.pk, [job], CHANGE, note)  # type: ignore[arg-type]
    return HttpResponseRedirect(tell(job_admin, request, sent, holder) or job_admin.url("change", job.pk))
