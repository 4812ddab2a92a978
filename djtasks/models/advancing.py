"""How schedules move on from tick to tick: once each, however many beats there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from django.db import connections, transaction
from django.db.models import F

from djtasks.models import statements

if TYPE_CHECKING:
    from djtasks.models.periodic_task import PeriodicTaskQuerySet


@dataclass(frozen=True, slots=True)
class Step:
    """The way of a row on from the tick at `due`, if it has not been changed since `changed_at`.

    `runs` jobs are sent, of which `job` is the last; None, and 0, if the tick is passed over.
    """

    pk: int
    due: datetime
    changed_at: datetime
    next: datetime | None
    runs: int = 1
    job: str | None = None
    enabled: bool = True


def advance(schedules: PeriodicTaskQuerySet, steps: Sequence[Step]) -> set[int]:
    """Take those steps whose rows stand where they start and that nobody else is taking. Returns the keys of the rows.

    Within a transaction: the jobs belong into the same.
    """
    if connections[schedules.db].vendor == "postgresql":
        rows = [(s.pk, s.due, s.changed_at, s.next, s.runs, s.job, s.enabled) for s in steps]
        with connections[schedules.db].cursor() as cursor:
            cursor.execute(statements.sql("postgresql", "advance"), statements.arrays(rows))
            return {pk for (pk,) in cursor.fetchall()}
    return advance_portably(schedules, steps)


def advance_portably(schedules: PeriodicTaskQuerySet, steps: Sequence[Step]) -> set[int]:
    """`advance`, by the ORM."""
    skips = connections[schedules.db].features.has_select_for_update_skip_locked
    with transaction.atomic(using=schedules.db):
        rows = schedules.filter(pk__in=[step.pk for step in steps]).select_for_update(skip_locked=skips).order_by("pk")
        free = {row[0]: row[1:] for row in rows.values_list("pk", "next_run_at", "changed_at", "enabled")}
        now = statements.now(connections[schedules.db])
        mine = [step for step in steps if free.get(step.pk) == (step.due, step.changed_at, True)]
        return {step.pk for step in sorted(mine, key=lambda step: step.pk) if _take(schedules, step, now)}


def _take(schedules: PeriodicTaskQuerySet, step: Step, now: datetime) -> bool:
    row = schedules.filter(pk=step.pk, next_run_at=step.due, changed_at=step.changed_at, enabled=True)
    ran = {"last_run_at": now, "last_job": step.job, "total_run_count": F("total_run_count") + step.runs}
    return row.update(next_run_at=step.next, enabled=step.enabled, **(ran if step.runs else {})) == 1
