"""The tasks that canvas itself needs. Every process that knows tasks knows these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from djtasks.canvas import signature
from djtasks.canvas.normal import ACCUMULATE
from djtasks.declare import shared_task


@shared_task(name=ACCUMULATE)
def accumulate(results: list[Any]) -> list[Any]:
    """The list of a group's results, where one job's result is wanted."""
    return results


@shared_task(name="djtasks.map")
def call_map(task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
    """`[task(x) for x in it]`."""
    sig = signature(task)
    return [sig.clone()(each) for each in it]


@shared_task(name="djtasks.starmap")
def call_starmap(task: Mapping[str, Any], it: Iterable[Sequence[Any]]) -> list[Any]:
    """`[task(*x) for x in it]`."""
    sig = signature(task)
    return [sig.clone()(*each) for each in it]
