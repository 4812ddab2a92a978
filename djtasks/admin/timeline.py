"""Where a job's time went, from its enqueue to its end: in the queue, until it was due, in each of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djtasks import states
from djtasks.admin.presentation import LOOKS, duration, exact_and_age
from djtasks.exceptions import MalformedMessage
from djtasks.models import Job

WIDTH: Final = 1000  # of the bar, in its own units
LEAST: Final = 8  # of a span, so that it can be seen
SHORTEST: Final = timedelta(milliseconds=1)  # of a wait that is told
LOST: Final = "LOST"


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt; `end` is None while it runs."""

    start: datetime
    end: datetime | None
    ending: str


@dataclass(slots=True)
class Span:
    """A piece of the bar. `look` is one of admin.css."""

    look: str
    label: str
    start: datetime
    end: datetime
    is_run: bool = False
    goes_on: bool = False
    x: float = 0
    width: float = 0

    @property
    def is_told(self) -> bool:
        """Whether it is worth a word."""
        return self.is_run or self.goes_on or self.end - self.start >= SHORTEST

    @property
    def length(self) -> str:
        text = duration(max(0.0, (self.end - self.start).total_seconds()))
        return f"{text} …" if self.goes_on else text


@dataclass(frozen=True, slots=True)
class Timeline:
    """The spans, and the moments between them: a label and a time each."""

    spans: Sequence[Span]
    moments: Sequence[tuple[str, SafeString | str]]


def timeline(job: Job) -> Timeline:
    """What the row tells of the job's way."""
    spans = [each for each in _spans(job, datetime.now(UTC)) if each.is_told]
    _lay_out(spans)
    times: tuple[tuple[str, datetime | None], ...] = (
        (_("Enqueued"), job.created_at),
        (_("Due"), job.run_at),
        (_("Started"), job.started_at),
        (_("Finished"), job.finished_at),
        (_("Expires"), job.expires_at),
    )
    return Timeline(spans, [(label, exact_and_age(moment)) for label, moment in times if moment])


def _spans(job: Job, now: datetime) -> Iterator[Span]:
    at, runs, before = job.created_at, _runs(job), ""
    for number, run in enumerate(runs, 1):
        is_last = number == len(runs) and job.state not in states.WAITING
        yield from _wait(at, run.start, job.run_at if is_last else None, before)
        label = _("Run") if len(runs) == 1 else _("Run %(number)d") % {"number": number}
        look = "failure" if run.ending in (LOST, states.RETRY) else LOOKS.get(run.ending, "running")
        yield Span(look, label, run.start, run.end or now, is_run=True, goes_on=run.end is None)
        at, before = run.end or now, run.ending
    if job.state in states.WAITING or job.state == states.RECEIVED:
        due = min(job.run_at, now) if job.run_at else None
        *earlier, last = [*_wait(at, now, due, before)]
        if last.end == last.start and earlier:
            last = earlier.pop()
        last.goes_on = True
        yield from (*earlier, last)
    elif job.finished_at and not runs:
        yield from _wait(at, job.finished_at, job.run_at, before)


def _wait(start: datetime, end: datetime, due: datetime | None, before: str) -> Iterator[Span]:
    """What lay between: until it was due, then in the queue."""
    if before in states.FINISHED:
        yield Span("ignored", _("Between its runs"), start, end)
        return
    if due is not None and start < due <= end:
        label = _("Until its next try") if before else _("Until it was due")
        yield Span("retry" if before else "scheduled", label, start, due)
        start = due
    elif before == states.RETRY:
        yield Span("retry", _("Until its next try"), start, end)
        return
    yield _waiting(start, end)


def _waiting(start: datetime, end: datetime) -> Span:
    return Span("waiting", _("In the queue"), start, end)


def _runs(job: Job) -> list[Run]:
    """What is known of its attempts, one after another."""
    try:
        entries = job.all_attempts()
    except MalformedMessage:
        return []
    found: list[Run] = []
    for entry in entries:
        run = _run(entry, is_now=entry is entries[-1] and job.state == states.STARTED)
        if run is not None and (not found or run.start >= (found[-1].end or run.start)):
            found.append(run)
    return found


def _run(entry: Any, *, is_now: bool) -> Run | None:
    if not isinstance(entry, dict):
        return None
    try:
        start = datetime.fromisoformat(str(entry.get("start")))
        seconds = float(entry.get("seconds") or 0)
        end = start + timedelta(seconds=seconds)
    except (ValueError, TypeError, OverflowError):
        return None
    if start.tzinfo is None:
        return None
    return Run(start, None if is_now else end, str(entry.get("ending") or ""))


def _lay_out(spans: Sequence[Span]) -> None:
    """Give each its place on the bar: as long as it took, none too short to be seen."""
    seconds = [max(0.0, (each.end - each.start).total_seconds()) for each in spans]
    total = sum(seconds) or 1.0
    widths = [max(LEAST, WIDTH * each / total) for each in seconds]
    scale = WIDTH / sum(widths) if widths else 1.0
    x = 0.0
    for span, width in zip(spans, widths, strict=True):
        span.x, span.width = round(x, 2), round(width * scale, 2)
        x += width * scale
