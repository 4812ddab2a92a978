"""Jobs that take a while: of 1 ms and of 10 ms, two at a time; and how soon one begins while others do.

Two processes can do 2,000 jobs of 1 ms a second, and 200 of 10 ms: what is missing is the queue's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

KINDS: Final = {"drain_1ms": (0.001, 5), "drain_10ms": (0.010, 1)}  # seconds a job, share of `plan.busy`


def measure(bench: Bench) -> Values:
    """`drain_1ms`, `drain_10ms`: jobs a second; `half_load`: ms of each pick-up while half of the former is sent."""
    found: dict[str, float] = {}
    bench.ready_worker()
    for name, (seconds, share) in KINDS.items():
        before, jobs = bench.marks.count(), bench.plan.busy * share
        bench.send_many(jobs, seconds)
        bench.wait_for(before + jobs)
        moments = sorted(moment for _, moment in bench.marks.since(before))
        found[name] = (jobs - 1) / ((moments[-1] - moments[0]) / 1e9)
    return {**found, "half_load": _paced(bench, found["drain_1ms"] / 2)}


def _paced(bench: Bench, rate: float) -> list[float]:
    """ms from the call that enqueues to the first line, of each job of 1 ms, `rate` of which are sent a second."""
    first = bench.marks.count()
    called: dict[int, int] = {}
    began = time.monotonic()
    for index in range(bench.plan.paced):
        if (pause := began + index / rate - time.monotonic()) > 0:
            time.sleep(pause)
        (number,) = bench.numbers(1)
        called[number] = time.monotonic_ns()
        bench.peer.send(number, KINDS["drain_1ms"][0])
    bench.wait_for(first + bench.plan.paced)
    return [(moment - called[number]) / 1e6 for number, moment in bench.marks.since(first)]
