"""What limits cost: the same jobs with a rate and with places that hold nothing back, and with unique keys.

Each kind is sent and drained in turn, plain ones first; shown is how many times as long as these the others took.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.figures import Values
from benchmarks.scenarios.drain import last_result

if TYPE_CHECKING:
    from benchmarks.session import Bench

KINDS = ("plain", "rated", "placed", "unique")


def measure(bench: Bench) -> Values:
    """`sent_…` and `drained_…`: how many times as long as of plain jobs; for each kind but these."""
    if not bench.peer.limits:
        return {}
    bench.ready_worker()
    sent, drained = {}, {}
    for kind in KINDS:
        sent[kind], drained[kind] = _times(bench, kind)
    return {f"sent_{kind}": sent[kind] / sent["plain"] for kind in KINDS[1:]} | {
        f"drained_{kind}": drained[kind] / drained["plain"] for kind in KINDS[1:]
    }


def _times(bench: Bench, kind: str) -> tuple[float, float]:
    """Seconds to send jobs of a kind, and from the start of the first to the last result."""
    bench.wait_for(bench.sent)
    bench.stop_worker()
    before, numbers = bench.marks.count(), bench.numbers(bench.plan.limited)
    started = time.perf_counter()
    bench.peer.send_limited(kind, numbers)
    seconds = time.perf_counter() - started
    bench.start_worker()
    bench.wait_for(before + len(numbers))
    ended = last_result(bench) or 0
    first = min(moment for _, moment in bench.marks.since(before))
    return seconds, (ended - first) / 1e9
