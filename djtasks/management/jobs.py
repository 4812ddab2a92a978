"""What `manage.py djtasks` says of single jobs, and does with those that have ended."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from djtasks import control, states
from djtasks.conf import LONGEST_TIME
from djtasks.management.queues import count_above_0
from djtasks.models import Job
from djtasks.models.job import JobQuerySet
from djtasks.why import why

Given = Mapping[str, Any]  # what argparse gives
Answer = dict[str, Any]  # for programs

_AGO: Final = re.compile(r"(\d{1,6})\s*(s|min|m|h|d)")
_UNITS: Final = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days"}


def add_why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="Of a job, as delay() returns it.")


def tell_why(given: Given) -> tuple[str, Answer]:
    reasons = why(given["id"])
    return "\n".join(each.text for each in reasons), {"id": given["id"], "reasons": [asdict(each) for each in reasons]}


def add_retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="Finished jobs; or leave them out, and say which by:")
    parser.add_argument(
        "--state", type=str.upper, choices=states.FINISHED, help="How they ended. Default, with other filters: FAILURE."
    )
    parser.add_argument("--task", metavar="NAME", help="Only jobs of this task.")
    parser.add_argument("--queue", metavar="NAME", help="Only jobs of this queue.")
    parser.add_argument("--exception", metavar="NAME", help="Only those that ended with it: ValueError, or a.b.Error.")
    parser.add_argument(
        "--since", type=_moment, metavar="WHEN", help="Ended since: 2h, 30min, 7d ago, or a time as 2026-01-31T12:00."
    )
    parser.add_argument("--until", type=_moment, metavar="WHEN", help="Ended until then.")
    parser.add_argument("--limit", type=count_above_0, metavar="N", help="So many at most, the oldest first.")
    parser.add_argument("--dry-run", action="store_true", help="Only say how many there are.")
    parser.add_argument("--no-input", "--noinput", action="store_true", help="Do not ask.")


def retry(given: Given) -> tuple[str, Answer]:
    """Retry by id, or what the filters match once somebody has said yes to their number."""
    is_filtered = any(given[name] is not None for name in ("state", "task", "queue", "exception", "since", "until"))
    if is_filtered == bool(given["ids"]):
        raise CommandError("Name jobs by their ids, or say which by filters, such as --state FAILURE --since 2h.")
    jobs = _chosen(given) if is_filtered else Job.objects.finished().filter(pk__in=given["ids"])
    count = jobs.count() if given["limit"] is None else jobs.order_by()[: given["limit"]].count()
    if given["dry_run"]:
        return f"{count} job(s) would run once more.", {"matching": count}
    if is_filtered and count and not given["no_input"]:
        _confirm(count, given["json"])
    left = 0 if is_filtered else len(set(given["ids"])) - jobs.count()
    retried = sum(control.retry_all(jobs, given["limit"])) if is_filtered else control.retry(given["ids"])
    also = f" {left} id(s) are of no job that has ended and is kept." if left else ""
    return f"{retried} job(s) will run once more.{also}", {"matching": count, "retried": retried}


def _chosen(given: Given) -> JobQuerySet:
    jobs = Job.objects.filter(state=given["state"] or states.FAILURE).exclude(task="")
    for name in ("task", "queue"):
        if given[name] is not None:
            jobs = jobs.filter(**{name: given[name]})
    if given["exception"] is not None:
        dotted = f".{given['exception']}"
        jobs = jobs.filter(exception=given["exception"]) | jobs.filter(exception__endswith=dotted)
    if given["since"] is not None:
        jobs = jobs.filter(finished_at__gte=given["since"])
    if given["until"] is not None:
        jobs = jobs.filter(finished_at__lte=given["until"])
    return jobs


def _confirm(count: int, is_json: bool) -> None:
    if is_json or sys.stdin is None or not sys.stdin.isatty():
        raise CommandError(f"There is nobody to ask whether to run {count} job(s) once more: add --no-input.")
    oldest = f"Run {count} job(s) once more, under the same ids and with the same arguments? [y/N] "
    if input(oldest).strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing was retried.")


def seconds(text: str) -> float:
    """What argparse makes of a number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= LONGEST_TIME:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no number of seconds.")
    return number


def _moment(text: str) -> datetime:
    """'2h' ago, or a time; without a zone in the site's."""
    if match := _AGO.fullmatch(text.strip()):
        return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        moment = parse_datetime(text.strip())
        if moment is None and (day := parse_date(text.strip())) is not None:
            moment = datetime(day.year, day.month, day.day)
    except ValueError:
        moment = None
    if moment is None:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is neither a time like 2026-01-31T12:00 nor an age like 2h.")
    return moment if moment.tzinfo else timezone.make_aware(moment)


Action = Callable[[Given], tuple[str, Answer]]
ACTIONS: Final[Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Action, str]]] = {
    "why": (add_why, tell_why, "Why a job does not run; or that it runs, or how it has ended."),
    "retry": (add_retry, retry, "Run finished jobs once more, by id or all that match."),
}
