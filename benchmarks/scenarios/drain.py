"""A full queue, and a worker that comes to it.

The clock runs from the start of the first job, so without the start of the worker, to the start of
the last one; where results are stored, until the last of them is, so that nobody gains by postponing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

PATIENCE = 30.0  # seconds after the last job's start until its result must be stored


def measure(bench: Bench) -> Values:
    """`drain`: jobs a second; `cpu`: µs a job, of all the worker's processes; `memory`: MiB at the end."""
    bench.stop_worker()
    bench.send_many(max(0, bench.plan.jobs - bench.waiting))
    before, jobs = bench.marks.count(), bench.waiting
    worker = bench.start_worker()
    bench.wait_for(before + 1)
    cpu, begun = worker.cpu(), bench.marks.count() - before
    bench.wait_for(before + jobs)
    ended = last_result(bench)
    cpu = worker.cpu() - cpu
    marks = sorted(moment for _, moment in bench.marks.since(before))
    seconds = ((ended or marks[-1]) - marks[0]) / 1e9
    return {"drain": jobs / seconds, "cpu": cpu * 1e6 / max(1, jobs - begun), "memory": worker.memory()}


def last_result(bench: Bench) -> int | None:
    """When all results are stored: CLOCK_MONOTONIC in ns; None if the peer stores none."""
    deadline = time.monotonic() + PATIENCE
    while (stored := bench.peer.settled()) is not None and stored < bench.sent:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {stored:,} of {bench.sent:,} results are stored. {bench.last_words()}")
        time.sleep(0.005)
    return None if stored is None else time.monotonic_ns()
