"""How the jobs and groups of a workflow that are shown hang together: what follows what, what is below what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from djtasks.admin.relatives import Body, Relatives, Row, group_of, index_in, part, stands_for

TOP: Final = ""  # the place of what is below nothing


class Unit(NamedTuple):
    """A job or a group."""

    kind: str  # "job" or "group"
    id: str


class Place(NamedTuple):
    """What a unit is below, and as what."""

    role: str  # "member" of a group, "replacement" or "child" of a job; TOP
    of: Unit | None


def key_of(sig: Mapping[str, Any]) -> Unit | None:
    """The unit that a signature begins with, which has its id since the workflow was sent."""
    if group_id := group_of(sig):
        return Unit("group", group_id)
    job_id = part(sig, "options").get("task_id")
    return Unit("job", str(job_id)) if job_id else None


class Arrangement:
    """Where each unit stands: as a step after another, or as the first of some steps below another."""

    def __init__(self, relatives: Relatives) -> None:
        self.relatives = relatives
        self.rows = relatives.rows
        self.members: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows.values():
            if row.job.group_id:
                self.members[row.job.group_id].append(row)
        self.bodies = self._bodies()
        groups = {*self.members, *relatives.groups}
        self.shown = {*(Unit("job", pk) for pk in self.rows), *(Unit("group", pk) for pk in groups)}
        self.next: dict[Unit, Unit] = {}
        self.previous: dict[Unit, Unit] = {}
        self._follow()
        self.places: dict[Unit, Place] = {}
        self.below: dict[Place, list[Unit]] = defaultdict(list)
        for unit in sorted(self.shown, key=lambda each: each.id):
            if self.previous.get(unit) not in self.shown:
                self.below[self.place(unit)].append(unit)

    def _bodies(self) -> dict[str, list[Body]]:
        """What follows each group, as its row or, without one, the jobs that came of it tell."""
        found: dict[str, list[Body]] = defaultdict(list)
        for row in self.rows.values():
            if row.header:
                found[row.header].append(Body(row.job.pk, row.job.task, row.job.group_id, row.options or {}))
        found.update({pk: group.bodies for pk, group in self.relatives.groups.items() if group.bodies})
        return dict(found)

    # What follows what

    def _follow(self) -> None:
        """A replaced job keeps what follows it; those that stand for it, which are nested deeper, end before that."""
        for _nesting, before, after in sorted(self._pairs()):
            if before != after and self.previous.setdefault(after, before) == before:
                self.next[before] = after

    def _pairs(self) -> Iterator[tuple[int, Unit, Unit]]:
        for row in self.rows.values():
            if after := self._after(row):
                yield row.nesting, Unit("job", row.job.pk), after
        for group_id in self.bodies:
            if after := self._after_group(group_id):
                yield 0, Unit("group", group_id), after

    def _after(self, row: Row) -> Unit | None:
        if row.options is not None:
            return key_of(row.chain[0]) if row.chain else None
        # The ids of a chain's steps were made before it began, those of other children later.
        later = sorted(self.relatives.children.get(row.job.pk, ()))
        return Unit("job", later[0]) if later and later[0] in self.rows else None

    def _after_group(self, group_id: str) -> Unit | None:
        """The one job after a group, or the group of those that come after it."""
        bodies = self.bodies[group_id]
        if len(bodies) == 1:
            return Unit("job", bodies[0].id)
        around = [self._around(each.group_id) for each in bodies]
        common = (pk for pk in around[0] if all(pk in other for other in around))
        return next((Unit("group", pk) for pk in common), None)

    def _around(self, group_id: str | None) -> list[str]:
        """The groups around a place, from the innermost."""
        found: list[str] = []
        while group_id and group_id not in found:
            found.append(group_id)
            group_id = next((each.group_id for each in self.bodies.get(group_id, ())), None)
        return found

    # What is below what

    def place(self, unit: Unit) -> Place:
        """Where the steps stand that begin with `unit`."""
        if unit not in self.places:
            self.places[unit] = self._place(unit)
        return self.places[unit]

    def _place(self, unit: Unit) -> Place:
        replaced = self._replaced_by(unit)
        if replaced in self.rows and replaced != unit.id:
            return Place("replacement", Unit("job", replaced))
        group_id = self._group_around(unit)
        if group_id and Unit("group", group_id) in self.shown and group_id != unit.id:
            return Place("member", Unit("group", group_id))
        parent_id = self._parent(unit)
        if parent_id and parent_id != unit.id:
            return Place("child", Unit("job", parent_id))
        return Place(TOP, None)

    def _replaced_by(self, unit: Unit) -> str:
        if unit.kind == "job":
            return self.rows[unit.id].stands_for or ""
        return next(filter(None, (stands_for(body.options) for body in self.bodies.get(unit.id, ()))), "")

    def _group_around(self, unit: Unit) -> str | None:
        """The group of a job; of a group that of the one job that ends what it begins."""
        for step in self.steps(unit):
            if step.kind == "job":
                return self.rows[step.id].job.group_id
            bodies = self.bodies.get(step.id, [])
            if len(bodies) == 1:
                return bodies[0].group_id
        return None

    def _parent(self, unit: Unit, seen: frozenset[str] = frozenset()) -> str | None:
        """The job that sent a unit; of a group that of its members, but for bodies: these come after a member."""
        if unit.kind == "job":
            return self.rows[unit.id].job.parent_id
        members = self.members.get(unit.id, ())
        own = {row.job.pk for row in members}
        sent = [row.job for row in members if row.header is None and row.job.parent_id not in own]
        if sent:
            return min(sent, key=lambda job: job.pk).parent_id
        inside = (pk for pk, bodies in self.bodies.items() if any(body.group_id == unit.id for body in bodies))
        inner = next((pk for pk in inside if pk not in seen), None)
        return self._parent(Unit("group", inner), seen | {unit.id}) if inner else None

    def index(self, unit: Unit) -> int:
        """The place of a unit in the group that it is a member of."""
        if unit.kind == "job":
            return self.rows[unit.id].index
        return next((index_in(body.options) for body in self.bodies.get(unit.id, ())), 0)

    def steps(self, first: Unit) -> Iterator[Unit]:
        """`first` and what is shown of what follows it."""
        seen: set[Unit] = set()
        at: Unit | None = first
        while at is not None and at in self.shown and at not in seen:
            seen.add(at)
            yield at
            at = self.next.get(at)

    def first(self, unit: Unit) -> Unit:
        """The first of the steps that `unit` is one of."""
        seen = {unit}
        while (before := self.previous.get(unit)) in self.shown and before not in seen:
            unit = before
            seen.add(unit)
        return unit

    def path(self, unit: Unit) -> list[Unit]:
        """The first steps of all that is around `unit`, from the innermost to the outermost."""
        found = [self.first(unit)]
        while (above := self.place(found[-1]).of) and above in self.shown:
            above = self.first(above)
            if above in found:
                break
            found.append(above)
        return found
