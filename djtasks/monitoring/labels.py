"""What stands in the labels of metrics: names of which there are not too many, whatever anybody sends."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from djtasks import registry

MOST_QUEUES: Final = 100  # that have series of their own
OTHER: Final = "(other)"  # for all further queues
UNKNOWN: Final = "(unknown)"  # for all tasks that are not declared here


def task_label(name: str) -> str:
    """The label of a task: its name, if it is declared here."""
    return name if registry.find(name) is not None else UNKNOWN


def queue_labels(names: Iterable[str], known: Collection[str] = ()) -> dict[str, str]:
    """The label of each queue: its name; of those beyond MOST_QUEUES, with the `known` ones first, OTHER for all."""
    in_order = sorted(set(names), key=lambda name: (name not in known, name))
    return {name: name if place < MOST_QUEUES else OTHER for place, name in enumerate(in_order)}
