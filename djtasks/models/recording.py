"""How an outcome becomes a row where the queue is not the job table: the row may not be there yet.

The first terminal outcome is final, and what comes of a later try or claim stands against what comes
of an earlier one (DESIGN: rule 2).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from django.db import IntegrityError, connections, transaction

from djtasks import states
from djtasks.message import Delivery, Outcome, portions
from djtasks.models import statements
from djtasks.models.attempts import attempts_after
from djtasks.models.fields import utc_now

if TYPE_CHECKING:
    from djtasks.models.job import JobQuerySet

MOST_CHILDREN: Final = 1000  # of those that a job has sent, whose ids its row keeps
MOST_RACES: Final = 5  # times that somebody else may insert one of our rows first
_ADDED: Final = frozenset({"attempts", "children"})
_KEPT: Final = frozenset(
    {"id", "task", "created_at", "parent_id", "root_id", "group_id", "periodic_task", "unique_key"}
)


def store(jobs: JobQuerySet, outcomes: Sequence[Outcome]) -> set[str]:
    """Write each outcome into its job's row, which is made if need be. Returns the ids for which that was right.

    A state of STARTED is no outcome yet: the job has begun `seconds` ago.
    """
    connection = connections[jobs.db]
    clock = time.monotonic()
    outcomes = sorted(outcomes, key=lambda each: each.delivery.id)
    rows = [columns_of(each, clock) for each in outcomes]
    if connection.vendor == "postgresql":
        return statements.store(connection, rows)
    moment = statements.now(connection)
    resolved = {row["id"]: _resolved(row, moment) for row in rows}
    for _ in range(MOST_RACES - 1):
        try:
            return _store_portably(jobs, outcomes, resolved)
        except IntegrityError:  # somebody has inserted the row meanwhile: now it can be seen and locked
            continue
    return _store_portably(jobs, outcomes, resolved)


def columns_of(outcome: Outcome, clock: float) -> dict[str, Any]:
    """The row of the job as the outcome leaves it; times by the database's clock stand as seconds from now."""
    delivery, failure, following = outcome.delivery, outcome.failure, outcome.next
    message = following or delivery.message
    age = clock - outcome.ended
    is_final = outcome.state in states.SETTLED
    attempts = attempts_after(outcome, utc_now()) if following else delivery.attempts
    return {
        "id": delivery.id,
        "task": message.task,
        "queue": message.queue,
        "priority": message.priority,
        "state": outcome.state,
        "args": message.args,
        "kwargs": message.kwargs,
        "eta": message.eta,
        "countdown": message.countdown if following is None or message.eta else float(message.countdown or 0),
        "expires_at": message.expires_at,
        "expires_in": message.expires_in,
        "created_at": delivery.created_at,
        "begun": None if outcome.seconds is None or following else outcome.seconds + age,
        "age": age if is_final else None,
        "seconds": outcome.seconds if is_final else None,
        "token": delivery.token,
        "losses": 0 if following else delivery.losses,
        "refusals": delivery.refusals,
        "retries": message.retries,
        "worker": "" if following else delivery.worker,
        "revoked": delivery.revoked,
        "result": outcome.result,
        "exception": failure.kind if failure else "",
        "exception_message": failure.message if failure else None,
        "exception_args": failure.arguments if failure else None,
        "traceback": failure.traceback if failure else None,
        "attempts": None if attempts == "[]" else attempts,
        "children": children_of(outcome),
        "parent_id": message.parent_id,
        "root_id": message.root_id,
        "group_id": message.group_id,
        "periodic_task": message.schedule,
        "unique_key": None,  # the lock is where the queue is; two rows must not contend for it here
        "enqueued_by": message.sender,
        "headers": message.headers,
        "options": message.options,
        "version": message.version,
    }


def children_of(outcome: Outcome) -> str | None:
    """The jobs that it has sent, as JSON: ids, each with its group; None if there are none.

    Where the queue is not the job table they have no rows yet by which they would be found.
    """
    following = [(each.id, each.group_id) for each in outcome.follow_ups]
    sent = [*outcome.sent, *following][:MOST_CHILDREN]
    return json.dumps(sent) if sent else None


def _store_portably(jobs: JobQuerySet, outcomes: Sequence[Outcome], rows: Mapping[str, dict[str, Any]]) -> set[str]:
    """Look and lock, then write. Raises IntegrityError if a row was inserted in between."""
    written = set()
    with transaction.atomic(using=jobs.db):
        locked = jobs.filter(pk__in=rows).select_for_update().order_by("id")
        standing = {row[0]: row[1:] for row in locked.values_list("id", "state", "retries", "token")}
        for outcome in outcomes:
            job_id = outcome.delivery.id
            if job_id not in standing:
                written.add(job_id)
            elif not stands_against(*standing[job_id], outcome.delivery):
                written.add(job_id)
                jobs.filter(pk=job_id).update(**_changes(rows[job_id]))
        new = [row for job_id, row in rows.items() if job_id not in standing]
        for portion in portions(new, _size_of, statements.BATCH, statements.BATCH_SIZE):
            jobs.bulk_create([jobs.model(**row) for row in portion])
    return written


def _size_of(row: Mapping[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def stands_against(state: str, retries: int, token: int, delivery: Delivery) -> bool:
    """Whether what stands in a row is final, or later than `delivery`, so that this may not overwrite it."""
    return state in states.SETTLED or (retries, token) > (delivery.message.retries, delivery.token)


def _resolved(row: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The row with times in place of durations."""
    row = dict(row)
    eta, countdown, expires_in = row.pop("eta"), row.pop("countdown"), row.pop("expires_in")
    begun, age = row.pop("begun"), row.pop("age")
    row["run_at"] = eta or _later(now, countdown)
    row["expires_at"] = row["expires_at"] or _later(now, expires_in)
    row["created_at"] = row["created_at"] or now
    row["started_at"] = _later(now, None if begun is None else -begun)
    row["finished_at"] = _later(now, None if age is None else -age)
    row["rank"] = -row["priority"]
    return row


def _later(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


def _changes(row: Mapping[str, Any]) -> dict[str, Any]:
    changes = {name: value for name, value in row.items() if name not in _KEPT}
    return {name: value for name, value in changes.items() if value is not None or name not in _ADDED}
