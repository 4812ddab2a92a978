"""A million jobs through one worker: whether it keeps its pace and its memory, and what they leave in the database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Values
from benchmarks.scenarios.drain import last_result

if TYPE_CHECKING:
    from benchmarks.session import Bench

PORTIONS: Final = 20
WARM: Final = 4  # portions, after which the worker's memory counts
LATE: Final = 6  # portions at the end, 300,000 jobs, over which it is looked at once more


def measure(bench: Bench) -> Values:
    """`endurance_pace`: of the last two portions, times that of the first; `…_memory`: at the end, times when warm;
    `…_late`: times what it was `LATE` portions before.

    `…_dead`, `…_indexes`: as `Peer.wear`.
    """
    if not bench.peer.steps:
        return {}
    worker = bench.ready_worker()
    seconds, memory = [], []
    for _ in range(PORTIONS):
        began = time.perf_counter()
        bench.send_many(bench.plan.endurance // PORTIONS)
        bench.wait_for(bench.sent)
        last_result(bench)
        seconds.append(time.perf_counter() - began)
        memory.append(worker.memory())
    warm, before, end = memory[WARM - 1], memory[-1 - LATE], memory[-1]
    wear = bench.peer.wear()
    return {
        "endurance_pace": sum(seconds[:2]) / sum(seconds[-2:]),
        "endurance_memory": end / warm if end and warm else None,
        "endurance_late": end / before if end and before else None,
        **{f"endurance_{name}": value for name, value in wear.items()},
    }
