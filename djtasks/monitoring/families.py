"""Counts and times as families of samples for Prometheus, with labels of which there are not too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import exp
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from djtasks.models.metric import STEPS, Figures

BOUNDS: Final = range(-6, 10)  # of the buckets, as powers of e: 2.5 ms to 2¼ hours

ByKind = Mapping[tuple[str, str], Figures]  # by task and queue


def jobs(name: str, text: str, found: ByKind) -> CounterMetricFamily:
    """How many jobs ended, by task, queue and state."""
    family = CounterMetricFamily(name, text, labels=["task", "queue", "state"])
    for (task, queue), figures in sorted(found.items()):
        for state, number in sorted(figures.counts.items()):
            family.add_metric([task, queue, state], number)
    return family


def runs(name: str, text: str, found: ByKind) -> HistogramMetricFamily:
    """How long jobs ran, by task: with the queue it would be as many series again for each queue."""
    return _histogram(name, text, "task", _summed((task, each.runs) for (task, _queue), each in found.items()))


def waits(name: str, text: str, found: ByKind) -> HistogramMetricFamily:
    """How long jobs were ready before they began, by queue: whose turn it is is a matter of the queue."""
    return _histogram(name, text, "queue", _summed((queue, each.waits) for (_task, queue), each in found.items()))


def _summed(parts: Iterable[tuple[str, Counter[int]]]) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = {}
    for label, buckets in parts:
        found.setdefault(label, Counter()).update(buckets)
    return found


def _histogram(name: str, text: str, label: str, found: Mapping[str, Counter[int]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, buckets in sorted(found.items()):
        if buckets:
            family.add_metric([value], _cumulated(buckets), _sum(buckets))
    return family


def _cumulated(buckets: Mapping[int, int]) -> list[tuple[str, float]]:
    bounded = [(f"{exp(bound):.4g}", sum(n for each, n in buckets.items() if each < STEPS * bound)) for bound in BOUNDS]
    return [*bounded, ("+Inf", sum(buckets.values()))]


def _sum(buckets: Mapping[int, int]) -> float:
    """All seconds, about: each as the mean of its bucket, as if what is in there were spread evenly."""
    width = STEPS * (exp(1 / STEPS) - 1)
    return sum(number * width * exp(each / STEPS) for each, number in buckets.items())
