"""Thousands of schedules that are due in the same second, on one worker: how late each is sent, and begun."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

AHEAD: Final = 6  # seconds from the making of the schedules to their tick, at least


def measure(bench: Bench) -> Values:
    """`tick_sent`, `tick_begun`: ms of each after its tick; nothing for a peer without schedules in a database."""
    if not bench.peer.schedules:
        return {"tick_sent": None, "tick_begun": None}
    bench.ready_worker()
    numbers = bench.numbers(bench.plan.schedules)
    before = bench.marks.count()
    due = bench.peer.schedule(numbers, AHEAD)
    bench.wait_for(bench.sent)
    offset = time.monotonic_ns() - (datetime.now(UTC) - due) / timedelta(microseconds=1) * 1e3
    begun = [(moment - offset) / 1e6 for _, moment in bench.marks.since(before)]
    return {"tick_sent": bench.peer.sent_after(due), "tick_begun": begun}
