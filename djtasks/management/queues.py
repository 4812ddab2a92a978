"""What `manage.py djtasks` says of queues, and does with them."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import CommandError

from djtasks import control
from djtasks.queues import Standing, standing

Given = Mapping[str, Any]  # what argparse gives
Answer = dict[str, Any]  # for programs

Column = tuple[str, Callable[[Standing], object]]
COLUMNS: Final[Sequence[Column]] = (
    ("queue", lambda queue: queue.name),
    ("ready", lambda queue: queue.size.ready),
    ("scheduled", lambda queue: queue.size.scheduled),
    ("running", lambda queue: queue.size.running),
    ("paused", lambda queue: "yes" if queue.size.paused else "no"),
    ("workers", lambda queue: queue.workers),
)
# Only where a queue has something there.
FURTHER_COLUMNS: Final[Sequence[Column]] = (
    ("priority", lambda queue: "" if queue.default_priority is None else str(queue.default_priority)),
    ("aging", lambda queue: "" if queue.aging is None else f"{queue.aging:g} s"),
    ("rate", lambda queue: queue.rate_limit),
    ("at a time", lambda queue: "" if queue.max_concurrency is None else str(queue.max_concurrency)),
    ("notes", lambda queue: " ".join(queue.notes())),
)


def table() -> tuple[list[str], list[list[object]]]:
    """The head and the lines of the table of all queues."""
    queues = standing()
    columns = [*COLUMNS, *(each for each in FURTHER_COLUMNS if any(map(each[1], queues)))]
    return [name for name, _ in columns], [[read(each) for _, read in columns] for each in queues]


def as_json() -> list[dict[str, Any]]:
    """All queues for programs."""
    return [
        {
            "queue": each.name,
            **asdict(each.size),
            "workers": each.workers,
            "default_priority": each.default_priority,
            "aging": each.aging,
            "rate_limit": each.rate_limit or None,
            "max_concurrency": each.max_concurrency,
            "is_unserved": each.is_unserved,
            "has_senders": each.has_senders,
        }
        for each in standing()
    ]


def pause(given: Given) -> tuple[str, Answer]:
    control.pause(given["queue"], _me())
    return f"{given['queue']} is paused. What runs goes on.", {"queue": given["queue"], "paused": True}


def _me() -> str:
    """Who has called the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}" if hasattr(os, "getuid") else ""


def resume(given: Given) -> tuple[str, Answer]:
    control.resume(given["queue"])
    return f"{given['queue']} is not paused any more.", {"queue": given["queue"], "paused": False}


def add_purge(parser: argparse.ArgumentParser) -> None:
    _add_queue(parser)
    parser.add_argument("--no-input", "--noinput", action="store_true", help="Do not ask.")


def purge(given: Given) -> tuple[str, Answer]:
    queue = given["queue"]
    if not given["no_input"]:
        _confirm(queue, given["json"])
    purged = control.purge(queue)
    return f"{purged} job(s) were removed from {queue}.", {"queue": queue, "purged": purged}


def _confirm(queue: str, is_json: bool) -> None:
    size = next((each.size for each in standing() if each.name == queue), None)
    waiting = size.ready + size.scheduled if size else 0
    question = f"Remove {waiting} job(s) that wait in {queue!r}, as if they had never been sent? [y/N] "
    if is_json or sys.stdin is None or not sys.stdin.isatty():
        raise CommandError("There is nobody to ask whether to remove what waits: add --no-input.")
    if input(question).strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing was removed.")


def add_move(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="FROM")
    parser.add_argument("target", metavar="TO")
    parser.add_argument("--task", metavar="NAME", help="Only jobs of this task.")
    parser.add_argument("--limit", type=count_above_0, metavar="N", help="So many at most, what runs first at first.")


def move(given: Given) -> tuple[str, Answer]:
    source, target = given["queue"], given["target"]
    moved = control.move(source, target, task=given["task"], limit=given["limit"])
    return f"{moved} job(s) were moved from {source} to {target}.", {"from": source, "to": target, "moved": moved}


OPTIONS: Final[Mapping[str, Callable[[str], object]]] = {
    "default_priority": int,
    "aging": float,
    "rate_limit": str,
    "max_concurrency": int,
}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_set(parser: argparse.ArgumentParser) -> None:
    _add_queue(parser)
    parser.add_argument(
        "--default-priority", metavar="N", help="-100 to 100, of jobs for which nobody chose one; 'none' for none."
    )
    parser.add_argument(
        "--aging", metavar="SECONDS", help="So long a wait counts as one priority higher; 'none' for no aging."
    )
    parser.add_argument(
        "--rate-limit", metavar="RATE", help="So often its jobs begin, such as 10/m; 'none' for no limit."
    )
    parser.add_argument(
        "--max-concurrency", metavar="N", help="So many of its jobs run at a time; 'none' for any number."
    )


def set_queue(given: Given) -> tuple[str, Answer]:
    options = {name: _value(given[name], kind, name) for name, kind in OPTIONS.items() if given[name] is not None}
    if not options:
        raise CommandError(f"Say what to set: {', '.join(map(_option, OPTIONS))}.")
    control.set_queue(given["queue"], **options)
    told = ", ".join(f"{name} {_told(value)}" for name, value in options.items())
    return f"{given['queue']} is set: {told}.", {"queue": given["queue"], **options}


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _add_queue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="QUEUE")


def _value(text: str, kind: Callable[[str], object], name: str) -> object:
    try:
        return None if text.lower() == "none" else kind(text)
    except ValueError:
        raise CommandError(f"{_option(name)} takes a number, or none, not {text[:100]!r}.") from None


def count_above_0(text: str) -> int:
    """What argparse makes of a number of jobs."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no whole number above 0.")
    return number


Action = Callable[[Given], tuple[str, Answer]]
ACTIONS: Final[Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Action, str]]] = {
    "pause": (_add_queue, pause, "Give out nothing more from a queue; what runs goes on."),
    "resume": (_add_queue, resume, "End a pause."),
    "purge": (add_purge, purge, "Remove all that waits in a queue, as if it had never been sent."),
    "move": (add_move, move, "Move what waits in one queue to another."),
    "set": (add_set, set_queue, "Set a queue's default priority and limits, and how jobs age in it."),
}
