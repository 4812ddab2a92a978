"""What the page of one job shows; whatever stands in the row, the page can be shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djtasks import encoding, registry
from djtasks.admin.listing import worker_names
from djtasks.admin.presentation import LOOKS, NOTHING, duration, exact_and_age, pill, pretty, run_time, shortened
from djtasks.exceptions import MalformedMessage
from djtasks.masking import masked, masked_call, masked_text, positional_names
from djtasks.models import Job


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument. `name` is its parameter; '' where nobody knows."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of the job, as text."""

    number: str
    worker: str
    start: Any
    seconds: str
    ending: str
    error: str


@dataclass(slots=True)
class Progress:
    """How far the job is; `total` is None where that cannot be told from what the task said."""

    text: str
    done: float = 0
    total: float | None = None


@dataclass(slots=True)
class Private:
    """What only those see who may see arguments. '' and [] where there is nothing."""

    arguments: list[Argument] = field(default_factory=list)
    raw_arguments: str = ""  # instead of `arguments`, if they cannot be read
    result: str = ""
    message: str = ""
    traceback: str = ""
    progress: Progress | None = None
    headers: str = ""
    options: str = ""


def private(job: Job) -> Private:
    """Arguments, result and all else that may hold data of the site's users, masked."""
    shown = Private(
        result=_readable(job.result),
        message=shortened(job.exception_message or ""),
        traceback=job.traceback or "",
        progress=_progress(job.meta),
        headers=_readable(job.headers, empty="{}"),
        options=_readable(job.options, empty="{}"),
    )
    try:
        shown.arguments = _arguments(job)
    except MalformedMessage:
        shown.raw_arguments = shortened(masked_text(f"{job.args}\n{job.kwargs}"))
    return shown


def _arguments(job: Job) -> list[Argument]:
    args, kwargs = job.arguments()
    task = registry.find(job.task)
    names = positional_names(len(args), task.parameters if task else None)
    args, kwargs = masked_call(task, args, kwargs)
    positional = [Argument(name or "", pretty(value)) for name, value in zip(names, args, strict=True)]
    return [*positional, *(Argument(name, pretty(value)) for name, value in kwargs.items())]


def _readable(text: str | None, empty: str | None = None) -> str:
    if text is None or text == empty:
        return ""
    try:
        return pretty(masked(encoding.decode(text, fetch=False)))
    except MalformedMessage:
        return shortened(masked_text(text))


def _progress(text: str | None) -> Progress | None:
    if not text:
        return None
    try:
        meta = encoding.decode(text, fetch=False)
    except MalformedMessage:
        return Progress(_readable(text))
    progress = Progress(pretty(masked(meta)))
    if isinstance(meta, dict):
        progress.done, progress.total = _fraction(meta)
    return progress


def _fraction(meta: dict[Any, Any]) -> tuple[float, float | None]:
    """The numbers under the names that progress usually has."""
    fractions = ((meta.get("current"), meta.get("total")), (meta.get("done"), meta.get("total")))
    for done, total in (*fractions, (meta.get("percent"), 100)):
        if isinstance(done, (int, float)) and isinstance(total, (int, float)) and total > 0:
            return done, total
    return 0, None


def attempts(job: Job, with_errors: bool) -> tuple[list[Attempt], str]:
    """The job's runs, oldest first, and the raw text instead if they cannot be read.

    What an error says may hold arguments: without `with_errors` only its class is given.
    """
    try:
        entries = job.all_attempts()
    except MalformedMessage:
        entries = [None]  # type: ignore[list-item]
    if not all(isinstance(entry, dict) for entry in entries):
        return [], shortened(masked_text(job.attempts or "")) if with_errors else _("They cannot be read.")
    names = worker_names(str(entry.get("worker") or "") for entry in entries)
    return [_attempt(entry, names, with_errors) for entry in entries], ""


def _attempt(entry: dict[str, Any], names: dict[str, str], with_errors: bool) -> Attempt:
    worker = str(entry.get("worker") or "")
    error = str(entry.get("error") or "")
    seconds = entry.get("seconds")
    ending = str(entry.get("ending") or "")
    return Attempt(
        number=str(entry.get("token", "")),
        worker=names.get(worker, worker) or NOTHING,
        start=exact_and_age(_moment(entry.get("start"))),
        seconds=duration(seconds) if isinstance(seconds, (int, float)) else NOTHING,
        ending=pill(ending, "failure" if ending == "LOST" else LOOKS.get(ending, "waiting")) if ending else "",
        error=error if with_errors else error.partition(":")[0],
    )


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def facts(job: Job, schedule_url: str = "") -> list[tuple[str, Any]]:
    """What there is to say about the job in a line each: label and value. `schedule_url` is that of its schedule."""
    worker = worker_names([job.worker]).get(job.worker, "")
    return [
        (_("Id"), format_html("<code>{}</code>", job.pk)),
        (_("Queue"), job.queue),
        (_("Priority"), job.priority),
        (_("Worker"), format_html('{} <span class="djtasks-quiet">{}</span>', worker, job.worker) or NOTHING),
        (_("Run time"), run_time(job)),
        *_times(job),
        *_counters(job),
        *_origins(job, schedule_url),
    ]


def _times(job: Job) -> Iterable[tuple[str, Any]]:
    times: tuple[tuple[str, datetime | None], ...] = (
        (_("Enqueued"), job.created_at),
        (_("Due"), job.run_at),
        (_("Started"), job.started_at),
        (_("Finished"), job.finished_at),
        (_("Expires"), job.expires_at),
    )
    return [(label, exact_and_age(moment)) for label, moment in times if moment]


def _counters(job: Job) -> Iterable[tuple[str, Any]]:
    counters = (
        (_("Claims"), job.token),
        (_("Retries"), job.retries),
        (_("Lost with their process"), job.losses),
        (_("Refused as unknown"), job.refusals),
    )
    return [(label, count) for label, count in counters if count]


def _origins(job: Job, schedule_url: str) -> Iterable[tuple[str, Any]]:
    schedule = format_html('<a href="{}">{}</a>', schedule_url, job.periodic_task) if schedule_url else None
    origins = (
        (_("Enqueued by"), job.enqueued_by),
        (_("Schedule"), schedule or job.periodic_task),
        (_("Scheduled for"), _scheduled_for(job)),
    )
    return [(label, text) for label, text in origins if text]


def _scheduled_for(job: Job) -> SafeString | str:
    """The tick, which beat has noted in the headers."""
    if not job.periodic_task:
        return ""
    try:
        moment = _moment(json.loads(job.headers)["scheduled_for"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return exact_and_age(moment) if moment else ""
