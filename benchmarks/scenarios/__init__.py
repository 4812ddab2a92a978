"""What is measured: a file each, with a function `measure(bench)` that knows nothing of the peers.

In this order, each goes on from where the last one ended: what is enqueued is what the drain drains.
"""

from types import ModuleType
from typing import Final

from benchmarks.scenarios import (
    bulk,
    busy,
    canvas,
    drain,
    endurance,
    enqueue,
    growth,
    idle,
    limits,
    pick_up,
    round_trip,
    schedules,
)

SCENARIOS: Final[dict[str, ModuleType]] = {
    "enqueue": enqueue,
    "bulk": bulk,
    "drain": drain,
    "pick-up": pick_up,
    "busy": busy,
    "idle": idle,
    "round-trip": round_trip,
    "canvas": canvas,
    "limits": limits,
    "schedules": schedules,
    "endurance": endurance,
    "growth": growth,
}
