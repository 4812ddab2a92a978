"""Outcomes of jobs that end without a run, or whose run was ended from outside: what the keeper tells the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from djtasks import follow_ups, states
from djtasks.conf import settings
from djtasks.exceptions import TimeLimitExceeded, WorkerLostError
from djtasks.failure import failure_of
from djtasks.message import Delivery, Outcome

logger = logging.getLogger("djtasks.worker")


def ended_from_outside(delivery: Delivery, sentence: Mapping[str, Any] | None) -> Outcome:
    """How a job ends whose process is dead: as the sentence says (see `Process.sentence`), or because it was lost."""
    if sentence is None or sentence["id"] != delivery.id:
        return _outcome(delivery, WorkerLostError(_why(delivery)))
    return _outcome(delivery, TimeLimitExceeded(sentence["seconds"]), sentence["seconds"])


def _outcome(delivery: Delivery, error: Exception, seconds: float | None = None) -> Outcome:
    logger.error("Job %s[%s] ends: %s", delivery.message.task, delivery.id, error)
    outcome = Outcome(delivery=delivery, state=states.FAILURE, failure=failure_of(error), seconds=seconds)
    return follow_ups.completed_failure(outcome, follow_ups.options_of(delivery.message))


def _why(delivery: Delivery) -> str:
    if delivery.losses >= settings.TASK_MAX_LOSSES:
        return f"The worker process died under this job {delivery.losses} times; TASK_MAX_LOSSES allows no more."
    return "The worker process died after this job had begun, and acks_late=False forbids to run it again."
