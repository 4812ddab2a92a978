"""What `manage.py djtasks` sends, says of one job's end, and cancels."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final

from django.core.management.base import CommandError
from django.utils.dateparse import parse_datetime

from djtasks import control, registry, send_task
from djtasks.exceptions import TimeoutError as NotReady
from djtasks.management.jobs import Action, Answer, Given, seconds
from djtasks.management.workers import registered
from djtasks.models import Job
from djtasks.result import AsyncResult
from djtasks.why import why

LONGEST_WAIT: Final = 60.0  # seconds of --wait without a number


def add_call(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="Of the task, as in shop.tasks.report; any that a worker knows.")
    parser.add_argument(
        "-a", "--args", dest="job_args", default="[]", metavar="JSON", help="A list, such as '[1, \"two\"]'."
    )
    parser.add_argument(
        "-k", "--kwargs", dest="job_kwargs", default="{}", metavar="JSON", help="An object, such as '{\"year\": 2026}'."
    )
    parser.add_argument("--eta", type=_moment, metavar="ISO", help="Not before that time: 2026-01-31T12:00:00+01:00.")
    parser.add_argument("--countdown", type=seconds, metavar="SECONDS", help="Not before so many seconds have passed.")
    parser.add_argument("--expires", type=seconds, metavar="SECONDS", help="Not after so many seconds.")
    parser.add_argument("--queue", help="Instead of the one of its route or of the task.")
    parser.add_argument("--priority", type=int, help="-100 to 100; the higher one goes first.")
    parser.add_argument(
        "--wait", nargs="?", type=seconds, const=LONGEST_WAIT, metavar="SECONDS",
        help=f"Wait for its end, {LONGEST_WAIT:g} seconds at most by default, and print that; "
        "exit code 1 if it has not ended well.",
    )  # fmt: skip
    parser.add_argument("stray", nargs="*", help=argparse.SUPPRESS)


def call(given: Given) -> tuple[str, Answer]:
    """Send a job. With --wait the sentence is its result. Raises ValueError."""
    if given["stray"]:
        meant = json.dumps([_value(each) for each in given["stray"]])
        raise ValueError(f"Arguments are given as JSON: djtasks call {given['name']} -a {shlex.quote(meant)}")
    args, kwargs = _json(given["job_args"], list, "-a"), _json(given["job_kwargs"], dict, "-k")
    names = ("eta", "countdown", "expires", "queue", "priority")
    options = {name: given[name] for name in names if given[name] is not None}
    task = registry.find(given["name"])
    if task is None:
        _refuse_slip(given["name"])
    try:
        # By name too where the task is known: then its arguments are looked at here.
        sent = (
            send_task(given["name"], args, kwargs, **options)
            if task is None
            else task.apply_async(args, kwargs, **options)
        )
    except TypeError as error:
        raise ValueError(str(error)) from error
    if given["wait"] is None:
        return str(sent.id), {"id": sent.id}
    try:
        sent.get(timeout=given["wait"], propagate=False)
    except NotReady:
        raise CommandError(f"{sent.id} has not ended within {given['wait']:g} seconds: djtasks why {sent.id}") from None
    return _told(sent)


def _refuse_slip(name: str) -> None:
    """A task that only workers know may be called, but hardly one that is all but named like another."""
    known = [str(each) for each, *_ in registered()[1]]
    close = get_close_matches(name, known, n=1, cutoff=0.85)
    if close and name not in known:
        raise ValueError(
            f"No task {name!r} is known here, nor to a worker that lives. Did you mean {close[0]!r}? "
            "If not: djtasks.send_task() in a shell sends it all the same."
        )


def add_result(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="Of a job, as delay() returns it.")


def result(given: Given) -> tuple[str, Answer]:
    """What a job has come to, or what it says of itself so far. Raises ValueError for one of which nobody knows."""
    handle: AsyncResult[Any] = AsyncResult(given["id"])
    if handle.row is None and (reason := why(given["id"])[0]).kind == "unknown":
        raise ValueError(reason.text)
    return _told(handle)


def add_revoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="Of jobs, as delay() returns them.")
    parser.add_argument("--terminate", action="store_true", help="End them if they run.")
    parser.add_argument("--signal", default="SIGTERM", help="What they are ended by. Default: SIGTERM.")


def revoke(given: Given) -> tuple[str, Answer]:
    """Cancel jobs. Raises ValueError for a signal that there is not."""
    ids = list(dict.fromkeys(given["ids"]))
    rows = dict(Job.objects.finished().filter(pk__in=ids).values_list("pk", "task"))
    ended = {pk for pk, task in rows.items() if task}
    # A row without a task keeps in mind that such an id was revoked, of which nobody knew.
    unknown = [each for each in ids if each not in ended and (each in rows or why(each)[0].kind == "unknown")]
    control.revoke(ids, terminate=given["terminate"], signal=given["signal"])
    asked = [each for each in ids if each not in ended and each not in unknown]
    also = f" {len(ended)} had ended before." if ended else ""
    also += f" Nobody knows {', '.join(unknown)}: a wrong id, or it ended and was pruned." if unknown else ""
    answer = {"revoked": asked, "ended_before": sorted(ended), "unknown": unknown}
    return f"{len(asked)} job(s) will not run any more.{also}", answer


def _told(handle: AsyncResult[Any]) -> tuple[str, Answer]:
    row = handle.row
    failed = isinstance(handle.result, BaseException)
    value = handle.result if handle.successful() else None
    progress = row.progress() if row and not handle.ready() else None
    answer = {
        "id": handle.id,
        "task": handle.name,
        "state": handle.state,
        "result": _plain(value),
        "progress": _plain(progress),
        "error": repr(handle.result) if failed else None,
        "finished_at": row.finished_at.isoformat() if row and row.finished_at else None,
    }
    if handle.ready():
        text = handle.traceback or repr(handle.result) if failed else repr(value)
    else:
        text = why(handle.id)[0].text if progress is None else repr(progress)
    return f"{handle.state}: {text}", answer


def _plain(value: Any) -> Any:
    """As JSON has it; in words where that has none."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)
    return value


def _value(text: str) -> Any:
    """As somebody means it who writes a value as a shell takes it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _json(text: str, kind: type, option: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{option} {text[:100]!r} is no JSON: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{option} must be a JSON {'list' if kind is list else 'object'}, not {text[:100]!r}.")
    return value


def _moment(text: str) -> datetime:
    try:
        moment = parse_datetime(text.strip())
    except ValueError:
        moment = None
    if moment is None:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no time like 2026-01-31T12:00:00+01:00.")
    return moment


ACTIONS: Final[Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Action, str]]] = {
    "call": (add_call, call, "Send one job of a task, and print its id."),
    "result": (
        add_result,
        result,
        "What a job has come to: its result or its error; until then how far it is.",
    ),
    "revoke": (add_revoke, revoke, "Cancel jobs; with --terminate, those that run too."),
}
