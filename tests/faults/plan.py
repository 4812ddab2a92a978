"""What a run is to be, and what came of it: words and values, without Django."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds: after which a silent worker is lost; how long an outage lasts; how long a job holds the GIL."""

    lost_after: float
    outage: float
    long: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is to be. Seconds; jobs a second."""

    broker: str
    seconds: float
    seed: int
    rate: float
    pace: Pace
    only: tuple[str, ...] = ()  # parts of names of faults
    keep: bool = False  # the folder with the logs, though all went well


@dataclass(slots=True)
class Figures:
    """What the faults of one kind came to: how often they struck, and the seconds to recover."""

    struck: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """What came of the jobs."""

    accepted: int = 0
    refused: int = 0
    unconfirmed: int = 0  # stored although their sender was told nothing, or an error
    finished: int = 0
    lost: int = 0
    given_up: int = 0  # by the poison rule
    ended_early: int = 0  # acks_late=False: begun, and never again
    twice: Counter[str] = field(default_factory=Counter)  # runs too many, by cause
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    plan: Plan
    store: str  # its servers, with their versions
    verdict: Verdict
    figures: dict[str, Figures]
    folder: Path | None  # with the logs, if it was kept
