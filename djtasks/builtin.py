"""The tasks of the app itself: what canvas needs, and its own upkeep. Every process that knows tasks knows these."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import InterfaceError, OperationalError

from djtasks import bulk, statistics, stranded, upkeep
from djtasks.canvas import signature
from djtasks.canvas.normal import ACCUMULATE
from djtasks.declare import shared_task
from djtasks.exceptions import BrokerUnavailable
from djtasks.selection import Selection

AN_HOUR: Final = 3600  # seconds
A_DAY: Final = 86400  # seconds

# First in their queue, though a million wait there; skipped while the last one has not ended.
UPKEEP = {"schedule": 60, "overlap": False, "catch_up": "skip", "options": {"priority": 100, "ignore_result": True}}
# A server that restarts is no failure that anybody must look at; and the next minute's run waits for the end of this.
DOWN: Final = (OperationalError, InterfaceError)
SOON: Final = 10  # seconds


@shared_task(name=ACCUMULATE)
def accumulate(results: list[Any]) -> list[Any]:
    """The list of a group's results, where one job's result is wanted."""
    return results


@shared_task(name="djtasks.map")
def call_map(task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
    """`[task(x) for x in it]`."""
    sig = signature(task)
    return [sig.clone()(each) for each in it]


@shared_task(name="djtasks.starmap")
def call_starmap(task: Mapping[str, Any], it: Iterable[Sequence[Any]]) -> list[Any]:
    """`[task(*x) for x in it]`."""
    sig = signature(task)
    return [sig.clone()(*each) for each in it]


@shared_task(
    name="djtasks.prune", schedule=UPKEEP, log_level=logging.DEBUG, autoretry_for=DOWN, default_retry_delay=SOON
)
def prune() -> int:
    """Delete what has expired: jobs after RESULT_EXPIRES, and what belongs to them."""
    return upkeep.prune_for()


@shared_task(
    name="djtasks.count", schedule=UPKEEP, log_level=logging.DEBUG, autoretry_for=DOWN, default_retry_delay=SOON
)
def count() -> int:
    """Count what has ended, for the statistics."""
    return statistics.count()


@shared_task(
    name="djtasks.end_stranded",
    schedule={**UPKEEP, "schedule": AN_HOUR},
    log_level=logging.DEBUG,
    autoretry_for=DOWN,
    default_retry_delay=SOON,
)
def end_stranded() -> int:
    """End groups whose members are gone, so that their chords fail instead of waiting for ever."""
    return stranded.end()


@shared_task(
    name="djtasks.act_on_all",
    bind=True,
    priority=100,  # somebody waits for it
    time_limit=A_DAY,
    soft_time_limit=A_DAY,
    autoretry_for=(BrokerUnavailable,),
)
def act_on_all(
    self: Any, action: str, filters: Mapping[str, str], until: datetime, reads_arguments: bool = False
) -> dict[str, int]:
    """Do one of `bulk.DEEDS` to all jobs that match and did so at `until`, for the admin. Returns to how many.

    Twice is as good as once: what it was done to does not match any more.
    """
    deed = bulk.DEEDS[action]
    jobs = deed.fitting(Selection(filters, reads_arguments, until).matching(), until).exclude(pk=self.request.id)
    seen, done, total = 0, 0, jobs.count()
    self.update_state(meta={"current": 0, "total": total, "done": 0})
    for ids in bulk.portions(jobs):
        done += deed.act(ids)
        seen += len(ids)
        self.update_state(meta={"current": seen, "total": max(seen, total), "done": done})
    return {"matched": seen, "done": done}


# Who sends such a job must have been asked for the permission to do what it does; `send_task` alone is not that.
NOT_BY_HAND: Final = frozenset({act_on_all.name})
