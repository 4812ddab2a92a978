"""Earlier attempts of a job: a bounded JSON list, kept beside it."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from typing import Any, Final

from djtasks.message import Outcome

MOST_KEPT: Final = 20  # the newest


def with_attempt(attempts: str | None, attempt: dict[str, Any]) -> str:
    """The JSON list `attempts` with one more."""
    try:
        earlier = json.loads(attempts or "[]")
    except (ValueError, RecursionError):
        earlier = []
    if not isinstance(earlier, list):
        earlier = []
    return json.dumps([*earlier, attempt][-MOST_KEPT:], separators=(",", ":"))


def attempts_after(outcome: Outcome, now: datetime) -> str:
    """The earlier attempts of the job and the one that has ended so; `now` is the database's time."""
    failure, seconds = outcome.failure, outcome.seconds or 0.0
    start = now - timedelta(seconds=time.monotonic() - outcome.ended + seconds)
    attempt = {
        "token": outcome.delivery.token,
        "worker": outcome.delivery.worker,
        "start": start.isoformat(),
        "seconds": seconds,
        "error": f"{failure.kind}: {failure.message}"[:1000] if failure else None,
        "ending": outcome.state,
    }
    return with_attempt(outcome.delivery.attempts, attempt)
