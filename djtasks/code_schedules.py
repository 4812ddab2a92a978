"""Schedules that stand in the code, BEAT_SCHEDULE and `@shared_task(schedule=…)`, and how they become rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db.models import Q

from djtasks import conf, encoding, registry
from djtasks.conf import settings
from djtasks.limits import limits_of
from djtasks.models import PeriodicTask
from djtasks.models.fields import aware

logger = logging.getLogger("djtasks.beat")

NAMED: Final = ("task", "schedule", "args", "kwargs", "options")
FIELDS: Final = (  # of an entry, named as the columns are
    "timezone", "catch_up", "overlap", "one_off", "max_runs", "start_at", "end_at", "jitter", "misfire_grace",
    "enabled",
)  # fmt: skip
KEYS: Final = frozenset({*NAMED, *FIELDS, "relative"})  # the last is Celery's and means nothing here
OPTION_FIELDS: Final = ("queue", "priority", "expires", "headers")  # of the options, those with a column
FURTHER_OPTIONS: Final = frozenset(
    {"time_limit", "soft_time_limit", "ignore_result", "acks_late", "max_retries", "shadow"}
)
IGNORED_OPTIONS: Final = frozenset(  # Celery's, of no effect here
    {"exchange", "routing_key", "serializer", "compression", "retry", "retry_policy", "add_to_parent"}
)
OPTIONS: Final = frozenset({*OPTION_FIELDS, *FURTHER_OPTIONS, *IGNORED_OPTIONS})
SYNCED: Final = frozenset(  # what the code decides; `enabled` is the admin's once the row is there
    {"task", "schedule", "args", "kwargs", "headers", "options", "queue", "priority", "expires", "source", *FIELDS}
) - {"enabled"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One schedule as it stands in the code; `where` says where, for people."""

    name: str
    source: PeriodicTask.Source
    where: str
    given: Any


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an entry cannot be used, in words, and what to do about it."""

    text: str
    hint: str = ""


class Unusable(Exception):
    """The entry cannot be used; args are its problems."""


def entries() -> list[Entry]:
    """All schedules of the code. One of the settings takes the place of one beside a task with the same name."""
    found = {
        task.name: Entry(task.name, PeriodicTask.Source.TASK, f"The schedule of the task {task.name}", _of_task(task))
        for task in registry.all_tasks()
        if task.schedule is not None
    }
    for name, given in settings.BEAT_SCHEDULE.items():
        where = f"DJTASKS['BEAT_SCHEDULE'][{name!r}]"
        found[str(name)] = Entry(str(name), PeriodicTask.Source.SETTINGS, where, given)
    return list(found.values())


def problems(entry: Entry) -> list[Problem]:
    """What is wrong with an entry."""
    try:
        row_of(entry)
    except Unusable as error:
        return list(error.args)
    return []


def row_of(entry: Entry) -> PeriodicTask:
    """The row that an entry stands for, not stored. Raises Unusable."""
    given = entry.given
    if not isinstance(given, Mapping):
        raise Unusable(Problem(f"{entry.where} must be a dict, not {given!r:.100}."))
    missing = [name for name in ("task", "schedule") if not given.get(name)]
    wrong = [task for task in [given.get("task")] if task and not isinstance(task, str)]
    found = [
        *_unknown(given, KEYS, entry.where, OPTIONS),
        *(Problem(f"{entry.where} has no {name!r}.") for name in missing),
        *(Problem(f"{entry.where}: task must be a text, not {task!r:.100}.") for task in wrong),
    ]
    if found:
        raise Unusable(*found)
    try:
        row = PeriodicTask(name=entry.name, source=entry.source, **_values(given), **_option_values(given, entry))
        row.clean_fields()
    except ValidationError as error:
        texts = [f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()]
        raise Unusable(*(Problem(f"{entry.where}: {text}") for text in texts)) from error
    except Unusable:
        raise
    except Exception as error:  # values of the user's may do anything
        raise Unusable(Problem(f"{entry.where}: {error or type(error).__name__}")) from error
    return row


def sync() -> None:
    """Bring the rows up to what stands in the code. Many may do so at once.

    A row whose definition has not changed keeps its next run. One whose entry is gone is marked, not deleted.
    """
    wanted: dict[str, PeriodicTask | None] = {}
    for entry in entries():
        try:
            wanted[entry.name] = row_of(entry)
        except Unusable as error:
            text = " ".join(problem.text for problem in error.args)
            logger.error("A schedule of the code cannot be used: %s", text)
            if encoding.plain_text(entry.name) != entry.name:  # the database cannot even be asked about it
                continue
            wanted[entry.name] = None
            PeriodicTask.objects.from_code().filter(name=entry.name).update(problem=text, next_run_at=None)
    standing = PeriodicTask.objects.filter(Q(name__in=wanted) | ~Q(source=PeriodicTask.Source.ADMIN))
    rows = {row.name: row for row in standing}
    new = [row for name, row in wanted.items() if row is not None and name not in rows]
    PeriodicTask.objects.bulk_create(new, ignore_conflicts=True)  # another beat may be about it, too
    if new:
        logger.info("New schedules of the code: %s", ", ".join(row.name for row in new))
    for name, row in rows.items():
        if name not in wanted:
            _mark_as_gone(row)
        elif (definition := wanted[name]) is not None:
            _bring_up_to_date(row, definition)


def _bring_up_to_date(row: PeriodicTask, definition: PeriodicTask) -> None:
    if row.source == PeriodicTask.Source.ADMIN:
        logger.warning(
            "The schedule %s of the code is not used: the database has one of that name that was not made from code. "
            "Rename or delete that.",
            row.name,
        )
        return
    changed = [field for field in SYNCED if getattr(row, field) != getattr(definition, field)]
    if not changed and not row.gone:
        return
    for field in changed:
        setattr(row, field, getattr(definition, field))
    row.gone = False
    row.save()
    logger.info("The schedule %s has changed in the code: %s", row.name, ", ".join(sorted(changed)) or "it is back")


def _mark_as_gone(row: PeriodicTask) -> None:
    if row.gone:
        return
    row.gone = True
    row.save()
    logger.warning("The schedule %s is gone from the code; its row stays, and rests", row.name)


def _of_task(task: Any) -> Any:
    """What stands beside a task, as an entry of the settings."""
    given = task.schedule
    if not isinstance(given, Mapping):
        return {"task": task.name, "schedule": given}
    return {"task": task.name, **given}


def _unknown(given: Iterable[Any], known: frozenset[str], where: str, elsewhere: frozenset[str]) -> list[Problem]:
    """A problem for each key that there is not; `elsewhere` are those that belong into "options"."""
    found = []
    for key in given:
        if key in known:
            continue
        close = get_close_matches(str(key), known, n=1)
        hint = 'It belongs into "options".' if key in elsewhere else f"Did you mean {close[0]!r}?" if close else ""
        found.append(Problem(f"{where} has an unknown key {key!r}.", hint or f"There are: {', '.join(sorted(known))}."))
    return found


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that stand in an entry itself. Raises TypeError, ValueError."""
    args, kwargs = given.get("args") or (), _mapping("kwargs", given.get("kwargs"))
    if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
        raise TypeError(f"args must be a list or a tuple, not {args!r:.100}.")
    encoded = encoding.encode_arguments(tuple(args), kwargs)
    fields = {name: _value(given[name]) for name in FIELDS if given.get(name) is not None}
    return {"task": given["task"], "schedule": given["schedule"], "args": encoded[0], "kwargs": encoded[1], **fields}


