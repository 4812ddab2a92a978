"""A job and its result: from the call that enqueues to the value in the caller's hands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench


def measure(bench: Bench) -> Values:
    """`round_trip`: ms of each job; nothing for a peer that keeps no results."""
    if not bench.peer.results:
        return {"round_trip": None}
    bench.ready_worker()
    samples = []
    for _ in range(bench.plan.trips):
        started = time.perf_counter()
        number, handle = bench.send()
        if bench.peer.result(handle) != number:
            raise RuntimeError(f"job {number} gave another result")
        samples.append((time.perf_counter() - started) * 1e3)
    return {"round_trip": samples}
