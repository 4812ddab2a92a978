"""The rows that the tree of a workflow shows: some of them, read by a few bounded queries, however many there are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from django.db.models import Case, F, TextField, Value, When
from django.db.models.functions import Length
from django.utils.functional import cached_property

from djtasks import encoding, states
from djtasks.exceptions import MalformedMessage
from djtasks.message import Message
from djtasks.models import Job, JobGroup
from djtasks.steps import spread

LOOKED_AT: Final = 20_000  # jobs of a workflow that are looked at, by id, place and state alone
MOST_JOBS: Final = 200  # that are shown
MOST_SIBLINGS: Final = 50  # members of one group, or children of one job, that are shown
NEAR: Final = 40  # jobs above the current one, and as many below it, that are shown before others
MOST_GROUPS: Final = 50
SHORT: Final = 10_000  # characters of options that are read of every job that is shown
MOST_TEXT: Final = 2_000_000  # characters of longer options: each step of a long chain has the rest of the chain
COLUMNS: Final = (
    "id", "task", "state", "custom_state", "parent_id", "root_id", "group_id", "created_at", "run_at", "started_at",
    "finished_at", "seconds", "retries", "exception",
)  # fmt: skip
URGENCY: Final[Mapping[str, int]] = {
    states.FAILURE: 0,
    states.REVOKED: 0,
    states.STARTED: 1,
    states.RECEIVED: 1,
    states.REPLACED: 1,
    states.RETRY: 2,
    states.PENDING: 3,
    states.SCHEDULED: 3,
}
LEAST_URGENT: Final = 4  # what has ended well


class Light(NamedTuple):
    """What is known of every job that was looked at."""

    id: str
    parent_id: str | None
    group_id: str | None
    state: str


@dataclass
class Row:
    """A job that is shown; `options` are {} where they cannot be read, and None where they are too long to be."""

    job: Job
    options: Mapping[str, Any] | None

    @cached_property
    def chain(self) -> list[Mapping[str, Any]]:
        """The steps after it, as signatures."""
        return signatures(self.options, "chain")

    @property
    def header(self) -> str | None:
        """The group whose results it has got."""
        header = (self.options or {}).get("header")
        return str(header[0]) if isinstance(header, list) and header else None

    @cached_property
    def stands_for(self) -> str | None:
        """The job that it, or the last of the chain that it begins, stands for."""
        return stands_for(self.options or {})

    @property
    def index(self) -> int:
        return index_in(self.options or {})

    @property
    def nesting(self) -> int:
        """How many replacements it is the outcome of."""
        return _number((self.options or {}).get("nesting"))


@dataclass(slots=True)
class Body:
    """What follows a group, as it will be, or was, sent."""

    id: str
    task: str
    group_id: str | None
    options: Mapping[str, Any]


@dataclass(slots=True)
class Group:
    """A group that has a row."""

    size: int
    remaining: int
    bodies: list[Body]


@dataclass(slots=True)
class Relatives:
    """A job's workflow: all that was looked at, and what of it is shown."""

    job: Job
    light: dict[str, Light]
    rows: dict[str, Row]
    groups: dict[str, Group] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)  # of those that were looked at, outside of groups

    @property
    def root_id(self) -> str:
        return self.job.root_id or self.job.pk

    @property
    def is_cut(self) -> bool:
        """Whether there may be jobs that were not looked at."""
        return len(self.light) >= LOOKED_AT


def read(job: Job) -> Relatives:
    """Read the workflow that `job` is in; at most six queries."""
    light = _looked_at(job)
    children = _children(light.values())
    chosen = set(islice(_by_importance(light, children, job), MOST_JOBS))
    rows = _rows_of(chosen)
    found = Relatives(job=job, light=light, rows=rows, children=children)
    found.groups = _groups_of(_group_ids(rows.values()))
    outer = {body.group_id for group in found.groups.values() for body in group.bodies if body.group_id}
    found.groups.update(_groups_of(outer - found.groups.keys()))
    return found


