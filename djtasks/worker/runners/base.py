"""What a runner is to its child."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn

from djtasks.limits import Limiter
from djtasks.worker.tidying import tidy_up

if TYPE_CHECKING:
    from djtasks.worker.child import Child

logger = logging.getLogger("djtasks.worker")


class Runner(ABC):
    """Runs the jobs of one process; never fetches, acknowledges or stores. `limiter` sets their soft time limits."""

    limiter: Limiter

    def __init__(self, child: Child) -> None:
        self.child = child

    @abstractmethod
    def run(self) -> None:
        """Run what the child's consumer gives, until it says that this is the end and what runs has ended."""

    def fail(self) -> NoReturn:
        """End the process: a thread of ours has met what it cannot handle, and its job would never come to an end."""
        logger.exception("A runner of jobs failed; the process ends, and is replaced")
        os._exit(1)

    def tidy_up(self) -> None:
        """Called in the thread that has run a job: leave nothing of it to the next."""
        tidy_up()
