"""The tree of a workflow on a job's page: its jobs from the root down, groups with their progress, what is to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djtasks import states
from djtasks.admin import relatives
from djtasks.admin.arrangement import TOP, Arrangement, Place, Unit, key_of
from djtasks.admin.presentation import LOOKS, duration, pill, run_time, state_pill
from djtasks.admin.relatives import MOST_SIBLINGS, Group, Light, Relatives, Row, part, signatures, urgency
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job
from djtasks.moments import distance

DEEPEST: Final = 8  # levels
MOST_STEPS: Final = 10  # to come, of one chain
MOST_PLANNED: Final = 100  # steps to come, of all of them together
LATER: Final = 1_000_000  # places in a group from here on were added by its members


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses: of a job's page by its id, of the list of jobs by what it is filtered by."""

    job: Callable[[str], str]
    jobs: Callable[[Mapping[str, str]], str]


@dataclass(slots=True)
class Node:
    """One line of the tree, and the lists below it. `kind`: job, planned, gone, group, series or more."""

    kind: str
    pill: str = ""
    task: str = ""
    text: str = ""
    id: str = ""
    url: str = ""
    is_current: bool = False
    notes: list[str] = field(default_factory=list)
    done: int = 0
    total: int | None = None
    failed: str = ""
    lists: list[Branch] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.task.rpartition(".")[2]

    @property
    def module(self) -> str:
        return self.task.rpartition(".")[0]


@dataclass(slots=True)
class Branch:
    """Nodes side by side or, if `ordered`, one after another."""

    label: str
    nodes: list[Node]
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """What the page shows. `jobs`: how many there are, '' if that is not known for sure."""

    top: Branch
    count: str
    all_url: str


def tree(job: Job, links: Links) -> Tree | None:
    """The workflow that a job is part of; None if it stands alone. At most six queries."""
    found = relatives.read(job)
    top = _Drawing(found, links).top()
    if len(top.nodes) == 1 and not top.nodes[0].lists:
        return None
    count = len(found.light)
    said = ngettext("%(count)d job", "%(count)d jobs", count) % {"count": count}
    if found.is_cut:
        said = _("more than %(count)d jobs") % {"count": count - 1}
    return Tree(top, said, links.jobs({"root_id": found.root_id}))


