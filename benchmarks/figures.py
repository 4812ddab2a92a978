"""What is measured: how much is done, which figures come out, how rounds become one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

Values = Mapping[str, float | list[float] | None]  # what a scenario found: values, or samples to be pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much a session does."""

    scenarios: Sequence[str]
    jobs: int = 20_000  # that wait when the drain begins
    singles: int = 1_000  # enqueued one at a time
    pauses: int = 30  # pick-ups of an idle worker
    trips: int = 100  # with a result
    members: int = 1_000  # of a chord
    steps: int = 100  # of a chain
    limited: int = 2_000  # jobs of each kind of limit
    schedules: int = 10_000  # due in the same second
    busy: int = 400  # jobs of 10 ms, and five times as many of 1 ms
    paced: int = 1_000  # jobs sent at half of what the worker can do
    waiting: int = 1_000_000  # jobs in a long queue
    finished: int = 5_000_000  # jobs that have ended, in a large table
    endurance: int = 1_000_000  # jobs that one worker runs
    idle: float = 10.0  # seconds in which a worker without work is watched


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. `source` names the values it is made of, in what the scenarios return."""

    title: str
    source: str
    rising: bool  # more is better
    digits: int
    pick: Callable[[Sequence[float]], float] = median


def percentile(percent: int) -> Callable[[Sequence[float]], float]:
    """A function that picks the value below which `percent` of 100 samples lie."""
    return lambda samples: quantiles(samples, n=100, method="inclusive")[percent - 1]


FIGURES: Final = (
    Figure("enqueue one at a time, jobs/s", "enqueue", True, 0),
    Figure("enqueue in bulk, jobs/s", "bulk", True, 0),
    Figure("drain, jobs/s", "drain", True, 0),
    Figure("worker CPU in the drain, µs/job", "cpu", False, 0),
    Figure("worker memory after the drain, MiB", "memory", False, 0),
    Figure("pick-up when idle, p50, ms", "pick_up", False, 1, percentile(50)),
    Figure("pick-up when idle, p95, ms", "pick_up", False, 1, percentile(95)),
    Figure("pick-up when idle, p99, ms", "pick_up", False, 1, percentile(99)),
    Figure("drain of jobs of 1 ms, jobs/s (2,000 at most)", "drain_1ms", True, 0),
    Figure("drain of jobs of 10 ms, jobs/s (200 at most)", "drain_10ms", True, 0),
    Figure("pick-up at half load, p50, ms", "half_load", False, 1, percentile(50)),
    Figure("pick-up at half load, p95, ms", "half_load", False, 1, percentile(95)),
    Figure("pick-up at half load, p99, ms", "half_load", False, 1, percentile(99)),
    Figure("idle worker, % of a core", "idle_cpu", False, 2),
    Figure("idle worker, MiB", "idle_memory", False, 0),
    Figure("round trip with the result, p50, ms", "round_trip", False, 1, percentile(50)),
    Figure("chord of 1,000, ms", "chord", False, 0),
    Figure("chain of 100, ms", "chain", False, 0),
    Figure("sending with a rate limit, × plain", "sent_rated", False, 1),
    Figure("sending with max_concurrency, × plain", "sent_placed", False, 1),
    Figure("sending unique jobs, × plain", "sent_unique", False, 1),
    Figure("drain with a rate limit, × plain", "drained_rated", False, 1),
    Figure("drain with max_concurrency, × plain", "drained_placed", False, 1),
    Figure("drain of unique jobs, × plain", "drained_unique", False, 1),
    Figure("10,000 schedules due at once: sent, p50, ms", "tick_sent", False, 0, percentile(50)),
    Figure("10,000 schedules due at once: sent, p99, ms", "tick_sent", False, 0, percentile(99)),
    Figure("10,000 schedules due at once: begun, p99, ms", "tick_begun", False, 0, percentile(99)),
    Figure("enqueue with 1,000,000 waiting, × with 1,000", "waiting_enqueue", False, 2),
    Figure("claim with 1,000,000 waiting, × with 1,000", "waiting_claim", False, 2),
    Figure("finish with 1,000,000 waiting, × with 1,000", "waiting_finish", False, 2),
    Figure("enqueue with 1,000,000 scheduled too", "scheduled_enqueue", False, 2),
    Figure("claim with 1,000,000 scheduled too", "scheduled_claim", False, 2),
    Figure("finish with 1,000,000 scheduled too", "scheduled_finish", False, 2),
    Figure("enqueue with 5,000,000 finished too", "finished_enqueue", False, 2),
    Figure("claim with 5,000,000 finished too", "finished_claim", False, 2),
    Figure("finish with 5,000,000 finished too", "finished_finish", False, 2),
    Figure("1,000,000 jobs: the last tenth, × the pace of the first", "endurance_pace", True, 2),
    Figure("1,000,000 jobs: memory after them, × after 200,000", "endurance_memory", False, 3),
    Figure("1,000,000 jobs: memory after them, × 300,000 before", "endurance_late", False, 3),
    Figure("1,000,000 jobs: dead rows after them, %", "endurance_dead", False, 1),
    Figure("1,000,000 jobs: size of the indexes, × built anew", "endurance_indexes", False, 2),
)


def value(figure: Figure, rounds: Sequence[Values]) -> float | None:
    """The figure over all rounds of a peer: the median of their values, or a percentile of all their samples."""
    found: list[float] = []
    for each in rounds:
        given = each.get(figure.source)
        found += given if isinstance(given, list) else [given] if given is not None else []
    if not found or (figure.pick is not median and len(found) < 2):
        return None
    return figure.pick(found)


def ratio(figure: Figure, mine: float, other: float) -> float | None:
    """How many times better `mine` is than `other`; below 1: worse."""
    better, worse = (mine, other) if figure.rising else (other, mine)
    return better / worse if worse else None
