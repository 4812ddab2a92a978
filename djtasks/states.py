"""The words for where a job stands, and Celery's sets of them."""

from __future__ import annotations

from typing import Final

PENDING: Final = "PENDING"  # may be claimed
SCHEDULED: Final = "SCHEDULED"  # waits for its eta; `AsyncResult.state` says PENDING
RETRY: Final = "RETRY"  # waits for its next try
RECEIVED: Final = "RECEIVED"  # claimed, not begun; `AsyncResult.state` says PENDING
STARTED: Final = "STARTED"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"
REJECTED: Final = "REJECTED"
IGNORED: Final = "IGNORED"
REPLACED: Final = "REPLACED"  # other jobs give its result; `AsyncResult.state` says STARTED

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES: Final = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})
ALL_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

# What a row of `Job` may hold: three groups that a job passes in this order.
WAITING: Final = (PENDING, SCHEDULED, RETRY)
RUNNING: Final = (RECEIVED, STARTED)
FINISHED: Final = (SUCCESS, FAILURE, REVOKED, IGNORED)
SETTLED: Final = (*FINISHED, REPLACED)  # its run is over for good


def as_seen_by_callers(state: str) -> str:
    """The row's state in Celery's words: what nobody has begun is PENDING."""
    if state == REPLACED:
        return STARTED
    return PENDING if state in (SCHEDULED, RECEIVED) else state
