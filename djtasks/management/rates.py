"""What `manage.py djtasks rate` says of limits, and changes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from djtasks import control, restraint
from djtasks.brokers import get_broker
from djtasks.management.tables import time_and_age

CODE: Final = "code"  # the word for: as the code says
HEAD: Final = ("task", "rate", "in the code", "at a time", "waiting", "running", "last slot")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", nargs="?", help="Without it: the limits of all tasks.")
    parser.add_argument(
        "rate",
        metavar="RATE",
        nargs="?",
        help="Such as 10/s, 10/m, 10/h; 'none' for no limit, 'code' for what the code says.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def change(task: str, rate: str) -> tuple[str, dict[str, Any]]:
    """Set the rate. Returns what to tell, to people and to programs. Raises ValueError."""
    chosen = None if rate.lower() == CODE else rate
    control.set_rate(task, chosen)
    told = "what the code says" if chosen is None else chosen
    return f"The rate of {task} is {told}. Workers heed it within seconds.", {"task": task, "rate": chosen}


def listed(task: str | None) -> list[restraint.Standing]:
    """The limits of one task and its keys, or of all."""
    found = restraint.standings(get_broker())
    return [each for each in found if task is None or restraint.task_of(each.key) == task]


def as_json(found: list[restraint.Standing]) -> list[Mapping[str, Any]]:
    return [
        {**asdict(each), "last_slot": each.last_slot.isoformat() if each.last_slot else None, "in_force": each.in_force}
        for each in found
    ]


def as_cells(each: restraint.Standing) -> list[object]:
    return [
        each.key,
        each.in_force or "-",
        each.declared or "-",
        "-" if each.places is None else str(each.places),
        each.waiting,
        each.running,
        time_and_age(each.last_slot),
    ]