def _looked_at(job: Job) -> dict[str, Light]:
    """No order is asked for: to sort a root's million jobs would take long."""
    below_root = Job.objects.filter(root_id=job.root_id or job.pk)
    own = Job.objects.filter(parent_id=job.pk)  # who sets `root_id` by hand may have children elsewhere
    found = {}
    for rows, most in ((below_root, LOOKED_AT), (own, MOST_SIBLINGS * 2)):
        for row in rows.order_by().values_list(*Light._fields)[:most]:
            found[row[0]] = Light(*row)
    found[job.pk] = Light(job.pk, job.parent_id, job.group_id, job.state)
    return found


def _children(light: Iterable[Light]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = defaultdict(list)
    for each in light:
        if each.parent_id and each.parent_id != each.id and not each.group_id:
            children[each.parent_id].append(each.id)
    return dict(children)


# Which of them are shown


def _by_importance(light: Mapping[str, Light], children: Mapping[str, list[str]], job: Job) -> Iterator[str]:
    """Ids, each once: the job itself, what is near it, and then the rest, what has failed and what runs first."""
    given: set[str] = set()
    for pk in _candidates(light, children, job):
        if pk not in given:
            given.add(pk)
            yield pk


def _candidates(light: Mapping[str, Light], children: Mapping[str, list[str]], job: Job) -> Iterator[str]:
    yield from filter(None, (job.pk, job.root_id, job.parent_id))
    yield from islice(_above(light, job.pk), NEAR)
    kept = _kept(light)
    here = [ids for bucket, ids in kept if bucket == (job.group_id, "")]
    yield from (pk for ids in here for pk in ids)
    yield from islice(_below(children, job.pk, {pk for _bucket, ids in kept for pk in ids}), NEAR)
    for _bucket, ids in kept:
        yield from islice(_above(light, ids[0]), 3)
        yield from ids


def _above(light: Mapping[str, Light], pk: str) -> Iterator[str]:
    seen = {pk}
    while pk in light and (above := light[pk].parent_id) and above not in seen:
        seen.add(above)
        yield above
        pk = above


def _below(children: Mapping[str, list[str]], pk: str, allowed: set[str]) -> Iterator[str]:
    """What is below, level by level."""
    level, seen = [pk], {pk}
    while level:
        level = [child for each in level for child in children.get(each, ()) if child in allowed and child not in seen]
        seen.update(level)
        yield from level


def _kept(light: Mapping[str, Light]) -> list[tuple[tuple[str | None, str], list[str]]]:
    """The most urgent siblings of each bucket, the members of a group or the children of a job, as ids of steps."""
    buckets: dict[tuple[str | None, str], dict[str, list[Light]]] = defaultdict(lambda: defaultdict(list))
    for head, each in zip(heads(light), light.values(), strict=True):
        bucket = (each.group_id, "" if each.group_id else each.parent_id or "")
        buckets[bucket][head].append(each)
    kept = []
    for bucket, siblings in buckets.items():
        ranked = sorted((min(map(urgency, steps)), head) for head, steps in siblings.items())[:MOST_SIBLINGS]
        kept += [(rank, head, bucket, [step.id for step in siblings[head]]) for rank, head in ranked]
    return [(bucket, ids) for _rank, _head, bucket, ids in sorted(kept, key=lambda each: each[:2])]


def heads(light: Mapping[str, Light]) -> list[str]:
    """For each job the first step of the chain that it is a step of, in its group; outside of groups itself."""
    found: dict[str, str] = {}
    for each in light.values():
        path, at = [], each
        while at.id not in found:
            path.append(at.id)
            found[at.id] = at.id  # ends a circle, too
            above = light.get(at.parent_id or "")
            if at.group_id is None or above is None or above.group_id != at.group_id:
                break
            at = above
        for pk in path:
            found[pk] = found[at.id]
    return [found[pk] for pk in light]


def urgency(each: Light) -> int:
    """How soon people want to see a job: 0 is first."""
    return URGENCY.get(each.state, LEAST_URGENT)


# What is read of those


def _rows_of(ids: set[str]) -> dict[str, Row]:
    short = Case(When(size__lte=SHORT, then=F("options")), default=Value(None), output_field=TextField())
    found = Job.objects.filter(pk__in=ids).only(*COLUMNS).annotate(size=Length("options"), short=short).order_by("id")
    jobs = {job.pk: job for job in found}
    texts = {pk: job.short for pk, job in jobs.items()}  # type: ignore[attr-defined]
    texts.update(_long_options(jobs.values()))
    return {pk: Row(job, None if texts[pk] is None else readable(texts[pk])) for pk, job in jobs.items()}


def _long_options(jobs: Iterable[Job]) -> dict[str, str]:
    """The long options of some jobs: first of those that have not ended, as these tell what is to come."""
    wanted, total = [], 0
    long = [(job.is_finished, job.pk, job.size) for job in jobs if job.short is None]  # type: ignore[attr-defined]
    for _ended, pk, size in sorted(long):
        if total + size > MOST_TEXT:
            continue
        total += size
        wanted.append(pk)
    return dict(Job.objects.filter(pk__in=wanted).values_list("pk", "options")) if wanted else {}


def _group_ids(rows: Iterable[Row]) -> set[str]:
    """The groups that jobs are in, come after, or come before."""
    found: set[str | None] = set()
    for row in rows:
        found |= {row.job.group_id, row.header, *(group_of(sig) for sig in row.chain[:1])}
    return {each for each in found if each}


def _groups_of(ids: set[str]) -> dict[str, Group]:
    if not ids:
        return {}
    body = Case(When(length__lte=MOST_TEXT // MOST_GROUPS, then=F("body")), default=Value(None))
    rows = JobGroup.objects.filter(pk__in=sorted(ids)[:MOST_GROUPS]).annotate(length=Length("body"), short=body)
    return {
        pk: Group(size, remaining, _bodies(text)) for pk, size, remaining, text in rows.values_list(
            "pk", "size", "remaining", "short"
        )
    }  # fmt: skip


def _bodies(text: str | None) -> list[Body]:
    try:
        messages = Message.several_from_json(text) if text else []
    except MalformedMessage:
        return []
    return [Body(each.id, each.task, each.group_id, readable(each.options)) for each in messages]


# Options and signatures, of whatever shape


def readable(text: str) -> dict[str, Any]:
    """Options as values; {} if they cannot be read."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return spread(values) if isinstance(values, dict) else {}


def signatures(values: object, name: str) -> list[Mapping[str, Any]]:
    """The signatures that stand in `values` under `name`."""
    found = values.get(name) if isinstance(values, Mapping) else None
    several = map(_read, found) if isinstance(found, list) else []
    return [each for each in several if isinstance(each, Mapping) and isinstance(each.get("task"), str)]


def _read(sig: object) -> object:
    """A signature as it stands in a list; those of a chain's rest are text."""
    if not isinstance(sig, str):
        return sig
    try:
        return encoding.decode(sig, fetch=False)
    except MalformedMessage:
        return None


def part(sig: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The options or the keyword arguments of a signature."""
    found = sig.get(name)
    return found if isinstance(found, Mapping) else {}


def group_of(sig: Mapping[str, Any]) -> str | None:
    """The id of the group that a signature begins with; None if it begins with a job."""
    name = {"chord": "header_id", "group": "task_id"}.get(str(sig.get("subtask_type")))
    found = part(sig, "options").get(name) if name else None
    return str(found) if found else None


def stands_for(options: Mapping[str, Any]) -> str | None:
    """The job that one with these options stands for, or that the rest of its chain does."""
    own = options.get("stands_for")
    if isinstance(own, list) and own:
        return str(own[-1])
    for sig in signatures(options, "chain"):
        sig = _last(sig)
        if found := stands_for({"stands_for": part(sig, "options").get("stands_for")}):
            return found
    return None


def _last(sig: Mapping[str, Any]) -> Mapping[str, Any]:
    """The job in which a signature ends."""
    for _ in range(50):
        kwargs = part(sig, "kwargs")
        tasks = signatures(kwargs, "tasks") if sig.get("subtask_type") == "chain" else signatures(
            {"body": [kwargs.get("body")]}, "body"
        )  # fmt: skip
        if not tasks or sig.get("subtask_type") not in ("chain", "chord"):
            break
        sig = tasks[-1]
    return sig


def index_in(options: Mapping[str, Any]) -> int:
    """The place in its group of a job with these options."""
    return _number(options.get("index"))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
