"""What leaves no row is counted by the worker that ran it, for the statistics."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from django.db import DatabaseError, InterfaceError

from djtasks import states, statistics
from djtasks.message import Outcome
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures, bucket_of

logger = logging.getLogger("djtasks.worker")

WRITE_EVERY: Final = 10.0  # seconds; sooner than statistics.LAG, so that no period is added up without them


class Tally:
    """Counts by task and queue that are written now and then. What a killed process had not written is lost."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str], Figures] = {}
        self._since = 0.0

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count those of stored outcomes that leave no row."""
        for outcome in outcomes:
            if outcome.forget:
                self._add(outcome)

    def _add(self, outcome: Outcome) -> None:
        if not self._figures:
            self._since = time.monotonic()
        message, created_at = outcome.delivery.message, outcome.delivery.created_at
        count(outcome, self._figures.setdefault((message.task, message.queue), Figures()), states.SUCCESS)
        # Its row would have been counted as sent:
        if outcome.seconds is not None and created_at is not None and statistics.is_recent(created_at):
            self._figures.setdefault(("", message.queue), Figures()).counts[statistics.ENQUEUED] += 1

    def write(self, *, at_once: bool = False) -> None:
        """Write what has gathered, if it is time. An error costs these counts, and nothing else."""
        if not self._figures or (not at_once and time.monotonic() - self._since < WRITE_EVERY):
            return
        figures, self._figures = self._figures, {}
        try:
            statistics.add(figures)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("Counts for the statistics are lost: %s", error)


def count(outcome: Outcome, figures: Figures, state: str) -> None:
    """Count an outcome as one of that state, with its run time and for how long it had been ready before."""
    figures.counts[state] += 1
    if outcome.seconds is None:
        return
    figures.runs[bucket_of(outcome.seconds)] += 1
    message, created_at = outcome.delivery.message, outcome.delivery.created_at
    if created_at is not None:
        begun = utc_now() - timedelta(seconds=time.monotonic() - outcome.ended + outcome.seconds)
        figures.waits[bucket_of((begun - max(created_at, message.eta or created_at)).total_seconds())] += 1
