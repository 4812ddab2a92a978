"""Retry, cancel, stop or delete all jobs that match the filters, however many: a job of ours does it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from django.contrib import messages
from django.contrib.admin.models import LogEntry
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from djtasks import builtin, selection
from djtasks.admin import actions, listing
from djtasks.admin.actions import JobAction
from djtasks.admin.sending import publish_job
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, Worker
from djtasks.models.fields import utc_now
from djtasks.selection import MOST_COUNTED, Selection

if TYPE_CHECKING:
    from djtasks.admin.job import JobAdmin

FOLDER: Final = "all_jobs"  # no id in an address looks like this: there `_` is followed by two digits
LONGEST_NOTE: Final = 1000  # characters


def urls(job_admin: JobAdmin) -> list[URLPattern]:
    """Where each is asked for."""
    name = f"{job_admin.opts.app_label}_{job_admin.opts.model_name}_all"
    return [
        path(
            f"{FOLDER}/{action.name}/",
            job_admin.admin_site.admin_view(partial(all_view, action=action, job_admin=job_admin)),
            name=f"{name}_{action.name}",
        )
        for action in actions.ALL
    ]


def offered(request: HttpRequest, job_admin: JobAdmin, chosen: Selection) -> list[tuple[JobAction, str]]:
    """What may be done to all that match, each with the address where it is asked for."""
    query = f"?{urlencode(chosen.given)}" if chosen.given else ""
    state = chosen.given.get("state")
    return [
        (each, job_admin.url(f"all_{each.name}") + query)
        for each in actions.ALL
        if is_allowed(request, job_admin, each) and (state is None or each.is_for(state))
    ]


def is_allowed(request: HttpRequest, job_admin: JobAdmin, action: JobAction) -> bool:
    """Whether whoever asks may do it to all; where a site shows each his own jobs, nobody may."""
    return action.is_allowed(request) and job_admin.has_view_permission(request) and job_admin.shows_all_jobs


def all_view(request: HttpRequest, action: JobAction, job_admin: JobAdmin) -> HttpResponse:
    """Ask for the number of jobs to be typed; send the job that does it on POST."""
    if not is_allowed(request, job_admin, action):
        raise PermissionDenied
    chosen = listing.selection_of(request)
    form: Mapping[str, str] = request.POST if request.POST.get("confirmed") else {}
    error = ""
    if request.method == "POST" and form:
        if form.get("count", "").isdecimal() and _digits(form.get("number", "")) == form["count"]:
            return _send(request, action, job_admin, chosen, _until(form))
        error = _("This is not the number of jobs.")
    return _ask(request, action, job_admin, chosen, error)


def _ask(request: HttpRequest, action: JobAction, job_admin: JobAdmin, chosen: Selection, error: str) -> HttpResponse:
    until = utc_now()
    window = chosen.window(always=True)
    matching = action.deed.fitting(chosen.matching(window.of(Job.objects.all())), until)
    count = matching.order_by()[:MOST_COUNTED].count()
    context: dict[str, Any] = {
        "title": action.title,
        "original": action.title,
        "action": action,
        "address": job_admin.url(f"all_{action.name}") + (f"?{urlencode(chosen.given)}" if chosen.given else ""),
        "filters": [(listing.LABELS[name], value) for name, value in selection.in_words(chosen.given)],
        "count": count,
        "shown_count": selection.shown(count, is_cut=window.is_cut),
        "is_more": window.is_cut or count >= MOST_COUNTED,
        "until": until,
        "error": error,
        "no_worker": not Worker.objects.live().exists(),
        "back_url": f"{job_admin.url('changelist')}?{urlencode(chosen.given)}",
    }
    return job_admin.response(request, "admin/djtasks/job/confirm_all.html", context)


def _send(
    request: HttpRequest, action: JobAction, job_admin: JobAdmin, chosen: Selection, until: datetime
) -> HttpResponse:
    kwargs = {
        "action": action.name,
        "filters": dict(chosen.given),
        "until": until,
        "reads_arguments": chosen.reads_arguments,
    }
    try:
        sent, _holder = publish_job(request, builtin.act_on_all, kwargs=kwargs)
    except BrokerUnavailable as error:
        job_admin.message_user(request, str(error), messages.ERROR)
        return HttpResponseRedirect(f"{job_admin.url('changelist')}?{urlencode(chosen.given)}")
    filters = ", ".join(f"{name}={value}" for name, value in selection.in_words(chosen.given)) or _("no filter")
    note = _("%(action)s, to all that match: %(filters)s") % {"action": action.title, "filters": filters}
    job = Job(pk=sent, task=builtin.act_on_all.name)
    LogEntry.objects.log_actions(request.user.pk, [job], action.flag, note[:LONGEST_NOTE])  # type: ignore[arg-type]
    text = _("It is done in the background, by the job %(id)s.") % {"id": sent}
    job_admin.message_user(request, text, messages.SUCCESS)
    has_page = Job.objects.filter(pk=sent).exists()  # with the queues in Redis only once it runs
    return HttpResponseRedirect(job_admin.url("change", sent) if has_page else job_admin.url("changelist"))


def _digits(text: str) -> str:
    """A number without what people put between its digits."""
    return re.sub(r"\D", "", text).lstrip("0")


def _until(form: Mapping[str, str]) -> datetime:
    """When the page was shown that is now confirmed."""
    try:
        return min(datetime.fromisoformat(form.get("until", "")).astimezone(UTC), utc_now())
    except (ValueError, OverflowError):
        return utc_now()
