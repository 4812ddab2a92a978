"""Beat in a process of its own: a worker without children, so that it is seen, beats and helps to rescue."""

from __future__ import annotations

from typing import Any

from djtasks.worker.keeper import Keeper
from djtasks.worker.keeping import run_keeper
from djtasks.worker.options import WorkerOptions
from djtasks.worker.processes import new_worker_id, slots_of
from djtasks.worker.stops import take_signals


class BeatAlone:
    """Runs until a signal stops it."""

    def __init__(self, options: WorkerOptions, slots_file: int | None = None) -> None:
        self.options = options
        self.slots = slots_of(options, slots_file)
        self._is_stopping = False
        self._keeper: Keeper | None = None

    def run(self) -> int:
        """Beat until stopped. Returns the exit code."""
        take_signals(self.stop)
        while not self._is_stopping:
            self._keeper = Keeper(new_worker_id(), 0, self.slots, self.options, say=self._hear)
            run_keeper(self._keeper, None)
        return 0

    def stop(self, *_signal: object) -> None:
        """Ask for the end. Safe in a signal handler."""
        self._is_stopping = True
        if self._keeper is not None:
            self._keeper.stopping = True

    def _hear(self, word: dict[str, Any]) -> None:
        if "lost" in word and self._keeper is not None:  # others took it for dead: it goes on under a new name
            self._keeper.stopping = True
