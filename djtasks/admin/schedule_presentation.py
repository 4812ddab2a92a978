"""How schedules look to people: in words, by their marks, ticks and runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djtasks.admin.presentation import LOOKS, NOTHING, age, duration, pill, run_time, state_pill
from djtasks.models import Job, PeriodicTask
from djtasks.moments import distance, exactly
from djtasks.schedules import crontab, describe, from_text

LATE: Final = 5.0  # seconds after which a run that has not come is marked
STATUSES: Final[Mapping[str, tuple[Promise | str, str]]] = {  # the word, and its look in admin.css
    "live": (gettext_lazy("live"), "success"),
    "disabled": (gettext_lazy("disabled"), "ignored"),
    "ended": (gettext_lazy("ended"), "replaced"),
    "gone": (gettext_lazy("gone from the code"), "retry"),
    "broken": (gettext_lazy("broken"), "failure"),
}


def in_words(row: PeriodicTask) -> str:
    """The schedule in words, with the zone where it matters: "at 09:30 on weekdays, Europe/Berlin".

    A schedule that cannot be read stands there as it is.
    """
    try:
        schedule = from_text(row.schedule)
        if isinstance(schedule, crontab):
            return _("%(schedule)s, %(zone)s") % {"schedule": describe(schedule), "zone": row.zone.key}
    except ValueError:
        return row.schedule
    return describe(schedule)


def status_pill(row: PeriodicTask) -> SafeString:
    """Where the schedule stands; why it is broken on hover."""
    word, look = STATUSES[row.status]
    if row.problem:
        return format_html('<span title="{}">{}</span>', row.problem, pill(str(word), look))
    return pill(str(word), look)


def source_of(row: PeriodicTask) -> str:
    """Where the definition stands."""
    labels = dict(PeriodicTask.Source.choices)
    return str(labels.get(row.source, row.source))


def next_run_text(row: PeriodicTask) -> SafeString | str:
    """When it is due next: how soon, and exactly."""
    due: datetime | None = row.next_run_at
    if row.status != "live" or due is None:
        return NOTHING
    late = (datetime.now(UTC) - due).total_seconds() > LATE
    mark = format_html("{} ", pill(_("late"), "failure")) if late else ""
    return format_html(
        '{}<time datetime="{}">{}<span class="djtasks-module">{}</span></time>',
        mark,
        due.astimezone(UTC).isoformat(),
        distance(due),
        exactly(due),
    )


def last_run_text(row: PeriodicTask, job: Job | None, url: str) -> SafeString | str:
    """When it ran last, and what became of it; `url` is that of the job's page, '' if there is none to link."""
    if row.last_run_at is None:
        return NOTHING
    state = state_pill(job) if job else ""
    if state and url:
        state = format_html('<a href="{}">{}</a>', url, state)
    return format_html("{} {}", age(row.last_run_at), state)


def dots(runs: Sequence[Job], url: str) -> SafeString | str:
    """The outcomes of these runs, given newest first, as a row of dots that ends with the newest."""
    if not runs:
        return NOTHING
    each = ((LOOKS.get(job.state, "waiting"), told(job)) for job in reversed(runs))
    counts = Counter(job.shown_state for job in runs)
    label = _("The last runs: %(counts)s") % {"counts": ", ".join(f"{n} {state}" for state, n in counts.most_common())}
    row = format_html_join("", '<i class="djtasks-dot djtasks-{}" title="{}"></i>', each)
    if url:
        return format_html('<a class="djtasks-dots" href="{}" aria-label="{}">{}</a>', url, label, row)
    return format_html('<span class="djtasks-dots" role="img" aria-label="{}">{}</span>', label, row)


def told(job: Job) -> str:
    """One run in a line."""
    return " · ".join((job.shown_state, exactly(job.created_at), run_time(job)))


def ticks(moments: Iterable[datetime]) -> list[tuple[str, str, str]]:
    """Times to come, aware and in the zone in which they are to be read: ISO 8601 in UTC, exactly, and how soon."""
    return [
        (each.astimezone(UTC).isoformat(), f"{date_format(each, 'D Y-m-d H:i:s')} {each.tzname()}", distance(each))
        for each in moments
    ]


def run_rows(runs: Iterable[Job]) -> list[tuple[Job, SafeString, SafeString | str, str, str]]:
    """Runs for a table: the job, its state, when it was enqueued, how long it waited and how long it ran."""
    return [(job, state_pill(job), age(job.created_at), _waited(job), run_time(job)) for job in runs]


def _waited(job: Job) -> str:
    if job.started_at is None:
        return NOTHING
    return duration(max(0.0, (job.started_at - job.created_at).total_seconds()))
