"""Before a deploy: which jobs that wait, and which schedules, the new code could not run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

from django.db.models import QuerySet

from djtasks import encoding, registry
from djtasks.brokers import get_broker
from djtasks.exceptions import MalformedMessage
from djtasks.follow_ups import later_jobs, options_of
from djtasks.masking import masked_text
from djtasks.message import Message
from djtasks.models import JobGroup, Outbox, PeriodicTask

SAMPLES: Final = 5  # ids that a finding names
MOST_FINDINGS: Final = 1000
LONGEST_PROBLEM: Final = 300  # characters
PORTION: Final = 500  # jobs at a time
ROWS: Final = 16  # at a time, of those that may hold many messages each


@dataclass(slots=True)
class Finding:
    """Jobs, or schedules, of one task with one problem. `samples` are ids, of schedules names.

    `kind`: "unknown_task", "arguments" (they do not fit the function), "unreadable", and each of these after
    "schedule_"; "later_unknown_task" of a later step, a callback or the body of a chord.
    """

    kind: str
    task: str
    problem: str
    count: int = 0
    samples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one call. `cause`: what tells it from other problems of the same kind and task."""

    kind: str
    text: str
    cause: str = ""


@dataclass(slots=True)
class Preflight:
    """What was found. `jobs` and `schedules` were looked at; `is_partial`: there were more jobs than the limit."""

    jobs: int = 0
    schedules: int = 0
    is_partial: bool = False
    _findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """The most frequent first."""
        return sorted(self._findings.values(), key=lambda each: (-each.count, each.task, each.kind))

    def note(self, task: str, problem: Problem, sample: str) -> None:
        """Count one more; the text of the first stands for all of the same cause."""
        key = (problem.kind, task, problem.cause)
        if key not in self._findings and len(self._findings) >= MOST_FINDINGS:
            key = (problem.kind, "", "")  # of nonsense there may be as many kinds as jobs
        finding = self._findings.setdefault(key, Finding(problem.kind, key[1], problem.text[:LONGEST_PROBLEM]))
        finding.count += 1
        if len(finding.samples) < SAMPLES:
            finding.samples.append(sample)


def preflight(limit: int | None = None, tell: Callable[[int], object] = lambda _jobs: None) -> Preflight:
    """Look at what waits, at most `limit` jobs, and at the schedules, with the code that is loaded here.

    `tell` hears now and then how many jobs were looked at. Changes nothing. Raises BrokerUnavailable.
    """
    found = Preflight()
    for row in PeriodicTask.objects.filter(enabled=True):
        found.schedules += 1
        if problem := _problem(row.task, row.args, row.kwargs, {}):
            found.note(row.task, replace(problem, kind=f"schedule_{problem.kind}"), row.name)
    for portion in chain(_waiting(), _unsent(), _bodies()):
        for message, malformed in portion:
            if found.jobs == limit:
                found.is_partial = True
                return found
            found.jobs += 1
            _look_at(message, malformed, found)
        tell(found.jobs)
    return found


Portion = Sequence[tuple[Message, str]]  # messages, each with why it cannot be read, or ''


def _waiting() -> Iterator[Portion]:
    for deliveries in get_broker().walk(PORTION):
        yield [(each.message, each.malformed) for each in deliveries]


def _unsent() -> Iterator[Portion]:
    return _messages_of(_in_portions(Outbox.objects.values_list("pk", "message")))


def _bodies() -> Iterator[Portion]:
    """What follows groups that have not ended."""
    bodies = JobGroup.objects.unfinished().exclude(body=None)
    return _messages_of(_in_portions(bodies.values_list("pk", "body")))


def _in_portions(rows: QuerySet[Any, tuple[str, str | None]]) -> Iterator[tuple[str, str | None]]:
    """Rows whose first value is the key, some at a time; no cursor is held, which a pooler might not carry."""
    portion = list(rows.order_by("pk")[:ROWS])
    while portion:
        yield from portion
        portion = list(rows.filter(pk__gt=portion[-1][0]).order_by("pk")[:ROWS])


def _messages_of(rows: Iterable[tuple[str, str | None]]) -> Iterator[Portion]:
    for pk, text in rows:
        try:
            yield [(each, "") for each in Message.several_from_json(text or "[]")]
        except MalformedMessage as error:
            yield [(Message(id=pk, task=""), str(error))]


def _look_at(message: Message, malformed: str, found: Preflight) -> None:
    if malformed:
        found.note(message.task, Problem("unreadable", malformed), message.id)
        return
    options = options_of(message) if message.options != "{}" else {}
    if problem := _problem(message.task, message.args, message.kwargs, options):
        found.note(message.task, problem, message.id)
    for task in _later_tasks(options):
        if registry.find(task) is None:
            found.note(task, Problem("later_unknown_task", f"It follows {message.task}."), message.id)


def _later_tasks(options: Mapping[str, Any]) -> Iterator[str]:
    """The names of the tasks that follow a job: steps of its chain, callbacks."""
    if "chain" in options:
        yield from (each["task"] for each in later_jobs(options))
    for name in ("link", "link_error"):
        for sig in options.get(name) or ():
            if isinstance(sig, Mapping) and isinstance(sig.get("task"), str) and not sig.get("subtask_type"):
                yield sig["task"]


def _problem(name: str, args_text: str, kwargs_text: str, options: Mapping[str, Any]) -> Problem | None:
    """What is wrong with a call; None if the code here can run it."""
    task = registry.find(name)
    if task is None:
        return Problem("unknown_task", "No task of this name is registered.")
    try:
        args, kwargs = encoding.decode_arguments(args_text, kwargs_text, fetch=False)
    except MalformedMessage as error:
        return Problem("unreadable", masked_text(str(error)))
    given = [*_given_before(options), *args]
    try:
        task.check_arguments(given, kwargs)
    except TypeError as error:
        return Problem("arguments", str(error), cause=str(error))
    try:
        task.bind(given, kwargs)
    except (
        Exception
    ) as error:  # the checks of a dataclass or a model may raise anything, and quote what they were given
        kind = type(error).__name__
        return Problem("arguments", f"{kind}: {masked_text(str(error))}", cause=kind)
    return None


def _given_before(options: Mapping[str, Any]) -> list[None]:
    """In place of what its part in a canvas puts before the job's own arguments."""
    if "failed" in options:
        return [None, None, None]
    header = options.get("header")
    return [None] if header and not header[1] else []
