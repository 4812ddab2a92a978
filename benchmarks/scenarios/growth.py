"""What enqueue, claim and finish cost with a thousand jobs waiting, with a million, and with others besides.

Those are scheduled ones that are more urgent, and then such as have ended.

No worker runs: the steps are taken here, ten jobs a time, so that the queue stays as long as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Values

if TYPE_CHECKING:
    from benchmarks.session import Bench

FEW: Final = 1_000  # jobs that wait at first
TURNS: Final = 1_200  # of each step, of whose times the median counts
IN_A_ROW: Final = 100  # turns between two pauses: the machine is not as fast in one second as in the next
PAUSE: Final = 0.5  # seconds
STEPS: Final = ("enqueue", "claim", "finish")


def measure(bench: Bench) -> Values:
    """`waiting_…`, `scheduled_…`, `finished_…` of each step: times as long as with a thousand jobs waiting."""
    if not bench.peer.steps:
        return {}
    bench.stop_worker()
    bench.send_many(FEW)
    few = _times(bench)
    bench.send_many(bench.plan.waiting - FEW)
    found = _ratios("waiting", few, _times(bench))
    bench.peer.send_scheduled(bench.plan.waiting)
    found |= _ratios("scheduled", few, _times(bench))
    bench.peer.store_finished(bench.plan.finished)
    return found | _ratios("finished", few, _times(bench))


def _times(bench: Bench) -> list[float]:
    """Seconds of each step: enqueue, claim, finish. Each time with as few dead rows at its start."""
    bench.peer.settle()
    taken: list[list[float]] = [[] for _ in STEPS]
    for turn in range(TURNS):
        if turn % IN_A_ROW == 0:
            time.sleep(PAUSE)
        for times, seconds in zip(taken, _timed(bench.peer.one_turn(bench.numbers(10))), strict=True):
            times.append(seconds)
    return [median(times) for times in taken]


def _timed(steps: Iterator[Callable[[], object]]) -> Iterator[float]:
    for step in steps:
        began = time.perf_counter()
        step()
        yield time.perf_counter() - began


def _ratios(name: str, before: list[float], after: list[float]) -> dict[str, float]:
    return {f"{name}_{step}": late / early for step, early, late in zip(STEPS, before, after, strict=True)}
