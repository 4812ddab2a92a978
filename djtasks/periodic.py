"""What a schedule sends: the message of one of its ticks."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from djtasks import encoding, publish, registry
from djtasks.message import Message, microseconds
from djtasks.models import PeriodicTask

_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62


def tick_id(name: str, tick: datetime) -> str:
    """The id of the job of a tick: the same whoever makes it, and in the order of the ticks.

    A UUID of version 7 (RFC 9562): 48 bits are the tick in ms, the others a hash of the schedule's name and the tick.
    """
    moment = microseconds(tick)
    digest = hashlib.sha256(f"{moment} {name}".encode("utf-8", "surrogatepass")).digest()
    noise = int.from_bytes(digest[:16], "big")
    high = (moment // 1000 << 80) | _VERSION_7 | ((noise >> 64 & 0xFFF) << 64)
    return str(UUID(int=high | _VARIANT | (noise & 0x3FFF_FFFF_FFFF_FFFF)))


def message_of_tick(row: PeriodicTask, tick: datetime) -> Message:
    """The message for the tick of `row` at `tick`. Raises what a task's `apply_async` does, and what a router does."""
    countdown = random.uniform(0, row.jitter) if row.jitter else None
    message = _built(row, tick)
    return replace(message, id=tick_id(row.name, tick), schedule=row.name, countdown=countdown, check=True)


def message_of(row: PeriodicTask, time: datetime) -> Message:
    """The message of a job of `row` for `time`, with an id of its own. Raises as `message_of_tick` does."""
    return replace(_built(row, time), schedule=row.name)


def _built(row: PeriodicTask, time: datetime) -> Message:
    args, kwargs = row.arguments()
    return publish.build(row.task, args, kwargs, _options(row, time), registry.find(row.task))


def _options(row: PeriodicTask, time: datetime) -> dict[str, Any]:
    headers = encoding.decode(row.headers, fetch=False)
    return {
        **row.further_options(),
        "queue": row.queue or None,
        "priority": row.priority,
        "expires": None if row.expires is None else time + timedelta(seconds=row.expires),
        "headers": {**headers, "periodic_task_name": row.name, "scheduled_for": time.isoformat()},
    }
