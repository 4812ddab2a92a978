"""What `manage.py djtasks preflight` says."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from djtasks.management.queues import count_above_0
from djtasks.management.tables import printable
from djtasks.preflight import Finding, Preflight

TELL_EVERY: Final = 2.0  # seconds
KINDS: Final = {
    "unknown_task": "is not registered any more",
    "arguments": "cannot be called with the arguments that wait for it",
    "unreadable": "has jobs that cannot be read",
    "later_unknown_task": "is not registered any more, and follows other jobs",
    "schedule_unknown_task": "is not registered any more, and schedules name it",
    "schedule_arguments": "cannot be called as schedules say",
    "schedule_unreadable": "is named by schedules whose arguments cannot be read",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=count_above_0, metavar="N", help="Look at so many jobs at most.")
    parser.add_argument("--json", action="store_true", help="Print a JSON object.")


def progress(write: Callable[[str], object]) -> Callable[[int], None]:
    """What hears how many jobs were looked at, and writes that now and then."""
    last = time.monotonic()

    def tell(jobs: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_EVERY:
            last = time.monotonic()
            write(f"{jobs} jobs looked at so far")

    return tell


def as_json(found: Preflight) -> dict[str, Any]:
    """For programs."""
    return {
        "fine": not found.findings,
        "jobs": found.jobs,
        "schedules": found.schedules,
        "partial": found.is_partial,
        "findings": [asdict(each) for each in found.findings],
    }


def lines(found: Preflight) -> list[str]:
    """For people."""
    more = ", and there are more (--limit)" if found.is_partial else ""
    seen = f"{found.jobs} job(s) that wait and {found.schedules} schedule(s) were looked at{more}."
    if not found.findings:
        return [f"{seen} The code here can run all of them."]
    return [
        seen,
        *(line for each in found.findings for line in _about(each)),
        "Keep these tasks and parameters until such jobs have run, or revoke the jobs. New parameters need defaults.",
    ]


def _about(finding: Finding) -> list[str]:
    task = printable(finding.task) or "(unknown)"
    samples = ", ".join(map(printable, finding.samples))
    rest = ", ..." if finding.count > len(finding.samples) else ""
    return [
        f"{task} {KINDS[finding.kind]}: {finding.count}",
        f"    {printable(finding.problem)}",
        f"    {samples}{rest}",
    ]
