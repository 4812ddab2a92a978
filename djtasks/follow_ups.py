"""What comes after an outcome: links, the rest of a chain, error callbacks, the count in a group.

It is made ready here, where user code may run (routers, signals, the look at an error callback's
parameters); the ledger then stores and sends it in the transaction of the outcome.
"""

from __future__ import annotations

import inspect
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from djtasks import encoding, packing, registry, states, steps
from djtasks.announce import announced, told
from djtasks.canvas.normal import end, entries, frozen, normal, single, single_tasks
from djtasks.canvas.signatures import signature
from djtasks.exceptions import ChordError, MalformedMessage
from djtasks.failure import call_of
from djtasks.masking import excerpt
from djtasks.message import MAX_NAME_LENGTH, Delivery, Failure, Message, Outcome, is_id, new_id
from djtasks.models import Job, JobGroup
from djtasks.outbox import check_sizes
from djtasks.packing import as_list
from djtasks.plan import Given, Plan
from djtasks.publish import Place
from djtasks.request import Request, request_of
from djtasks.result import exception_of
from djtasks.steps import LaterSteps

logger = logging.getLogger("djtasks.follow_ups")

MOST_MEMBERS: Final = 1_000_000  # of a group when it is sent; those that are added later have places beyond
LAST_COUNTED: Final = MOST_MEMBERS**6  # places from here on are by time: JSON takes no number of thousands of digits
FAILED: Final = (states.FAILURE, states.REVOKED)


def complete(
    outcome: Outcome,
    options: Mapping[str, Any],
    *,
    result: str | None = None,
    sig: Any = None,
    added: Sequence[Any] = (),
) -> Outcome:
    """`outcome` with all that follows from it. Raises what routers, or signatures that are none, do.

    `options` are those of its message, `result` the value as it is stored, `sig` what replaces the job, `added` what
    it adds to its chord.
    """
    message = outcome.delivery.message
    is_alone = not options and message.group_id is None and outcome.state != states.REPLACED
    if outcome.state not in states.SETTLED or is_alone:
        return outcome
    if added and outcome.state in (states.SUCCESS, states.REPLACED):
        outcome = replace(outcome, grows=(message.group_id or "", len(added)))
    if outcome.state == states.REPLACED:
        plan = _replacement(message, options, sig)
        _add_members(plan, message, options, added)
        return _sent(outcome, plan)
    outcome = ended(outcome, options)
    if outcome.state == states.SUCCESS:
        plan = _next(message, options, result or "null")
        _add_members(plan, message, options, added)
        return _sent(outcome, plan)
    if outcome.state in FAILED:
        return _sent(outcome, _errbacks(message, options))
    return outcome


def ended(outcome: Outcome, options: Mapping[str, Any] | None = None) -> Outcome:
    """`outcome` with what ends with it: the count in its group, the jobs after it that cannot run any more."""
    message = outcome.delivery.message
    options = options_of(message) if options is None else options
    stands_for = tuple(options.get("stands_for") or ())
    if outcome.state == states.SUCCESS:
        counts = None if options.get("chain") else message.group_id
        return replace(outcome, counts=counts, stands_for=stands_for) if counts or stands_for else outcome
    later = later_jobs(options)
    also = [_without_run(outcome, each) for each in later]
    if later and message.group_id:
        also[-1] = _without_run(outcome, later[-1], index=options.get("index", 0))
    return replace(outcome, counts=message.group_id, stands_for=stands_for, also=tuple(also))


def completed_failure(outcome: Outcome, options: Mapping[str, Any]) -> Outcome:
    """`complete` of a job that has failed; without error callbacks, if they cannot be made. Raises nothing."""
    try:
        return complete(outcome, options)
    except Exception:  # a router of the user's, say
        logger.exception("The error callbacks of job %s could not be sent", outcome.delivery.id)
        return ended(outcome, options)


def options_of(message: Message) -> dict[str, Any]:
    """The options that travel with a message; {} if nobody can read them."""
    try:
        return read_options(message.options)
    except MalformedMessage:
        return {}


def read_options(text: str) -> dict[str, Any]:
    """The options that travel with a message. Raises MalformedMessage for what no sender of ours has written."""
    if text == "{}":
        return {}
    options = encoding.decode(text, fetch=False)
    if not isinstance(options, dict):
        raise MalformedMessage("options and headers must be objects.")
    for name in options.keys() & _SHAPES.keys():
        if not _SHAPES[name](options[name]):
            raise MalformedMessage(f"The option {name!r} cannot be read: {excerpt(options[name])}")
    return options


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(map(is_id, value))


_SHAPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "chain": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    steps.FAR: lambda value: isinstance(value, str),
    "stands_for": _are_ids,
    "header": lambda value: isinstance(value, list) and len(value) == 2 and is_id(value[0]),
    "failed": is_id,
    "sent_from": lambda value: isinstance(value, str),
    "index": lambda value: isinstance(value, int),
    "nesting": lambda value: isinstance(value, int),
    "link": lambda value: isinstance(value, list),
    "link_error": lambda value: isinstance(value, list),
}


def _sent(outcome: Outcome, plan: Plan) -> Outcome:
    messages = announced(plan.messages)
    groups = [replace(each, body=tuple(announced(each.body))) for each in plan.groups]
    check_sizes([*messages, *(message for group in groups for message in group.body)])
    told(messages)
    if outcome.delivery.token > 1:  # an earlier run may have sent them: one that was lost, or before a retry by hand
        messages = [replace(each, check=True) for each in messages]
    return replace(outcome, follow_ups=tuple(messages), groups=tuple(groups))


def later_jobs(options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The single tasks of the steps after a job. Those that nobody can read have no id by which to ask for them."""
    found: list[Mapping[str, Any]] = []
    for text in _steps_after(options):
        try:
            found += [each for each in single_tasks(packing.from_text(text)) if _can_have_row(each)]
        except Exception:  # whatever it is that nonsense raises
            logger.exception("A step of a chain cannot be read: %s", excerpt(text))
    return found


def _steps_after(options: Mapping[str, Any]) -> Sequence[str]:
    rest = LaterSteps.of(options)
    try:
        return rest.texts()
    except MalformedMessage:
        logger.exception("The later steps of a chain cannot be read")
        return rest.near


def _can_have_row(sig: Mapping[str, Any]) -> bool:
    options = sig["options"]
    return isinstance(sig["task"], str) and is_id(options["task_id"]) and _are_ids(options.get("stands_for") or [])


def _without_run(outcome: Outcome, sig: Mapping[str, Any], index: int | None = None) -> Outcome:
    """A later job of the chain, which ends as the one before it has; with `index` the last of a group's member."""
    message = outcome.delivery.message
    options = sig.get("options") or {}
    later = Message(
        id=options.get("task_id", ""),
        task=encoding.plain_text(sig["task"])[:MAX_NAME_LENGTH],
        parent_id=message.id,
        root_id=message.root_id or message.id,
        group_id=message.group_id,
        options="{}" if index is None else encoding.encode({"index": index}),
    )
    return replace(
        outcome,
        delivery=Delivery(later, outcome.delivery.worker, 0),
        seconds=None,
        result=None,
        counts=None,
        follow_ups=(),
        sent=(),
        stands_for=tuple(options.get("stands_for") or ()),
    )


# What is sent


def visible_id(message: Message, options: Mapping[str, Any]) -> str:
    """The id by which callers know a job: of one that stands for another, that one's."""
    return str((options.get("stands_for") or (message.id,))[0])


def _next(message: Message, options: Mapping[str, Any], result: str) -> Plan:
    plan = Plan()
    given = Given(result=result)
    below = Place(root_id=message.root_id or message.id, parent_id=visible_id(message, options))
    for callback in options.get("link") or ():
        sig = normal(signature(callback))
        frozen(sig)
        plan.add(sig, given, below)
    if rest := LaterSteps.of(options):
        following, others = rest.split()
        plan.add(packing.from_text(following), given, _place_of(message, options, below, others))
    return plan


def _add_members(plan: Plan, message: Message, options: Mapping[str, Any], added: Sequence[Any]) -> None:
    """What a job adds to its chord: members with places after all those that were there at first."""
    if not added:
        return
    below = Place(root_id=message.root_id or message.id, parent_id=visible_id(message, options))
    place = _place_of(message, options, below, LaterSteps())
    first = (place.index + 1) * MOST_MEMBERS
    if first > LAST_COUNTED:
        first = LAST_COUNTED + uuid.UUID(new_id()).int
    for index, tree in enumerate(added, first):
        plan.add(tree, Given(), replace(place, index=index, nesting=0))


def _place_of(message: Message, options: Mapping[str, Any], below: Place, rest: LaterSteps) -> Place:
    """The place of what takes over from a job: in its group, before what follows it."""
    return Place(
        root_id=below.root_id,
        parent_id=below.parent_id,
        chain=rest,
        group_id=message.group_id,
        index=options.get("index", 0),
        keeps=bool(options.get("keeps")),
        nesting=options.get("nesting", 0),
    )


def _replacement(message: Message, options: Mapping[str, Any], sig: Any) -> Plan:
    tree = single(signature(sig))
    last = end(tree)
    for callback in options.get("link") or ():
        last.link(callback)
    for errback in options.get("link_error") or ():
        for task in single_tasks(tree):
            if errback not in as_list(task.options.get("link_error")):
                task.link_error(errback)
    last.options["stands_for"] = [*(options.get("stands_for") or ()), message.id]
    frozen(tree)
    plan = Plan()
    below = Place(root_id=message.root_id or message.id, parent_id=message.parent_id)
    place = _place_of(message, options, below, LaterSteps.of(options))
    plan.add(tree, Given(), replace(place, nesting=place.nesting + 1))
    return plan


def _errbacks(message: Message, options: Mapping[str, Any]) -> Plan:
    plan = Plan()
    job_id = visible_id(message, options)
    place = Place(root_id=message.root_id or message.id, parent_id=job_id)
    for errback in options.get("link_error") or ():
        try:
            sig = _errback(errback, message.id, job_id)
            plan.add(sig, Given(), place)
        except Exception:  # one that is none, or whose router raises, must not keep others from being called
            logger.exception("An error callback of job %s cannot be sent", message.id)
    return plan


def _errback(errback: Any, failed: str, shown: str) -> Any:
    """An error callback, ready to be sent, for the job `failed`, which callers know as `shown`."""
    sig = normal(signature(errback))
    for first in entries(sig):
        if first.immutable:
            continue
        if takes_request(first):
            first.options["failed"] = failed
        else:
            first.args = (shown, *first.args)
    frozen(sig)
    return sig


def takes_request(sig: Any) -> bool:
    """Whether an error callback is called `(request, exc, traceback, *own)`, and not `(request_id, *own)`.

    Told apart by its parameters, as in Celery: what can take more than the id gets all three.
    """
    task = registry.find(sig.task)
    if task is None:
        return False
    parameters = inspect.signature(task.run)
    try:
        parameters.bind(None, None, None, *sig.args, **sig.kwargs)
    except TypeError:
        return False
    return True


# What a job finds when it starts


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member of a group stands. `index` is its place; -1 of a job that was not its last."""

    id: str
    index: int
    state: str
    result: str | None
    failure: Failure | None = None


class HeaderRunsAgain(Exception):
    """Members of a chord's header were sent once more, and have not ended."""


def header_results(group_id: str) -> list[Any]:
    """The results of a chord's header, in order.

    Raises ChordError if a member has failed, or its result is gone; HeaderRunsAgain if one has not ended.
    """
    rows = Job.objects.filter(group_id=group_id).order_by("finished_at")
    members = [
        Member(pk, _index_in(options), state, result, Failure(kind, text or "", arguments, trace or ""))
        for pk, options, state, result, kind, text, arguments, trace in rows.values_list(
            "pk", "options", "state", "result", "exception", "exception_message", "exception_args", "traceback"
        )
    ]
    size = JobGroup.objects.filter(pk=group_id).values_list("size", flat=True).first()
    return in_order(members, size or 0)


def _index_in(options: str) -> int:
    values = json.loads(options)
    return -1 if "chain" in values else int(values.get("index", -1))


def in_order(members: Sequence[Member], size: int) -> list[Any]:
    """The results of the members of a group that has ended, by their place. Raises ChordError, HeaderRunsAgain."""
    for each in members:
        if each.state in FAILED and each.failure is not None:
            error = ChordError(f"Dependency {each.id} raised {call_of(each.failure)}")
            if each.failure.traceback:  # who looks at the body wants to know where its header failed
                error.add_note(each.failure.traceback)
            raise error
    found = {each.index: each for each in members if each.index >= 0 and each.state in states.FINISHED}
    if len(found) < size:
        unfinished = sum(each.state not in states.FINISHED for each in members)
        if unfinished:
            raise HeaderRunsAgain(f"{unfinished} of the header's jobs run once more; the body waits for them.")
        raise ChordError(f"{size - len(found)} of the header's {size} results are gone.")
    return [encoding.decode(each.result) if each.result else None for _index, each in sorted(found.items())]


def failed_job(job_id: str) -> tuple[Request, BaseException, str]:
    """What an error callback of the newer style is called with. Raises ChordError if the job's row is gone."""
    row = Job.objects.filter(pk=job_id).first()
    if row is None:
        raise ChordError(f"The job {job_id} that failed is gone.")
    args, kwargs = row.arguments()
    message = Message(
        id=row.pk, task=row.task, root_id=row.root_id, parent_id=row.parent_id, group_id=row.group_id,
        retries=row.retries, queue=row.queue, priority=row.priority, options=row.options,
    )  # fmt: skip
    request = request_of(message, id=visible_id(message, options_of(message)), args=args, kwargs=kwargs)
    return request, exception_of(row), row.traceback or ""


class Stored:
    """What is stored of a workflow, for the jobs in it."""

    header_results = staticmethod(header_results)
    failed_job = staticmethod(failed_job)
