"""A chord whose header a slow generator gives: its members are sent as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from djtasks import plan
from djtasks.canvas.composed import send
from djtasks.canvas.normal import frozen, normal
from djtasks.canvas.signatures import Signature, part
from djtasks.message import new_id
from djtasks.result import line_of

if TYPE_CHECKING:
    from djtasks.canvas.primitives import chord

SLOW: Final = 0.5  # seconds of waiting for a header's generator, after which what it gave is sent


def stream(sig: chord, rest: Iterator[Any], given: plan.Given, options: Mapping[str, Any]) -> Any:
    """Send a chord with the members that there are, then the `rest` of them.

    Returns the handle on its result. Raises as `Task.apply_async`, and what the generator raises: the body fails then.
    """
    tree = normal(sig.with_options(options))
    group_id = tree.options.setdefault("header_id", new_id())
    result = send(tree, given.args, given.kwargs, using=options.get("using"), open_group=group_id)
    header = line_of(result)[0]
    place = replace(plan.place_of_caller(), root_id=plan.first_id(tree))
    is_all = False
    try:
        while not is_all:
            portion, is_all = taken(rest)
            if not portion:
                break
            sig.tasks.extend(portion)
            more = _members(sig, portion, options)
            for task in more:
                header.add(frozen(task))
            plan.send_more(group_id, more, len(header) - len(more), place, given)
    except BaseException:
        plan.abandon(group_id)
        raise
    plan.close(group_id)
    return result


def _members(sig: chord, portion: Sequence[Signature], options: Mapping[str, Any]) -> list[Signature]:
    """Members in normal form, with all that the whole gives to its header, as those that were sent first."""
    part = type(sig)(portion, sig.body)
    part.update({name: sig[name] for name in ("args", "options", "immutable")})
    return normal(part.with_options(options)).kwargs["header"]  # type: ignore[no-any-return]


def taken(tasks: Iterator[Any]) -> tuple[list[Signature], bool]:
    """What an iterator gives within `SLOW` seconds, and whether that is all: always, of a quick one."""
    found: list[Signature] = []
    waited = 0.0
    while waited <= SLOW:
        asked = time.monotonic()
        try:
            found.append(part(next(tasks)))
        except StopIteration:
            return found, True
        waited += time.monotonic() - asked
    return found, False
