"""What the app does for itself now and then: it deletes what has expired, and counts what has ended.

The tasks for it, with their schedules, stand in `builtin`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from djtasks import plan, statistics
from djtasks.conf import settings
from djtasks.models import FailureKind, Job, JobGroup, Limit, Worker

BATCH: Final = 1000  # rows a transaction, so that none holds locks for long
LONGEST: Final = 45.0  # seconds; what is left then is for the next time
KINDS_KEPT: Final = 30 * 86400.0  # seconds for which a kind of failure is remembered
OPEN_FOR: Final = 86400.0  # seconds after which who still sends a group, and has sent nothing, is taken to have died
TOMBSTONES_KEPT: Final = 86400.0  # seconds for which it is remembered that an unknown id was revoked
LOST_WORKERS_KEPT: Final = 100  # rows of workers that live no more


def prune() -> Iterator[int]:
    """Delete what has expired, a batch a transaction. Gives, after each, how many jobs it has deleted."""
    while Job.objects.tombstones().prune(TOMBSTONES_KEPT, BATCH) == BATCH:
        yield 0
    for group_id in JobGroup.objects.all().forsaken(OPEN_FOR).values_list("pk", flat=True)[:BATCH]:
        plan.abandon(group_id)
    gone = Worker.objects.exclude(lost_at=None, stopped_at=None).order_by("-started_at")
    Worker.objects.filter(pk__in=list(gone.values_list("pk", flat=True)[LOST_WORKERS_KEPT:])).delete()
    FailureKind.objects.all().prune(KINDS_KEPT, BATCH)
    statistics.prune()
    while Limit.objects.all().prune(BATCH) == BATCH:
        yield 0
    if (seconds := settings.result_expires) is None:
        return
    deleted = BATCH
    while deleted == BATCH:
        deleted = Job.objects.prune(seconds, BATCH)
        yield deleted
    while JobGroup.objects.all().prune(seconds, BATCH) == BATCH:
        yield 0


def prune_for(longest: float = LONGEST) -> int:
    """`prune`, for about `longest` seconds at most. Returns how many jobs were deleted."""
    deadline, deleted = time.monotonic() + longest, 0
    for batch in prune():
        deleted += batch
        if time.monotonic() > deadline:
            break
    return deleted
