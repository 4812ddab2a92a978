"""Many jobs at once, in the fastest way that the peer offers. No worker runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

BATCH = 1_000  # jobs a call


def measure(bench: Bench) -> Values:
    """`bulk`: jobs a second."""
    bench.stop_worker()
    bench.send_many(10)
    batches = max(1, (bench.plan.jobs - bench.waiting) // BATCH)
    started = time.perf_counter()
    for _ in range(batches):
        bench.send_many(BATCH)
    return {"bulk": batches * BATCH / (time.perf_counter() - started)}
