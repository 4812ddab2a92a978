"""What `manage.py djtasks drain` says and does."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from djtasks.draining import AHEAD, PATIENCE, Left, Look, disable_schedules, drain
from djtasks.management.tables import printable, time_and_age

Write = Callable[[str], object]

DESCRIPTION: Final = f"""
Waits until nothing runs and nothing waits that will run soon; before maintenance, a change of BROKER_URL, or
`djtasks destroy`. Stop your site first, or whatever else sends jobs: only the schedules can be held from here.

schedules       are disabled, and stay so; the command to enable them again is printed. --keep-schedules leaves them.
ready, running  are waited for. The workers go on as they are: they do the work. No worker is stopped.
scheduled       (eta, countdown, retries) are waited for if due within --ahead seconds ({AHEAD:g}) of the start; later
                ones stay, and are named at the end. --scheduled waits for all of them.
limits          what waits for a rate or a place is waited for.
paused queues   stay paused. If for {PATIENCE:g} s all that is left stands in queues that are paused, or that no live
                worker serves, nothing will change: the command ends.
outbox          what waits for Redis to be reachable is waited for.

exit code       0: empty. 1: not empty, after --timeout or since nobody runs what is left. Ctrl-C is safe at any time.
"""
NEVER: Final = "Nobody would run what is left: resume the queues, or start a worker that serves them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--queue", "-Q", action="append", default=[], dest="queues", metavar="NAME",
        help="Only this queue, and the schedules that send to it; several times for several. Default: all.",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=_seconds, metavar="S", help="Give up after so many seconds; 0: look once. Default: never."
    )
    parser.add_argument(
        "--ahead", type=_seconds, default=AHEAD, metavar="S", help=f"Wait for what is due so soon. Default: {AHEAD:g}."
    )
    parser.add_argument("--scheduled", action="store_true", help="Wait for all that is scheduled, whenever it is due.")
    parser.add_argument("--keep-schedules", action="store_true", help="Let the schedules go on sending.")
    parser.add_argument("--json", action="store_true", help="Print a JSON object at the end.")


def run(given: Mapping[str, Any], tell: Write) -> tuple[Look, list[str]]:
    """Drain, telling how far it is. Returns the last look, and the schedules that were disabled."""
    held = [] if given["keep_schedules"] else disable_schedules(given["queues"])
    if held:
        tell(f"{len(held)} schedule(s) disabled. To enable them again:\n  {_command(held)}")
    told, look = "", Look((), 0)
    for look in drain(given["queues"], ahead=None if given["scheduled"] else given["ahead"], timeout=given["timeout"]):
        if look.ending is None and (line := _progress(look)) != told:
            tell(line)
            told = line
    return look, held


def as_json(look: Look, held: list[str]) -> dict[str, Any]:
    """For programs."""
    queues = [{**asdict(each), "due_at": each.due_at.isoformat() if each.due_at else None} for each in look.queues]
    return {"ending": look.ending, "queues": queues, "unsent": look.unsent, "disabled_schedules": held}


def conclusion(look: Look) -> list[str]:
    """How it ended, for people."""
    later = [
        f"{each.scheduled} job(s) in {printable(each.queue)} wait for their time, the first for "
        f"{time_and_age(each.due_at)}."
        for each in look.queues
        if each.scheduled and each.is_drained
    ]
    if look.ending == "drained":
        return ["Nothing runs, and nothing is ready.", *later]
    why = NEVER if look.ending == "stuck" else "The time is over."
    return [f"Not empty: {_progress(look)}. {why}", *later]


def _progress(look: Look) -> str:
    parts = [_of(each) for each in look.queues if not each.is_drained]
    if look.unsent:
        parts.append(f"{look.unsent} row(s) of the outbox wait for the broker")
    return "; ".join(parts) or "nothing is left, looking once more"


def _of(left: Left) -> str:
    counts = [(left.ready, "ready"), (left.running, "running"), (left.scheduled if left.is_soon else 0, "scheduled")]
    text = ", ".join(f"{count} {word}" for count, word in counts if count)
    remark = {"paused": " (paused)", "unserved": " (no live worker serves it)"}.get(left.obstacle, "")
    return f"{printable(left.queue)}: {text}{remark}"


def _command(held: list[str]) -> str:
    return f"manage.py djtasks schedule enable {shlex.join(held)}"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 10**9:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no number of seconds.")
    return seconds
