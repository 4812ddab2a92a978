"""What `manage.py djtasks schedule` says of schedules, and does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.management.base import CommandError
from django.db.models import F

from djtasks import code_schedules, control
from djtasks.conf import settings
from djtasks.management.tables import printable, time_and_age
from djtasks.models import PeriodicTask, Worker

HEAD: Final = ("name", "schedule", "zone", "task", "status", "next run", "last run", "runs", "source")


def in_order() -> list[PeriodicTask]:
    """All schedules, the next to run first."""
    return list(PeriodicTask.objects.order_by(F("next_run_at").asc(nulls_last=True), "name"))


def as_cells(row: PeriodicTask) -> tuple[object, ...]:
    """A line of the table."""
    times = (time_and_age(row.next_run_at), time_and_age(row.last_run_at))
    return (row.name, row.schedule, _zone(row), row.task, row.status, *times, row.total_run_count, row.source)


def _zone(row: PeriodicTask) -> str:
    """Where its times are meant; an interval, or what is due once, is due wherever one is."""
    if row.timezone or row.schedule.startswith(("every", "at ")):
        return row.timezone or "-"
    return settings.TIMEZONE or str(django_settings.TIME_ZONE)


def as_json(row: PeriodicTask) -> dict[str, Any]:
    """A schedule for programs."""
    return {
        "name": row.name,
        "task": row.task,
        "schedule": row.schedule,
        "timezone": row.timezone or None,
        "status": row.status,
        "problem": row.problem,
        "enabled": row.enabled,
        "source": row.source,
        "next_run_at": _iso(row.next_run_at),
        "last_run_at": _iso(row.last_run_at),
        "last_job": row.last_job,
        "runs": row.total_run_count,
    }


def remarks(rows: Sequence[PeriodicTask]) -> list[str]:
    """What the table has no room for: why some are broken, what is not in it yet, and whether anybody sends."""
    notes = [f"{printable(row.name)} is broken: {printable(row.problem)}" for row in rows if row.problem]
    names = {row.name for row in rows}
    if new := [printable(entry.name) for entry in code_schedules.entries() if entry.name not in names]:
        notes.append(f"In the code, and not here before a beat starts that knows it: {', '.join(new)}")
    if not rows and not new:
        return ["There are no schedules."]
    if Worker.objects.filter(stopped_at=None, lost_at=None, scheduler_at__isnull=False).exists():
        return notes
    return [*notes, "Nobody sends what is due: start a runworker, without --no-beat, or a runbeat."]


def _run(name: str) -> str:
    _require(name)
    try:
        return control.run_schedule(name)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{name} cannot be run: {error}") from error


def _enable(name: str) -> str:
    _require(name).update(enabled=True)
    row = PeriodicTask.objects.get(name=name)
    if row.next_run_at is None:
        return f"{name} is enabled, but {row.status}: {row.problem or 'it has no further run'}."
    return f"{name} is enabled. Next run: {time_and_age(row.next_run_at)}"


def _disable(name: str) -> str:
    _require(name).update(enabled=False)
    return f"{name} is disabled."


def _require(name: str) -> Any:
    """The schedule of that name, as a queryset. Raises CommandError that names the nearest."""
    found = PeriodicTask.objects.filter(name=name)
    if not found.exists():
        names = list(PeriodicTask.objects.values_list("name", flat=True))
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else " See: manage.py djtasks schedule list"
        raise CommandError(f"There is no schedule {name!r}.{hint}")
    return found


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


ACTIONS: Final[Mapping[str, tuple[Callable[[str], str], str]]] = {
    "run": (_run, "Send one job now, whatever the schedule says; prints its id. The ticks stay as they are."),
    "enable": (_enable, "Let it run again, from its next tick on; what was missed is not made up for."),
    "disable": (_disable, "Let it rest."),
}