class _Drawing:
    """Makes nodes of an arrangement. Where rows name each other in a circle, each is drawn once."""

    def __init__(self, found: Relatives, links: Links) -> None:
        self.found = found
        self.links = links
        self.at = Arrangement(found)
        self.drawn: set[Unit] = set()
        self.planned = 0
        self.missing = self._missing_parents()
        self.members = _by_group(found.light)

    def top(self) -> Branch:
        path = self.at.path(Unit("job", self.found.job.pk))
        if len(path) > DEEPEST - 2:  # begin below the root, so that the current job is within what is shown
            sequences = [[self._root_above(), *self._steps(path[DEEPEST - 3], 0)]]
        else:
            sequences = [*self._stubs(), *(self._steps(unit, 0) for unit in self.at.below.get(Place(TOP, None), ()))]
            sequences += [self._steps(unit, 0) for unit in self._in_circles()]
        return _branch(_("Workflow"), sequences)

    def _root_above(self) -> Node:
        root_id = self.found.root_id
        return Node("more", text=_("… levels above; it began with"), id=root_id, url=self.links.job(root_id))

    def _missing_parents(self) -> list[str]:
        """Jobs that are not shown, but have something below them; and the root, if that is not."""
        found = {place.of.id: None for place in self.at.below if place.of and place.of not in self.at.shown}
        if self.found.root_id not in self.found.rows:
            found = {self.found.root_id: None, **found}
        return list(found)

    def _stubs(self) -> list[list[Node]]:
        return [[self._stub(parent_id)] for parent_id in self.missing]

    def _stub(self, job_id: str) -> Node:
        light = self.found.light.get(job_id)
        node = self._gone(job_id)
        if light is not None:
            look = LOOKS.get(light.state, "waiting")
            node = Node("job", pill(light.state, look), id=job_id, url=self.links.job(job_id))
        below = self.at.below.get(Place("child", Unit("job", job_id)), ())
        node.lists = _filled(_branch(_("Below it"), [self._steps(unit, 1) for unit in below]))
        return node

    def _in_circles(self) -> Iterator[Unit]:
        for unit in sorted(self.at.shown - self.drawn):
            outer = self.at.path(unit)[-1]
            if (self.at.place(outer).of in self.at.shown or self.at.previous.get(outer) in self.at.shown) and (
                outer not in self.drawn
            ):
                yield outer

    # Steps

    def _steps(self, first: Unit, depth: int) -> list[Node]:
        """The nodes of `first` and of what follows it, there or still to come."""
        steps = [unit for unit in self.at.steps(first) if unit not in self.drawn]
        self.drawn.update(steps)
        nodes = [self._job(unit, depth) if unit.kind == "job" else self._group(unit, depth) for unit in steps]
        return [*nodes, *self._rest(steps[-1])] if steps else []

    def _rest(self, last: Unit) -> list[Node]:
        """What follows the last step that is shown."""
        coming = list(self._coming(last))
        if not coming or coming[0].id in self.found.light:
            return []
        ended, first = self._has_ended(last), coming[0]
        if ended and first.id in self.waiting:
            coming[0] = self._gone(first.id, first.task)
        elif ended:
            for node in coming:
                node.kind, node.text = "gone", _("no row")
        shown = coming[: max(0, min(MOST_STEPS, MOST_PLANNED - self.planned))]
        self.planned += len(shown)
        more = len(coming) - len(shown)
        return [*shown, *([_more(more)] if more else [])]

    def _coming(self, last: Unit) -> Iterator[Node]:
        """The steps after `last`, up to those that follow another job: the one that it stands for."""
        if last.kind == "job":
            sigs = self.found.rows[last.id].chain
        else:
            bodies = self.at.bodies.get(last.id, [])
            if len(bodies) > 1:
                yield Node("planned", text=_group_of(len(bodies)), task=_common(each.task for each in bodies))
                return
            sigs = [sig for body in bodies for sig in (_signature(body), *signatures(body.options, "chain"))]
        for sig in sigs:
            key = key_of(sig)
            if key and self.at.previous.get(key, last) != last:
                return
            yield from _nodes_of(sig)

    def _has_ended(self, unit: Unit) -> bool:
        if unit.kind == "job":
            return self.found.rows[unit.id].job.is_finished
        group = self.found.groups.get(unit.id)
        return group is not None and group.remaining == 0

    @cached_property
    def waiting(self) -> set[str]:
        """Which of those that have no row wait in the broker."""
        broker = get_broker()
        if broker.transactional:
            return set()
        ids = {*self.missing, *(unit.id for unit in self.at.next.values() if unit.kind == "job")}
        try:
            return broker.known(sorted(ids - self.found.rows.keys()))
        except BrokerUnavailable:
            return set()

    def _gone(self, job_id: str, task: str = "") -> Node:
        text = _("waits in Redis, without a row") if job_id in self.waiting else _("no row")
        return Node("gone", text=text, id=job_id, task=task)

    # Jobs

    def _job(self, unit: Unit, depth: int) -> Node:
        row = self.found.rows[unit.id]
        node = Node(
            "job",
            state_pill(row.job),
            task=row.job.task,
            id=unit.id,
            url=self.links.job(unit.id),
            is_current=unit.id == self.found.job.pk,
            notes=list(_notes(row.job)),
        )
        node.lists = [*self._below_job(unit, depth), *self._callbacks(row)]
        return node

    def _below_job(self, unit: Unit, depth: int) -> list[Branch]:
        replacing = self.at.below.get(Place("replacement", unit), [])
        below = self.at.below.get(Place("child", unit), [])
        hidden = sum(pk not in self.found.rows for pk in self.found.children.get(unit.id, ()))
        if depth >= DEEPEST:
            count = len(replacing) + len(below) + hidden
            return [Branch(_("Below it"), [_more(count, self.links.job(unit.id))])] if count else []
        children = [self._steps(each, depth + 1) for each in below]
        if hidden:
            children.append([_more(hidden, self.links.jobs({"parent_id": unit.id}))])
        return [
            *_filled(_branch(_("Replaced by"), [self._steps(each, depth + 1) for each in replacing])),
            *_filled(_branch(_("Sent by it"), children)),
        ]

    def _callbacks(self, row: Row) -> Iterator[Branch]:
        """Its callbacks; of a group's members, which are many, they are left out."""
        if row.job.state in states.SETTLED or row.job.group_id:
            return
        for name, label in (("link", _("If it succeeds")), ("link_error", _("If it fails"))):
            nodes = [node for sig in signatures(row.options, name) for node in _nodes_of(sig)][:MOST_STEPS]
            self.planned += len(nodes)
            if nodes and self.planned <= MOST_PLANNED:
                yield Branch(label, nodes)

    # Groups

    def _group(self, unit: Unit, depth: int) -> Node:
        group = self.found.groups.get(unit.id)
        before = self.at.previous.get(unit)
        if group and before in self.at.shown and not self._has_ended(before) and not self.at.members.get(unit.id):
            bodies = self.at.bodies.get(before.id, [])
            return Node("planned", text=_group_of(group.size), task=_common(each.task for each in bodies))
        members = self.members.get(unit.id, {})
        heads = self.at.below.get(Place("member", unit), [])
        size = group.size if group else max(len(members), len(heads))
        node = Node("group", text=_group_of(size), url=self.links.jobs({"group_id": unit.id}))
        if group:
            node.done, node.total = group.size - group.remaining, group.size
        if failed := self._failed(unit.id, members):
            node.failed = ngettext("%(count)d failed", "%(count)d failed", failed) % {"count": failed}
        with_row = sum(all(step.id not in self.found.rows for step in steps) for steps in members.values())
        more = self._more_members(group, size - len(heads), with_row, node.url)
        if depth >= DEEPEST:
            node.lists = [Branch(_("Members"), [_more(size, node.url)])]
            return node
        by = self._by_urgency if len(heads) < size or len(heads) > MOST_SIBLINGS else self.at.index
        shown = [self._member(each, depth) for each in sorted(heads, key=by) if each not in self.drawn]
        node.lists = _filled(Branch(_("Members"), [*shown, *more]))
        return node

    def _member(self, first: Unit, depth: int) -> Node:
        steps = self._steps(first, depth + 1)
        node = steps[0] if len(steps) == 1 else _series(steps)
        index = self.at.index(first)
        place = _("added later") if index >= LATER else f"#{index + 1}"
        node.notes = [place, *node.notes]
        return node

    def _by_urgency(self, first: Unit) -> tuple[int, int]:
        ids = [step.id for step in self.at.steps(first)]
        rows = [self.found.light[pk] for pk in ids if pk in self.found.light]
        inside = [each for pk in ids for steps in self.members.get(pk, {}).values() for each in steps]
        return min(map(urgency, [*rows, *inside]), default=relatives.LEAST_URGENT), self.at.index(first)

    def _more_members(self, group: Group | None, left: int, with_row: int, url: str) -> list[Node]:
        """Lines for the members that are not shown: those with a row, and those without."""
        with_row = min(with_row, left)
        lines = [_more(with_row, url)] if with_row else []
        if (without := left - with_row) > 0:
            waits = group is not None and group.remaining > 0 and not get_broker().transactional
            text = _("%(count)d wait in Redis, without a row") if waits else _("%(count)d have no row")
            lines.append(Node("gone", text=text % {"count": without}))
        return lines

    def _failed(self, group_id: str, members: Mapping[str, Sequence[Light]]) -> int:
        """How many members have failed; a replaced job and the one that stands for it count once."""
        failed = {head for head, steps in members.items() if any(urgency(step) == 0 for step in steps)}
        rows = [row for row in self.at.members.get(group_id, ()) if row.job.pk in failed]
        return len(failed) - sum(row.stands_for in failed for row in rows)


