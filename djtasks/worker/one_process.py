"""A worker in one process, without a supervisor: the pool solo, and others where the system cannot fork."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from djtasks import signals
from djtasks.conf import settings
from djtasks.worker.child import Child, run_child
from djtasks.worker.keeper import Keeper
from djtasks.worker.keeping import run_keeper
from djtasks.worker.options import WorkerOptions
from djtasks.worker.orders import Orders, changes, queue_deeds
from djtasks.worker.processes import new_worker_id, slots_of

logger = logging.getLogger("djtasks.worker")

LAST_WORDS: Final = 3.0  # seconds that the keeper has to sign off; the store may not answer


def run_in_one_process(options: WorkerOptions, parent_pipe: int | None = None, slots_file: int | None = None) -> int:
    """Run a worker in this very process: jobs as its runner does, the keeper in a thread. Returns the exit code."""
    slots = slots_of(options, slots_file)
    worker = new_worker_id()
    slots.give(0, f"{worker}.0")
    child = Child(f"{worker}.0", 0, slots, options)
    keeper = Keeper(worker, 0, slots, options, say=lambda word: hear(word))

    def become(options: WorkerOptions) -> None:
        slots.tell_queues(options.queues, options.excluded)
        keeper.hear({"become": changes(options)})

    orders = Orders({"shutdown": lambda _word: child.stop(), **queue_deeds(lambda: keeper.options, become)})
    hear = partial(_hear, child, orders)
    signals.worker_init.notify(sender=child)
    thread = threading.Thread(
        target=run_keeper, args=(keeper, parent_pipe, child.stop), name="djtasks-keeper", daemon=True
    )
    thread.start()
    signals.worker_ready.notify(sender=child)
    is_stored = run_child(child, settings.WORKER_SHUTDOWN_TIMEOUT)
    if not is_stored:
        logger.warning("WORKER_SHUTDOWN_TIMEOUT is over: what could not be stored goes back when the beats are missed")
    keeper.stopping = True
    thread.join(timeout=LAST_WORDS)
    signals.worker_shutdown.notify(sender=child)
    return 0 if is_stored else 1


def _hear(child: Child, orders: Orders, word: Mapping[str, Any]) -> None:
    """Take the keeper's words where there is no supervisor."""
    if "lost" in word:
        child.stop()
    if "terminate" in word:
        logger.warning("A worker of one process cannot end what runs in it: the job goes on to its end.")
    if "order" in word:
        orders.take(word)
