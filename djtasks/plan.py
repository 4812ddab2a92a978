"""Makes jobs of a canvas in normal form: the messages that are sent now, and the groups that these belong to.

What comes later travels as data: the rest of a chain with each of its jobs, the body of a chord with its group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.db import DatabaseError, transaction

from djtasks import outbox, packing, publish, registry
from djtasks.conf import settings
from djtasks.message import Message, NewGroup, checked_id, new_id
from djtasks.models import JobGroup
from djtasks.models.fields import utc_now
from djtasks.publish import Place
from djtasks.request import current_job
from djtasks.steps import LaterSteps

Signature = Mapping[str, Any]
_EMPTY: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the jobs that come first get before their own arguments.

    `result` is the result before them, as it is stored; `checked`: whether the arguments are all there, so that they
    can be held against the function's parameters.
    """

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result: str | None = None
    checked: bool = False


@dataclass(slots=True)
class Plan:
    """What is to be sent."""

    messages: list[Message] = field(default_factory=list)
    groups: list[NewGroup] = field(default_factory=list)

    def add(self, sig: Signature, given: Given, place: Place) -> None:
        """Add the jobs of `sig` that can be sent now. Raises as `publish.build`."""
        _ADDING.get(sig.get("subtask_type") or "", Plan._add_task)(self, sig, given, place)

    def _add_task(self, sig: Signature, given: Given, place: Place) -> None:
        args, kwargs = sig.get("args") or (), sig.get("kwargs") or _EMPTY
        if sig.get("immutable"):
            place = replace(place, bare=True) if place.header else place
        else:
            args, kwargs = (*given.args, *args), {**kwargs, **given.kwargs}
        task = registry.find(sig["task"])
        if given.checked and place.header is None and task is not None and task.typing:
            task.check_arguments(args, kwargs)
        options = sig.get("options") or _EMPTY
        if task is not None and task.ignores_result and options.get("ignore_result") is None:
            options = {**options, "ignore_result": True}
        message = publish.build(sig["task"], args, kwargs, options, task, place)
        if given.result is not None and not sig.get("immutable"):
            message = replace(message, args=_before(given.result, message.args))
        self.messages.append(message)

    def _add_chain(self, sig: Signature, given: Given, place: Place) -> None:
        first, *rest = sig["kwargs"]["tasks"]
        self.add(first, given, replace(place, chain=place.chain.after(map(packing.text_of, rest))))

    def _add_group(self, sig: Signature, given: Given, place: Place) -> None:
        options = sig.get("options") or _EMPTY
        self._add_members(checked_id(options.get("task_id") or new_id()), sig["kwargs"]["tasks"], given, place)

    def _add_members(
        self, group_id: str, members: Sequence[Signature], given: Given, place: Place, body: Sequence[Message] = ()
    ) -> None:
        if not members:
            return
        self.groups.append(NewGroup(group_id, len(members), tuple(body)))
        root_id = place.root_id or first_id(members[0])
        for index, member in enumerate(members):
            inside = replace(
                place, root_id=root_id, group_id=group_id, index=index, keeps=bool(body), chain=LaterSteps(), nesting=0
            )
            self.add(member, given, inside)

    def _add_chord(self, sig: Signature, given: Given, place: Place) -> None:
        members, options = sig["kwargs"]["header"], sig.get("options") or _EMPTY
        if not members:
            self.add(sig["kwargs"]["body"], replace(given, args=([],), kwargs={}, result=None), place)
            return
        group_id = checked_id(options.get("header_id") or new_id())
        place = replace(place, root_id=place.root_id or first_id(members[0]))
        body = Plan(groups=self.groups)
        body.add(sig["kwargs"]["body"], Given(), replace(place, header=group_id, bare=False))
        self._add_members(group_id, members, given, place, body.messages)


_ADDING: Final[dict[str, Callable[[Plan, Signature, Given, Place], None]]] = {
    "chain": Plan._add_chain,
    "group": Plan._add_group,
    "chord": Plan._add_chord,
}


def send(
    tree: Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    using: str | None = None,
    open_group: str | None = None,
) -> Callable[[], bool] | None:
    """Send a canvas in normal form whose jobs have their ids, with `args` and `kwargs` for those that come first.

    `open_group` is one that gets more members later, until `close`. Returns what `publish.publish` does; raises as
    `Task.apply_async`.
    """
    plan = Plan()
    plan.add(tree, Given(args=args, kwargs=kwargs, checked=True), place_of_caller())
    groups = [
        replace(each, size=each.size + 1, is_open=True) if each.id == open_group else each for each in plan.groups
    ]
    return publish.publish(plan.messages, groups, using=using)


def send_more(group_id: str, members: Sequence[Signature], first: int, place: Place, given: Given) -> None:
    """Send more members of a group that is kept open by one that does not exist; `first` is the place of the first."""
    plan = Plan()
    for index, member in enumerate(members, first):
        plan.add(member, given, replace(place, group_id=group_id, index=index, keeps=True))
    with transaction.atomic(using=settings.DATABASE):
        JobGroup.objects.all().count_down([], [(group_id, len(members))])
        JobGroup.objects.filter(pk=group_id).update(open_at=utc_now())
        publish.publish(plan.messages, plan.groups, using=settings.DATABASE)


def close(group_id: str) -> None:
    """Take back the member that has kept a group open; its body may follow at once."""
    with transaction.atomic(using=settings.DATABASE):
        following = JobGroup.objects.all().count_down([], [(group_id, -1)])
        JobGroup.objects.filter(pk=group_id).update(open_at=None)
        outbox.send(following, using=settings.DATABASE, on_commit="outbox", checked=True)


def abandon(group_id: str, missing: int = 1) -> None:
    """Count members that will never end as lost, as the one that has kept a group open: its body will fail.

    Not in a transaction that can only be rolled back: nothing was sent then.
    """
    with suppress(DatabaseError), transaction.atomic(using=settings.DATABASE):
        following = JobGroup.objects.all().count_down([(group_id, None)] * missing)
        JobGroup.objects.filter(pk=group_id).update(open_at=None)
        outbox.send(following, using=settings.DATABASE, on_commit="outbox", checked=True)


def place_of_caller() -> Place:
    """The place of jobs that are sent here: below the job that runs, if one does."""
    job = current_job()
    return Place(root_id=job.root_id, parent_id=job.id) if job else Place()


def first_id(sig: Signature) -> str | None:
    """The id of the first job of `sig`, a canvas in normal form."""
    kwargs = sig.get("kwargs") or _EMPTY
    match sig.get("subtask_type"):
        case "chain" | "group":
            return first_id(kwargs["tasks"][0]) if kwargs["tasks"] else None
        case "chord":
            return first_id(kwargs["header"][0] if kwargs["header"] else kwargs["body"])
        case _:
            return (sig.get("options") or _EMPTY).get("task_id")


def _before(result: str, args: str) -> str:
    """`args`, a JSON list, with a JSON value before its elements."""
    return f"[{result}]" if args == "[]" else f"[{result},{args[1:]}"