# Nodes without a row


def _nodes_of(sig: Mapping[str, Any], depth: int = 0) -> list[Node]:
    """The steps that a signature stands for, as steps to come."""
    kwargs, kind = part(sig, "kwargs"), sig.get("subtask_type") if depth < DEEPEST else None
    if kind == "chain":
        return [node for step in signatures(kwargs, "tasks") for node in _nodes_of(step, depth + 1)]
    if kind in ("group", "chord"):
        members = signatures(kwargs, "tasks" if kind == "group" else "header")
        name = _common(str(each["task"]) for each in members)
        body = signatures({"body": [kwargs.get("body")]}, "body")
        return [
            Node("planned", text=_group_of(len(members)), task=name),
            *(n for each in body for n in _nodes_of(each, depth + 1)),
        ]
    return [Node("planned", task=str(sig["task"]), id=str(part(sig, "options").get("task_id") or ""))]


def _signature(body: relatives.Body) -> dict[str, Any]:
    return {"task": body.task, "options": {"task_id": body.id}}


def _common(names: Iterable[str]) -> str:
    """The name that all have; '' if they differ."""
    several = set(names)
    return several.pop() if len(several) == 1 else ""


def _group_of(size: int) -> str:
    return ngettext("Group of %(count)d", "Group of %(count)d", size) % {"count": size}