def _option_values(given: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """The columns that an entry's options fill. Raises Unusable, TypeError, ValueError."""
    options = _mapping("options", given.get("options"))
    if found := _unknown(options, OPTIONS, f"{entry.where}['options']", frozenset()):
        raise Unusable(*found)
    if isinstance(options.get("expires"), datetime):
        raise ValueError("expires counts from each tick: give seconds or a timedelta. For a last time there is end_at.")
    chosen: dict[str, Any] = {name: _value(value) for name, value in options.items() if value is not None}
    fields: dict[str, Any] = {name: chosen[name] for name in OPTION_FIELDS if name in chosen}
    if "headers" in fields:
        fields["headers"] = encoding.encode_arguments((), _mapping("headers", fields["headers"]))[1]
    further = {name: value for name, value in sorted(chosen.items()) if name in FURTHER_OPTIONS}
    limits_of(further, None)
    return {**fields, "options": encoding.encode(further) if further else None}


def _mapping(name: str, given: Any) -> Mapping[str, Any]:
    if given and not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict, not {given!r:.100}.")
    return given or {}


def _value(given: Any) -> Any:
    """A value as its column has it: seconds for a timedelta, an aware time for a naive one."""
    if isinstance(given, timedelta):
        return conf.seconds(given)
    return aware(given) if isinstance(given, datetime) else given
