"""Jobs that have ended and are to run once more: which of them run, and what of their ends is undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.db.models import F

from djtasks import states
from djtasks.follow_ups import later_jobs, options_of
from djtasks.message import Message
from djtasks.models import Job, JobGroup


def reopen(ids: Sequence[str]) -> None:
    """Undo, within a transaction, what the ends of these jobs did to what follows them: they are to run once more."""
    jobs = [_Ended(*row) for row in Job.objects.finished().filter(pk__in=ids).values_list(*_Ended._fields)]
    jobs = [each for each in jobs if not each.has_gone_on]
    replaced = {pk for each in jobs for pk in each.ended_with_it}
    Job.objects.reopen_replaced(sorted(replaced))
    for each in jobs:
        if each.group_id and each.id not in replaced:
            JobGroup.objects.filter(pk=each.group_id, remaining__gt=0).update(remaining=F("remaining") + 1)
        # Not what remembers that a later one was cancelled: it stays so.
        Job.objects.finished().filter(pk__in=each.later_ids, token=0).exclude(task="").delete()


def that_failed(ids: Sequence[str]) -> list[str]:
    """`ids`, where in place of a step that never ran stands the one before it whose end was its end too."""
    finished = Job.objects.finished()
    parents = dict(finished.filter(pk__in=ids, token=0).exclude(parent_id=None).values_list("pk", "parent_id"))
    if not parents:
        return list(ids)
    failed = [_Ended(*row) for row in finished.filter(pk__in=set(parents.values())).values_list(*_Ended._fields)]
    ended_by = {later: each.id for each in failed for later in each.later_ids}
    return list(dict.fromkeys(ended_by[each] if each in parents and each in ended_by else each for each in ids))


class _Ended(NamedTuple):
    """A job that has ended, of those that are to run once more."""

    id: str
    group_id: str | None
    state: str
    options: str

    @property
    def values(self) -> dict[str, Any]:
        return options_of(Message(id=self.id, task="", options=self.options))

    @property
    def has_gone_on(self) -> bool:
        """Whether its chain went on without an end of its own: what comes after it stays as it is."""
        return self.state == states.SUCCESS and bool(self.values.get("chain"))

    @property
    def later(self) -> list[Mapping[str, Any]]:
        return later_jobs(self.values)

    @property
    def later_ids(self) -> list[str]:
        return [sig["options"]["task_id"] for sig in self.later]

    @property
    def ended_with_it(self) -> list[str]:
        """The replaced jobs that ended as it did, or as those after it did."""
        later = [pk for sig in self.later for pk in sig["options"].get("stands_for") or ()]
        return [*(self.values.get("stands_for") or ()), *later]
