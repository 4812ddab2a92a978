"""What the page of one job shows; whatever stands in the row, the page can be shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djtasks import encoding, registry, states
from djtasks.admin.listing import worker_names
from djtasks.admin.presentation import (
    LOOKS,
    NOTHING,
    duration,
    exact_and_age,
    pill,
    pretty,
    run_time,
    shortened,
    wait_text,
)
from djtasks.admin.trace import marked
from djtasks.admin.value_tree import value_tree
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable, MalformedMessage
from djtasks.masking import DEEPEST, MASK, masked, masked_call, masked_text, positional_names
from djtasks.models import Job
from djtasks.steps import spread


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, masked. `name` is its parameter; '' where nobody knows."""

    name: str
    given: Any

    @property
    def value(self) -> str:
        return pretty(self.given)

    @property
    def tree(self) -> SafeString:
        return value_tree(self.given)


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

    text: SafeString | str
    done: float = 0
    total: float | None = None

    @property
    def percent(self) -> str:
        """How much of it is done; '' where that cannot be told."""
        if not self.total:
            return ""
        return f"{number_format(min(100.0, max(0.0, 100 * self.done / self.total)), 0)} %"


@dataclass(slots=True)
class Private:
    """What only those see who may see arguments. '' and [] where there is nothing; a tree, or raw text in one."""

    arguments: list[Argument] = field(default_factory=list)
    raw_arguments: str = ""  # instead of `arguments`, if they cannot be read
    result: SafeString | str = ""
    message: str = ""
    traceback: SafeString | str = ""
    progress: Progress | None = None
    headers: SafeString | str = ""
    options: SafeString | str = ""


def private(job: Job) -> Private:
    """Arguments, result and all else that may hold data of the site's users, masked."""
    shown = Private(
        result=_readable(job.result),
        message=shortened(job.exception_message or ""),
        traceback=marked(job.traceback or ""),
        progress=_progress(job.meta),
        headers=_readable(job.headers, empty="{}"),
        options=_readable(job.options, empty="{}", plain=_with_steps),
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
    positional = [Argument(name or "", value) for name, value in zip(names, args, strict=True)]
    return [*positional, *(Argument(name, value) for name, value in kwargs.items())]


def _with_steps(options: Any) -> Any:
    """A message's options, where the steps of its chain stand as what they are, not as text."""
    if isinstance(options, dict) and isinstance(options.get("chain"), list):
        options = spread(options)
        return {**options, "chain": [_step(each) for each in options["chain"]]}
    return options


def _step(text: object) -> Any:
    try:
        return encoding.decode(str(text), fetch=False)
    except MalformedMessage:
        return masked_text(str(text))


def _with_masked_calls(value: Any, depth: int = 0) -> Any:
    """`value`, where in signatures the arguments are masked as their tasks say."""
    if depth > DEEPEST:
        return MASK
    if isinstance(value, (list, tuple)):
        return [_with_masked_calls(each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: _with_masked_calls(each, depth + 1) for key, each in value.items()}
    args, kwargs = found.get("args") or [], found.get("kwargs") or {}
    if isinstance(found.get("task"), str) and isinstance(args, list) and isinstance(kwargs, dict):
        args, kwargs = masked_call(registry.find(found["task"]), args, kwargs)
        found |= {name: value for name, value in (("args", args), ("kwargs", kwargs)) if value}
    return found


def _readable(
    text: str | None, empty: str | None = None, plain: Callable[[Any], Any] = lambda value: value
) -> SafeString | str:
    if text is None or text == empty:
        return ""
    try:
        return value_tree(masked(_with_masked_calls(plain(encoding.decode(text, fetch=False)))))
    except MalformedMessage:
        return format_html('<pre class="djtasks-text">{}</pre>', shortened(masked_text(text)))


def _progress(text: str | None) -> Progress | None:
    if not text:
        return None
    try:
        meta = encoding.decode(text, fetch=False)
    except MalformedMessage:
        return Progress(_readable(text))
    progress = Progress(value_tree(masked(meta)))
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
    return [
        (_("Id"), format_html("<code>{}</code>", job.pk)),
        (_("Queue"), job.queue),
        (_("Priority"), job.priority),
        (_("Worker"), _worker(job)),
        (_("Run time"), run_time(job)),
        *_waits(job),
        *_counters(job),
        *_origins(job, schedule_url),
    ]


def _worker(job: Job) -> SafeString | str:
    if not job.worker:
        return NOTHING
    name = worker_names([job.worker]).get(job.worker, "")
    return format_html('{} <span class="djtasks-quiet">{}</span>', name, job.worker)


def _waits(job: Job) -> Iterable[tuple[str, Any]]:
    """For which limit it waits."""
    if job.state not in states.WAITING:
        return []
    try:
        wait = get_broker().waits([job.pk]).get(job.pk)
    except BrokerUnavailable:
        return []
    return [(_("Waits for"), wait_text(wait))] if wait else []


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
