"""Outcomes of jobs that end without a run, or whose run was ended from outside: what the keeper tells the ledger."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from typing import Any

from django.db import connections

from djtasks import follow_ups, registry, signals, states
from djtasks.conf import settings
from djtasks.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from djtasks.failure import failure_of
from djtasks.message import Delivery, Outcome
from djtasks.request import request_of

logger = logging.getLogger("djtasks.worker")


def ended_from_outside(delivery: Delivery, word: Mapping[str, Any]) -> Outcome:
    """How a job ends whose process is dead: as the supervisor's last word on that process says, or as lost."""
    sentence = next((each for each in word.get("sentences", ()) if each["id"] == delivery.id), None)
    if sentence is None:
        return _failed(delivery, WorkerLostError(_why(delivery)))
    if sentence["seconds"] is not None:
        return _failed(delivery, TimeLimitExceeded(sentence["seconds"]), sentence["seconds"])
    return _terminated(delivery, sentence["signum"], sentence["ran"])


def _failed(delivery: Delivery, error: Exception, seconds: float | None = None) -> Outcome:
    logger.error("Job %s[%s] ends: %s", delivery.message.task, delivery.id, error)
    outcome = Outcome(delivery=delivery, state=states.FAILURE, failure=failure_of(error), seconds=seconds)
    return follow_ups.completed_failure(outcome, follow_ups.options_of(delivery.message))


def _terminated(delivery: Delivery, number: int, seconds: float) -> Outcome:
    name = signal.Signals(number).name
    logger.info("Task %s[%s] was revoked and ended by %s", delivery.message.task, delivery.id, name)
    if signals.task_revoked.receivers:
        threading.Thread(target=_tell_of_revocation, args=(delivery, number), daemon=True).start()
    failure = failure_of(TaskRevokedError("terminated"))
    outcome = Outcome(delivery=delivery, state=states.REVOKED, failure=failure, seconds=seconds)
    return follow_ups.completed_failure(outcome, follow_ups.options_of(delivery.message))


def _tell_of_revocation(delivery: Delivery, number: int) -> None:
    """Tell the user's receivers, in a thread of their own: the keeper waits for nobody."""
    task, options = registry.find(delivery.message.task), follow_ups.options_of(delivery.message)
    request = request_of(delivery.message, id=follow_ups.visible_id(delivery.message, options), options=options)
    signals.task_revoked.notify(sender=task, request=request, terminated=True, signum=number, expired=False)
    connections.close_all()


def _why(delivery: Delivery) -> str:
    if delivery.losses >= settings.TASK_MAX_LOSSES:
        return f"The worker process died under this job {delivery.losses} times; TASK_MAX_LOSSES allows no more."
    return "The worker process died after this job had begun, and acks_late=False forbids to run it again."
