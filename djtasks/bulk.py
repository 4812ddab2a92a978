"""What is done to many jobs at a time, a portion after the other: retry, cancel, stop, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import Q

from djtasks import control, states
from djtasks.conf import settings
from djtasks.models import Job
from djtasks.models.job import JobQuerySet

MOST_AT_ONCE: Final = 500  # jobs a portion; a form may have no more than 1000 fields (DATA_UPLOAD_MAX_NUMBER_FIELDS)


@dataclass(frozen=True, slots=True)
class Deed:
    """One thing that can be done to jobs. `act` takes ids, and returns to how many of them it was done."""

    name: str
    act: Callable[[Sequence[str]], int]
    for_finished: bool = False  # or else for unfinished ones
    for_running: bool = False  # of the unfinished ones only for these, whether or not they were cancelled

    def fits(self, job: Job) -> bool:
        """Whether the job, as it stands, is one that it is for."""
        if self.for_finished:
            return job.is_finished
        if self.for_running:
            return job.state in states.RUNNING
        return job.state not in states.SETTLED and not job.revoked

    def fitting(self, jobs: JobQuerySet, until: datetime) -> JobQuerySet:
        """Those of `jobs` that it is for, as they stand, and were at the time `until`."""
        if self.for_finished:
            return jobs.filter(state__in=states.FINISHED, finished_at__lte=until)
        if self.for_running:
            return jobs.filter(state__in=states.RUNNING, created_at__lte=until)
        return jobs.filter(~Q(state__in=states.SETTLED), revoked=False, created_at__lte=until)


def portions(jobs: JobQuerySet) -> Iterator[list[str]]:
    """The ids of `jobs`, the oldest first, each once, though what is done to them may change what matches."""
    after = ""
    while ids := list(jobs.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)[:MOST_AT_ONCE]):
        yield ids
        after = ids[-1]


def _retry(ids: Sequence[str]) -> int:
    return control.retry(ids)


def _cancel(ids: Sequence[str]) -> int:
    return control.revoke(ids)


def _stop(ids: Sequence[str]) -> int:
    return control.revoke(ids, terminate=True)


def _delete(ids: Sequence[str]) -> int:
    """Delete what is finished when it is deleted: a job may have been retried since it was shown."""
    with transaction.atomic(using=settings.DATABASE):
        finished = Job.objects.finished().filter(pk__in=ids).select_for_update()
        count, _rows = Job.objects.finished().filter(pk__in=[job.pk for job in finished.only("id")]).delete()
    return int(count)


RETRY: Final = Deed("retry", _retry, for_finished=True)
CANCEL: Final = Deed("cancel", _cancel)
STOP: Final = Deed("stop", _stop, for_running=True)
DELETE: Final = Deed("delete", _delete, for_finished=True)
DEEDS: Final = {each.name: each for each in (RETRY, CANCEL, STOP, DELETE)}
