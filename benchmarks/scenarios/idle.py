"""A worker that has nothing to do: what it takes nevertheless."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

CALM: Final = 12.0  # seconds after the last job: pauses that grow have grown


def measure(bench: Bench) -> Values:
    """`idle_cpu`: percent of a core; `idle_memory`: MiB, of all the worker's processes."""
    worker = bench.ready_worker()
    time.sleep(CALM)
    cpu, began = worker.cpu(), time.monotonic()
    time.sleep(bench.plan.idle)
    used = (worker.cpu() - cpu) / (time.monotonic() - began)
    return {"idle_cpu": used * 100, "idle_memory": worker.memory()}
