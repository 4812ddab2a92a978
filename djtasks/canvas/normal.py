"""The normal form of a canvas, which `plan` makes jobs of.

In normal form no chain stands in a chain and no group in a group, a group is the last of its chain (what follows it
has become the body of a chord), each option stands at the single tasks, and each member of a group ends in one job.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from djtasks import registry
from djtasks.canvas.signatures import Signature, maybe_signature
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured
from djtasks.message import checked_id
from djtasks.packing import as_list

if TYPE_CHECKING:
    from djtasks.canvas.maps import chunks
    from djtasks.canvas.primitives import chain, chord, group

Tree = TypeVar("Tree", bound=Mapping[str, Any])

ACCUMULATE: Final = "djtasks.accumulate"  # the task that gives the list of a group's results
TIMING: Final = frozenset({"countdown", "eta", "expires"})  # options of the first jobs alone
OWN: Final = frozenset({"task_id", "header_id", "link", "link_error", "root_id", "parent_id"})  # those of the whole
UNLOCK: Final = frozenset({"interval", "max_retries"})  # how Celery polls for a header's end, which nobody does here
COMPOSED: Final = frozenset({"chain", "group", "chord"})


def normal(sig: Signature) -> Signature:
    """A copy in normal form."""
    made_normal = _NORMAL.get(sig.subtask_type or "")
    return made_normal(sig) if made_normal else sig.clone()


def single(sig: Signature) -> Signature:
    """The normal form of `sig`, made to end in one job. Raises ImproperlyConfigured for a chain without steps."""
    tree = _single(normal(sig))
    if is_empty(tree):
        raise ImproperlyConfigured("An empty chain has no result, so it cannot stand where one is wanted.")
    return tree


def frozen(tree: Signature) -> Any:
    """Give the jobs of a normal form that is about to be sent their ids; those that a caller has given are marked.

    Returns the handle on its result. Raises ValueError for ids that are none, or stand twice: the second job would
    never run.
    """
    ending = end(tree)
    if tree.subtask_type in COMPOSED and ending.subtask_type not in COMPOSED and _is_ignored(ending):
        ending.options["awaited"] = True  # so that its row stays, and who waits for the whole sees its end
    given = set()
    for task in single_tasks(tree):
        if task.options.get("task_id") is None:
            continue
        task.id = checked_id(task.options["task_id"])
        task.options["own_id"] = True
        if task.id in given:
            raise ValueError(f"Two jobs of this canvas have the id {task.id!r}; give each its own, or none.")
        given.add(task.id)
    return tree.freeze()


def unchained(sig: Signature) -> list[Signature]:
    """A chain as copies of its steps; anything else as a copy of itself."""
    if sig.subtask_type != "chain":
        return [sig.clone()]
    steps: list[Signature] = [step.clone() for step in sig.kwargs["tasks"]]
    if steps and sig.args:
        steps[0] = steps[0].clone(sig.args)
    for callback in as_list(sig.options.get("link")) if steps else ():
        steps[-1].link(callback)
    for errback in as_list(sig.options.get("link_error")):
        for step in steps:
            step.link_error(errback)
    return steps


def is_empty(sig: Signature) -> bool:
    """Whether it has no tasks, at any depth."""
    return sig.subtask_type in ("chain", "group") and all(map(is_empty, sig.kwargs["tasks"]))


# What stands where in a normal form


def end(tree: Signature) -> Signature:
    """The single task, or the group, with which it ends."""
    match tree.subtask_type:
        case "chain" if tree.kwargs["tasks"]:
            return end(tree.kwargs["tasks"][-1])
        case "chord":
            return end(tree.kwargs["body"])
        case _:
            return tree


def entries(tree: Signature) -> list[Signature]:
    """The single tasks that come first."""
    match tree.subtask_type:
        case "chain":
            return entries(tree.kwargs["tasks"][0])
        case "group":
            return [found for task in tree.kwargs["tasks"] for found in entries(task)]
        case "chord":
            header, body = tree.kwargs["header"], tree.kwargs["body"]
            return [found for task in header for found in entries(task)] or entries(body)
        case _:
            return [tree]


def single_tasks(tree: Tree) -> list[Tree]:
    """All its single tasks; `tree` may be a dict that came from JSON."""
    kwargs = tree.get("kwargs") or {}
    match tree.get("subtask_type"):
        case "chain" | "group":
            parts = kwargs.get("tasks") or ()
        case "chord":
            parts = (*(kwargs.get("header") or ()), kwargs["body"])
        case _:
            return [tree]
    return [found for part in parts for found in single_tasks(part)]


# How each kind comes into it


def _chain(sig: chain) -> Signature:
    rest: list[Signature] = []
    for step in map(normal, reversed(unchained(sig))):
        if not is_empty(step):
            rest = _before(step, rest)
    if not rest:
        return _made("chain", tasks=[])
    if "task_id" in sig.options:
        end(rest[-1]).options.setdefault("task_id", sig.options["task_id"])
    return _spread(_chained(rest), sig.options)


def _group(sig: group) -> Signature:
    flat = _flat(sig.tasks)
    if len(flat) == 1 and end(flat[0]).subtask_type == "group":
        return _spread(flat[0], sig.options)  # as in Celery, the result is that of the group at its end
    tree = _of_members(flat)
    if "task_id" in sig.options:
        tree.options["task_id"] = sig.options["task_id"]
    return _spread(_with_args(tree, sig), sig.options)


def _chord(sig: chord) -> Signature:
    options = {name: value for name, value in sig.options.items() if name not in UNLOCK}
    header = _of_members(_flat(sig.tasks))
    body = None if sig.body is None else normal(sig.body)
    if body is None or is_empty(body):
        if "header_id" in options:
            header.options["task_id"] = options["header_id"]
        return _spread(_with_args(_linked(header, options), sig), options)
    _linked(body, options)  # links that were given before there was a body
    tree = _made("chord", header=header.kwargs["tasks"], body=body)
    tree.options.update({name: options[name] for name in ("task_id", "header_id") if name in options})
    if "task_id" in options:
        end(body).options.setdefault("task_id", options["task_id"])
    return _spread(_with_args(tree, sig), options)


def _chunks(sig: chunks) -> Signature:
    return normal(sig.group())


_NORMAL: Final[dict[str, Callable[[Any], Signature]]] = {
    "chain": _chain,
    "group": _group,
    "chord": _chord,
    "chunks": _chunks,
}


def _made(kind: str, **parts: Any) -> Signature:
    """A chain, group or chord of these very parts."""
    return Signature.TYPES[kind].of_parts(kind, parts)


def _before(step: Signature, rest: list[Signature]) -> list[Signature]:
    """The steps of a chain, with `step` before `rest`; both are in normal form."""
    match step.subtask_type:
        case "chain":
            *first, last = step.kwargs["tasks"]
            return [*first, *_before(last, rest)]
        case "group" if rest:
            tree = _made("chord", header=step.kwargs["tasks"], body=_chained(rest))
            if "task_id" in step.options:
                tree.options["header_id"] = step.options["task_id"]
            return [tree]
        case "chord" if rest:
            step.kwargs["body"] = _chained(_before(step.kwargs["body"], rest))
            step.options.pop("task_id", None)
            return [step]
        case _:
            return [step, *rest]


def _chained(steps: Sequence[Signature]) -> Signature:
    """Steps as one signature: a chain, if they are several."""
    return steps[0] if len(steps) == 1 else _made("chain", tasks=list(steps))


def _flat(tasks: Iterable[Signature]) -> list[Signature]:
    """The members of a group in normal form, groups among them unrolled, what is empty left out."""
    return [
        each
        for task in map(normal, tasks)
        for each in (task.kwargs["tasks"] if task.subtask_type == "group" else [task])
        if not is_empty(each)
    ]


def _of_members(flat: Iterable[Signature]) -> Signature:
    """The group of what `_flat` gives."""
    return _made("group", tasks=[_single(each) for each in flat])


def _single(tree: Signature) -> Signature:
    """`tree` so that it ends in one job: a group at its end gives the list of its results."""
    ending = end(tree)
    if ending.subtask_type != "group":
        return tree
    # The id is that of the group in another form: what is frozen gives the same jobs each time that it is sent.
    own = ending.options.get("task_id")
    options = {} if own is None else {"task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, str(own)))}
    return _chained(_before(tree, [Signature(ACCUMULATE, options=options)]))


def _spread(tree: Signature, options: Mapping[str, Any]) -> Signature:
    """`tree` with the options of a whole at its single tasks."""
    timing = {name: value for name, value in options.items() if name in TIMING}
    for task in entries(tree) if timing else ():
        task.options.update(timing)
    rest = {name: value for name, value in options.items() if name not in TIMING | OWN}
    for task in single_tasks(tree) if rest else ():
        task["options"] = {**rest, **task.options}
    return tree


def _linked(tree: Signature, options: Mapping[str, Any]) -> Signature:
    """`tree`, a normal form, with the links of a whole at those of its single tasks that they are for."""
    for callback in as_list(options.get("link")):
        _link(tree, callback)
    for errback in as_list(options.get("link_error")):
        for task in _fallible(tree):
            task.link_error(errback)
    return tree


def _link(tree: Signature, callback: Any) -> None:
    """Send `callback` when `tree` has succeeded; of a group, without arguments, when its first member has."""
    last = end(tree)
    if last.subtask_type != "group":
        last.link(callback)
    elif last.kwargs["tasks"]:
        _link(last.kwargs["tasks"][0], maybe_signature(callback).clone().set(immutable=True))


def _fallible(tree: Signature) -> list[Signature]:
    """The single tasks that call an error callback of the whole: of a chord the body's, unless settings say more."""
    kwargs = tree.kwargs
    match tree.subtask_type:
        case "chain" | "group":
            parts = kwargs["tasks"]
        case "chord" if settings.TASK_ALLOW_ERROR_CB_ON_CHORD_HEADER:
            parts = [*kwargs["header"], kwargs["body"]]
        case "chord":
            parts = [kwargs["body"]]
        case _:
            return [tree]
    return [found for part in parts for found in _fallible(part)]


def _with_args(tree: Signature, given: Signature) -> Signature:
    for task in entries(tree) if given.args else ():
        if not task.immutable:
            task.args = (*given.args, *task.args)
    return tree


def _is_ignored(task: Signature) -> bool:
    """Whether nobody keeps its result, as far as this process knows."""
    known = registry.find(task.task)
    return bool(task.options.get("ignore_result", known is None or known.ignores_result))
