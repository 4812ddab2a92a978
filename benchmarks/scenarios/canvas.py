"""Workflows: a chord of many members and a chain of many steps, from the call to the last result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

TRIALS: Final = 3  # of each, a session


def measure(bench: Bench) -> Values:
    """`chord`, `chain`: ms of each; nothing for a peer that cannot compose."""
    if not bench.peer.composes:
        return {"chord": None, "chain": None}
    bench.ready_worker()
    return {
        "chord": [_timed(lambda: bench.peer.chord(bench.plan.members), bench.plan.members) for _ in range(TRIALS)],
        "chain": [_timed(lambda: bench.peer.chain(bench.plan.steps), bench.plan.steps) for _ in range(TRIALS)],
    }


def _timed(run, expected: int) -> float:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    found = run()
    if found != expected:
        raise RuntimeError(f"{expected} jobs gave {found}")
    return (time.perf_counter() - started) * 1e3
