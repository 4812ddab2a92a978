"""One job at a time, in the main thread: a child of the pool prefork, and solo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from djtasks.worker.limits import Alarm
from djtasks.worker.runners.base import Runner
from djtasks.worker.tidying import close_connections

if TYPE_CHECKING:
    from djtasks.worker.child import Child


class MainThread(Runner):
    """Runs a job in the thread that has the signals, so a soft limit interrupts whatever it does."""

    def __init__(self, child: Child) -> None:
        super().__init__(child)
        self.limiter = Alarm(child.options.limits, clean=close_connections)

    def run(self) -> None:
        child, exchange = self.child, self.child.exchange
        while (call := exchange.next()) is not None:
            child.work(call, 0)

    def tidy_up(self) -> None:
        self.child.keep_signals()
        super().tidy_up()