def _more(count: int, url: str = "") -> Node:
    return Node(
        "more", text=ngettext("… and %(count)s more", "… and %(count)s more", count) % {"count": f"{count:,}"}, url=url
    )


def _series(steps: list[Node]) -> Node:
    text = ngettext("%(count)d step", "%(count)d steps", len(steps)) % {"count": len(steps)}
    return Node("series", text=text, lists=[Branch(_("Steps"), steps, ordered=True)])


def _branch(label: str, sequences: Iterable[list[Node]]) -> Branch:
    """The steps of one sequence one after another; of several, each as one node."""
    several = [steps for steps in sequences if steps]
    if len(several) == 1:
        return Branch(label, several[0], ordered=len(several[0]) > 1)
    return Branch(label, [steps[0] if len(steps) == 1 else _series(steps) for steps in several])


def _filled(branch: Branch) -> list[Branch]:
    return [branch] if branch.nodes else []


def _by_group(light: Mapping[str, Light]) -> dict[str, dict[str, list[Light]]]:
    """For each group its members, as the steps of each by the id of the first."""
    found: dict[str, dict[str, list[Light]]] = {}
    for head, each in zip(relatives.heads(light), light.values(), strict=True):
        if each.group_id:
            found.setdefault(each.group_id, {}).setdefault(head, []).append(each)
    return found


def _notes(job: Job) -> Iterator[str]:
    """When it runs or how long that took, and the class of its error."""
    due = max(filter(None, (job.created_at, job.run_at)))
    if job.state in states.WAITING:
        late = due > datetime.now(UTC)
        yield _("due %(when)s") % {"when": distance(due)} if late else _("due since %(when)s") % {"when": distance(due)}
    elif job.is_finished and job.started_at is None:
        yield _("did not run")
    if job.started_at and job.state not in states.WAITING:
        yield _("waited %(span)s") % {"span": duration(max(0.0, (job.started_at - due).total_seconds()))}
        if job.state == states.STARTED:
            yield _("has run %(span)s") % {"span": run_time(job)}
        elif job.seconds is not None:
            yield _("ran %(span)s") % {"span": run_time(job)}
    if job.retries:
        yield _("try %(number)d") % {"number": job.retries + 1}
    if job.exception and job.state in states.EXCEPTION_STATES:
        yield job.exception.rpartition(".")[2]
