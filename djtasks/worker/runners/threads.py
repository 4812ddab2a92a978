"""So many threads, each with a job at a time and with connections of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from django.db import connections

from djtasks.worker.runners.base import Runner
from djtasks.worker.thread_limits import ThreadAlarm
from djtasks.worker.tidying import close_connections

if TYPE_CHECKING:
    from djtasks.worker.child import Child

LOOK: Final = 1.0  # seconds; how late a stop is noticed whose word did not come through


class Threads(Runner):
    """Runs jobs in `runs` threads; the main thread has the signals, and waits for their end."""

    def __init__(self, child: Child) -> None:
        super().__init__(child)
        self.limiter = ThreadAlarm(child.options.limits, clean=close_connections)
        child.consumer.patience = None  # it is told of a stop below

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._serve, args=(place,), name=f"djtasks-{place}", daemon=True)
            for place in range(self.child.options.runs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(LOOK)
                if self.child.consumer.stopping or self.child.consumer.held:
                    self.child.consumer.notify()

    def _serve(self, place: int) -> None:
        child = self.child
        try:
            while (call := child.consumer.next()) is not None:
                child.work(call, place)
            connections.close_all()
        except BaseException:
            self.fail()
