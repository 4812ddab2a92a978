"""One job at a time, as web requests enqueue them. No worker runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

WARM_UP = 20  # jobs: the first one connects


def measure(bench: Bench) -> Values:
    """`enqueue`: calls a second."""
    bench.stop_worker()
    for _ in range(WARM_UP):
        bench.send()
    started = time.perf_counter()
    for _ in range(bench.plan.singles):
        bench.send()
    return {"enqueue": bench.plan.singles / (time.perf_counter() - started)}
