"""What may be done to jobs from the admin: retry, cancel, delete; each with its permission, said before it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from djtasks import control, states
from djtasks.conf import settings
from djtasks.models import Job

MOST_AT_ONCE: Final = 500  # jobs; a form may have no more than 1000 fields (DATA_UPLOAD_MAX_NUMBER_FIELDS)


@dataclass(frozen=True, slots=True)
class JobAction:
    """One thing that can be done to jobs. `act` takes the rows that it is for and returns how many it did."""

    name: str  # in URLs
    choice: str  # the name of the admin action
    label: Promise | str  # on a button
    title: Promise | str
    explanation: Promise | str
    left_alone: Any  # for those that it is not for; by count
    done: Any  # by count
    note: Promise | str  # in the log
    permission: str
    flag: int
    for_finished: bool  # or else for unfinished ones
    act: Callable[[Sequence[Job]], int]
    for_running: bool = False  # of the unfinished ones only for these, whether or not they were cancelled

    def is_allowed(self, request: HttpRequest) -> bool:
        """Whether whoever asks may do it."""
        return request.user.is_active and request.user.has_perm(f"djtasks.{self.permission}")

    def fits(self, job: Job) -> bool:
        """Whether the job, as it stands, is one that it is for."""
        if self.for_finished:
            return job.is_finished
        if self.for_running:
            return job.state in states.RUNNING
        return job.state not in states.SETTLED and not job.revoked

    def perform(self, request: HttpRequest, ids: Sequence[str]) -> int:
        """Do it to those of these jobs that it is for at this moment, and log it. Raises BrokerUnavailable."""
        rows = Job.objects.filter(pk__in=ids)
        fitting = Q(state__in=states.FINISHED) if self.for_finished else ~Q(state__in=states.SETTLED)
        jobs = list(rows.filter(fitting).only("id", "task"))
        count = self.act(jobs) if jobs else 0
        if count:
            LogEntry.objects.log_actions(request.user.pk, jobs, self.flag, str(self.note))  # type: ignore[arg-type]
        return count


def _retry(jobs: Sequence[Job]) -> int:
    return control.retry([job.pk for job in jobs])


def _cancel(jobs: Sequence[Job]) -> int:
    return control.revoke([job.pk for job in jobs])


def _stop(jobs: Sequence[Job]) -> int:
    return control.revoke([job.pk for job in jobs], terminate=True)


def _delete(jobs: Sequence[Job]) -> int:
    """Delete what is finished when it is deleted: a job may have been retried since it was shown."""
    with transaction.atomic(using=settings.DATABASE):
        finished = Job.objects.finished().filter(pk__in=[job.pk for job in jobs]).select_for_update()
        count, _rows = Job.objects.finished().filter(pk__in=[job.pk for job in finished.only("id")]).delete()
    return int(count)


RETRY: Final = JobAction(
    name="retry",
    choice="retry_jobs",
    label=_("Retry"),
    title=_("Retry jobs"),
    explanation=_("They run once more, under the same ids and with the same arguments. Earlier attempts are kept."),
    left_alone=ngettext_lazy(
        "%d job has not ended yet and is left alone.", "%d jobs have not ended yet and are left alone."
    ),
    done=ngettext_lazy("%d job will run once more.", "%d jobs will run once more."),
    note=_("Retried."),
    permission="retry_job",
    flag=CHANGE,
    for_finished=True,
    act=_retry,
)
CANCEL: Final = JobAction(
    name="cancel",
    choice="cancel_jobs",
    label=_("Cancel"),
    title=_("Cancel jobs"),
    explanation=_("What waits ends as REVOKED without a run. What runs already goes on to its end."),
    left_alone=ngettext_lazy(
        "%d job has ended, or others stand for it, and is left alone.",
        "%d jobs have ended, or others stand for them, and are left alone.",
    ),
    done=ngettext_lazy(
        "%d job was cancelled; if it runs already, it goes on to its end and is not repeated.",
        "%d jobs were cancelled; those that run already go on to their end and are not repeated.",
    ),
    note=_("Cancelled."),
    permission="revoke_job",
    flag=CHANGE,
    for_finished=False,
    act=_cancel,
)
STOP: Final = JobAction(
    name="stop",
    choice="stop_jobs",
    label=_("Cancel and stop"),
    title=_("Cancel jobs that run, and stop them"),
    explanation=_(
        "The processes that run them are ended, with all that they have started. "
        "What they have changed outside of transactions stays as it is."
    ),
    left_alone=ngettext_lazy(
        "%d job does not run and is left alone; it may have ended, or be cancelled.",
        "%d jobs do not run and are left alone; they may have ended, or be cancelled.",
    ),
    done=ngettext_lazy(
        "%d job was cancelled; its worker ends it within seconds.",
        "%d jobs were cancelled; their workers end them within seconds.",
    ),
    note=_("Cancelled and stopped."),
    permission="revoke_job",
    flag=CHANGE,
    for_finished=False,
    act=_stop,
    for_running=True,
)
DELETE: Final = JobAction(
    name="delete",
    choice="delete_selected",  # takes the place of Django's own, which knows nothing of states
    label=_("Delete"),
    title=_("Delete finished jobs"),
    explanation=_("Their rows go, with results and tracebacks. This cannot be undone."),
    left_alone=ngettext_lazy(
        "%d job has not ended yet and is left alone.", "%d jobs have not ended yet and are left alone."
    ),
    done=ngettext_lazy("%d finished job was deleted.", "%d finished jobs were deleted."),
    note=_("Deleted."),
    permission="delete_job",
    flag=DELETION,
    for_finished=True,
    act=_delete,
)
ALL: Final = (RETRY, CANCEL, STOP, DELETE)
