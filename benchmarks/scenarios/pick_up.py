"""How soon an idle worker begins: from the call that enqueues to the first line of the task."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

# Random, so as not to walk in step with a worker that looks at intervals; long enough for it to be idle again.
PAUSE = (0.05, 0.2)  # seconds


def measure(bench: Bench) -> Values:
    """`pick_up`: ms of each job."""
    bench.ready_worker()
    samples = []
    for _ in range(bench.plan.pauses):
        time.sleep(random.uniform(*PAUSE))
        begun, called = bench.marks.count(), time.monotonic_ns()
        bench.send()
        bench.wait_for(bench.sent)
        samples.append((bench.marks.since(begun)[0][1] - called) / 1e6)
    return {"pick_up": samples}
