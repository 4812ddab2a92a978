"""What may be done to jobs from the admin: retry, cancel, delete; each with its permission, said before it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db.models import Q
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from djtasks import bulk, states
from djtasks.bulk import Deed
from djtasks.models import Job


@dataclass(frozen=True, slots=True)
class JobAction:
    """One thing that can be done to jobs, as it is shown and said."""

    deed: Deed
    choice: str  # the name of the admin action
    label: Promise | str  # on a button
    title: Promise | str
    explanation: Promise | str
    left_alone: Any  # for those that it is not for; by count
    done: Any  # by count
    note: Promise | str  # in the log
    permission: str
    flag: int

    @property
    def name(self) -> str:
        """What it is called in URLs."""
        return self.deed.name

    def is_allowed(self, request: HttpRequest) -> bool:
        """Whether whoever asks may do it."""
        return request.user.is_active and request.user.has_perm(f"djtasks.{self.permission}")

    def is_for(self, state: str) -> bool:
        """Whether there may be jobs in that state that it is for."""
        return self.deed.fits(Job(state=state))

    def perform(self, request: HttpRequest, ids: Sequence[str]) -> int:
        """Do it to those of these jobs that it is for at this moment, and log it. Raises BrokerUnavailable."""
        rows = Job.objects.filter(pk__in=ids)
        fitting = Q(state__in=states.FINISHED) if self.deed.for_finished else ~Q(state__in=states.SETTLED)
        jobs = list(rows.filter(fitting).only("id", "task"))
        count = self.deed.act([job.pk for job in jobs]) if jobs else 0
        if count:
            LogEntry.objects.log_actions(request.user.pk, jobs, self.flag, str(self.note))  # type: ignore[arg-type]
        return count


RETRY: Final = JobAction(
    deed=bulk.RETRY,
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
)
CANCEL: Final = JobAction(
    deed=bulk.CANCEL,
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
)
STOP: Final = JobAction(
    deed=bulk.STOP,
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
)
DELETE: Final = JobAction(
    deed=bulk.DELETE,
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
)
ALL: Final = (RETRY, CANCEL, STOP, DELETE)
