"""What has become of schedules: their newest runs, their last one, and whether anybody looks for what is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import connections
from django.db.models import Count, Max, Q

from djtasks.conf import settings
from djtasks.models import Job, PeriodicTask, Worker, statements

SHOWN: Final = 10  # runs of each schedule
_COLUMNS: Final = "id, task, queue, periodic_task, state, custom_state, created_at, started_at, finished_at, seconds"
_NEWEST: Final = f"SELECT {_COLUMNS} FROM djtasks_job WHERE periodic_task = %s ORDER BY id DESC LIMIT {SHOWN}"  # noqa: S608
_OF_ONE: Final = f"SELECT * FROM ({_NEWEST}) AS runs"  # noqa: S608 - SQLite has no LIMIT in a part of a UNION


def recent_runs(names: Sequence[str]) -> dict[str, list[Job]]:
    """The newest runs of each of these schedules, the newest first: one statement, a short look into the index each.

    The jobs have no more than what a list shows; the other columns are read when they are used.
    """
    runs: dict[str, list[Job]] = {name: [] for name in names}
    if runs:
        statement = " UNION ALL ".join([_OF_ONE] * len(runs))
        for job in sorted(Job.objects.raw(statement, list(runs)), key=lambda job: job.pk, reverse=True):
            runs[str(job.periodic_task)].append(job)
    return runs


def last_runs(rows: Iterable[PeriodicTask], recent: Mapping[str, Sequence[Job]]) -> dict[str, Job]:
    """The last jobs of these schedules by their ids, as far as they have rows; most are among the recent ones."""
    known = {job.pk: job for runs in recent.values() for job in runs}
    wanted = {row.last_job for row in rows if row.last_job}
    found = {pk: job for pk, job in known.items() if pk in wanted}
    if missing := wanted - found.keys():
        found |= {job.pk: job for job in Job.objects.filter(pk__in=missing).only(*_COLUMNS.split(", "))}
    return found


@dataclass(frozen=True, slots=True)
class Wakefulness:
    """Whether beat looks for what is due. `woke_at` is when one last did, None if none ever has.

    `workers` live, `beats` of them with beat on board; these are empty words if `awake` is False.
    """

    woke_at: datetime | None
    awake: bool
    workers: int
    beats: int


def wakefulness() -> Wakefulness:
    """How it stands at this moment, by the database's clock: two short statements."""
    live = Q(stopped_at=None, lost_at=None)
    told = Worker.objects.aggregate(
        woke=Max("scheduler_at", filter=live),
        ever=Max("scheduler_at"),
        workers=Count("pk", filter=live),
        beats=Count("scheduler_at", filter=live),
    )
    limit = statements.now(connections[settings.DATABASE]) - timedelta(seconds=settings.WORKER_LOST_AFTER)
    awake = told["woke"] is not None and told["woke"] >= limit
    return Wakefulness(told["woke"] if awake else told["ever"], awake, told["workers"], told["beats"])
