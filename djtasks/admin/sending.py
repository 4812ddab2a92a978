"""A job that is sent from the admin: as a valid form says, with who sends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext as _

from djtasks import publish
from djtasks.admin.send_form import CallForm
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, MessageTooLarge, NotRegistered
from djtasks.models import Job
from djtasks.task import Task

if TYPE_CHECKING:
    from djtasks.admin.app_admin import AppAdmin

LONGEST_SENDER: Final = 255  # characters


def send(request: HttpRequest, name: str, form: CallForm) -> tuple[str, str | None]:
    """Send a job of the task `name` as the valid `form` says. Returns what `publish_job` does.

    What makes it impossible becomes an error of the form: then the id is ''.
    """
    args, kwargs = form.call()
    try:
        return publish_job(request, form.task or name, args, kwargs, form.options())
    except (TypeError, ValueError, MessageTooLarge, NotRegistered, BrokerUnavailable) as error:
        form.add_error(None, str(error))
        return "", None


def tell(model_admin: AppAdmin, request: HttpRequest, sent: str, holder: str | None) -> str:
    """Say what was sent, or which job stands in its way. Returns the address of that job's page.

    It is '' if the job has no page, which on Redis it has later, or not for whoever asks.
    """
    has_page = Job.objects.filter(pk=holder or sent).exists()
    url = model_admin.url_elsewhere(request, Job, "change", holder or sent) if has_page else ""
    shown = format_html('<a href="{}">{}</a>', url, holder or sent) if url else holder or sent
    if holder is None:
        model_admin.message_user(request, format_html(_("The job was sent: {}"), shown), messages.SUCCESS)
    else:
        text = _("It was not sent: {}, which has not ended, has the same unique key.")
        model_admin.message_user(request, format_html(text, shown), messages.WARNING)
    return url


def publish_job(
    request: HttpRequest,
    task: Task[Any, Any] | str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, str | None]:
    """Send a job, noting who has sent it. `task` is a name where nobody here knows it.

    Returns its id, and that of the job that stands in its way, if the task is unique and it was not sent. Raises what
    `apply_async` does.
    """
    name, known = (task, None) if isinstance(task, str) else (task.name, task)
    ignores = {"ignore_result": True} if known is not None and known.ignores_result else {}
    message = replace(
        publish.build(name, args, kwargs, {**(options or {}), **ignores}, known), sender=sender_of(request)
    )
    holders: dict[str, str] = {}
    with transaction.atomic(using=settings.DATABASE):
        publish.publish([message], using=settings.DATABASE, on_commit="outbox", holders=holders)
    return message.id, holders.get(message.id)


def sender_of(request: HttpRequest) -> str:
    """Who sends from the admin, and where."""
    return f"{request.user.get_username()} {request.path}"[:LONGEST_SENDER]
