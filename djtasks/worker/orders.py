"""What an operator asks of a worker while it runs, beside the end of a job: to stop, to grow, to serve other queues.

The row of the worker holds the orders (`Worker.tell`), the keeper reads them, and who has the processes obeys.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from djtasks.worker.options import WorkerOptions

logger = logging.getLogger("djtasks.worker")

REMEMBERED: Final = 1000  # orders; the row may tell one twice, which counts once

Word = Mapping[str, Any]
Deed = Callable[[Word], object]


class Orders:
    """Takes orders, each once however often it is told. `deeds`: what is done about each, by its name."""

    def __init__(self, deeds: Mapping[str, Deed]) -> None:
        self._deeds = deeds
        self._taken: deque[str] = deque(maxlen=REMEMBERED)

    def take(self, word: Word) -> None:
        """Do what `word` asks for, if it was not done before. Raises nothing."""
        if word["id"] in self._taken:
            return
        self._taken.append(word["id"])
        deed = self._deeds.get(word["order"])
        if deed is None:
            logger.warning("An operator asks for %s, which this worker cannot do", word["order"])
            return
        logger.info("An operator asks for %s", " ".join(str(each) for name, each in word.items() if name != "id"))
        try:
            deed(word)
        except ValueError as error:
            logger.warning("It cannot be done: %s", error)


def queue_deeds(options: Callable[[], WorkerOptions], become: Callable[[WorkerOptions], object]) -> dict[str, Deed]:
    """The deeds about queues, of who has `options` now and can `become` what others say."""
    return {
        "add_consumer": lambda word: become(options().with_queue(word["queue"])),
        "cancel_consumer": lambda word: become(options().without_queue(word["queue"])),
    }


def changes(options: WorkerOptions) -> dict[str, Any]:
    """What of the options an order may change, for the keeper."""
    return {"queues": options.queues, "excluded": options.excluded, "processes": options.processes}
