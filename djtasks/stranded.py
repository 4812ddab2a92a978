"""Groups that wait for members that are gone: rows that were deleted by hand, a queue that was purged.

A member that has not ended stands somewhere: as a row, in the queue, in the outbox, or in the body of a group within
the group. Where nothing of that is left nobody will ever count the group down.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Exists, OuterRef, Q

from djtasks import plan, states
from djtasks.brokers import get_broker
from djtasks.models import Job, JobGroup, Outbox
from djtasks.models.fields import utc_now
from djtasks.models.job_group import JobGroupQuerySet

IDLE: Final = 3600.0  # seconds for which nothing of a group must have happened before it is ended
PORTION: Final = 500  # jobs


def end() -> int:
    """Count in groups what they wait for in vain: their bodies fail with ChordError. Returns how many groups."""
    found = stranded(JobGroup.objects.all(), IDLE)
    for group_id, missing in found.items():
        plan.abandon(group_id, missing)
    return len(found)


def stranded(groups: JobGroupQuerySet, idle: float, most: int | None = None) -> dict[str, int]:
    """Those of `groups` of which nothing is left that could end, by id, with how many members are missing.

    Only those of which nothing has happened for `idle` seconds. Looks at all that the broker has, where the queue is
    not the job table; with `most` at so many jobs, and returns {} if there are more. Raises BrokerUnavailable.
    """
    before = utc_now() - timedelta(seconds=idle)
    found = _without_rows(groups, before)
    if found and not get_broker().transactional:
        for seen in _seen_by_broker(most):
            found = {} if seen is None else {pk: left for pk, left in found.items() if pk not in seen}
            if not found:
                return {}
    found = {pk: left for pk, left in found.items() if not _is_named(pk)}
    # Once more: what was in a place that was looked at late may have come, meanwhile, to one that was looked at early.
    return found and _without_rows(groups.filter(pk__in=list(found)), before)


def _without_rows(groups: JobGroupQuerySet, before: datetime) -> dict[str, int]:
    alive = ~Q(state__in=states.SETTLED) | Q(finished_at__gte=before)
    members = Job.objects.filter(alive, group_id=OuterRef("pk"))
    waiting = groups.unfinished().filter(open_at=None, created_at__lt=before).exclude(Exists(members))
    return dict(waiting.values_list("pk", "remaining"))


def _seen_by_broker(most: int | None) -> Iterator[set[str] | None]:
    """The groups of the jobs that wait or are leased, a portion after the other; None if they are more than `most`."""
    count = 0
    for portion in get_broker().walk(PORTION, held=True):
        count += len(portion)
        if most is not None and count > most:
            yield None
            return
        yield {each.message.group_id for each in portion if each.message.group_id}


def _is_named(group_id: str) -> bool:
    """Whether what is to be sent belongs to the group: messages of the outbox, bodies of groups within it."""
    name = json.dumps(group_id)
    bodies = JobGroup.objects.unfinished().filter(body__contains=name)
    return bodies.exists() or Outbox.objects.filter(message__contains=name).exists()
