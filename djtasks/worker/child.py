"""One process that runs jobs: its runner runs them, one I/O thread talks to the store (`Exchange`).

What varies from pool to pool is the runner alone: the main thread, several threads, an event loop.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from django.db import connections

from djtasks import signals, states
from djtasks.batch_execution import BatchExecution
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.exceptions import LeaseLost
from djtasks.execution import Execution
from djtasks.half_open import asking_here
from djtasks.message import Delivery, Outcome
from djtasks.worker.exchange import Exchange
from djtasks.worker.gathering import Call
from djtasks.worker.options import WorkerOptions
from djtasks.worker.runners import runner_of
from djtasks.worker.slots import Slots
from djtasks.worker.stops import spare_copies, take_signals
from djtasks.worker.tidying import check_connections

logger = logging.getLogger("djtasks.worker")


class Child:
    """One process. `owner` is its boot id, new at each fork; `index` its slot."""

    def __init__(self, owner: str, index: int, slots: Slots, options: WorkerOptions) -> None:
        self.owner = owner
        self.index = index
        self.slots = slots
        self.options = options
        self.broker = get_broker()
        self.exchange = Exchange(self.broker, owner, index, slots, options)
        self.ledger, self.consumer = self.exchange.ledger, self.exchange.consumer
        self.runner = runner_of(options.pool)(self)
        self.has_signals = False  # whether a stop comes to us as a signal
        self._pid = os.getpid()
        self._ended = 0  # jobs

    def run(self, patience: float | None = None) -> bool:
        """Work until `stop` is called, then store what is finished, give back the rest and return.

        A store that does not answer then is waited for, `patience` seconds at most. Returns whether it came to that.
        """
        signals.worker_process_init.notify(sender=self)
        self.exchange.start()
        self.runner.run()
        signals.worker_process_shutdown.notify(sender=self, pid=os.getpid(), exitcode=0)
        is_stored = self.exchange.finish(patience)
        connections.close_all()
        return is_stored

    def stop(self, number: int | None = None, _frame: object = None) -> None:
        """Ask for a warm stop. Safe in a signal handler, from any thread, and twice.

        A signal that comes to end a job that runs ends this process.
        """
        if number is not None and self.slots.is_condemned(self.index):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.exchange.stop()

    # For the runner

    def work(self, call: Call, place: int) -> None:
        """Run a call, in this thread, from its start to the outcomes in the ledger. `place` is its own in the slot."""
        check_connections()
        execution = self.execution(call, place)
        started = time.monotonic()
        outcomes = execution.run()
        self.ended(call, place, outcomes, time.monotonic() - started)

    def execution(self, call: Call, place: int) -> BatchExecution:
        """The run of a call, each job of which is marked in its place as it begins."""
        executions = [self._execution(delivery, place, member) for member, delivery in enumerate(call)]
        return BatchExecution(executions, self.runner.limiter)

    def _execution(self, delivery: Delivery, place: int, member: int) -> Execution:
        execution = Execution(
            delivery,
            hostname=self.options.hostname,
            report=lambda state, meta: self.ledger.report(delivery, state, meta),
            begin=lambda task: self._begin(delivery, (place, member), task, execution.request.time_limit),
            limiter=self.runner.limiter,
        )
        return execution

    def ended(self, call: Call, place: int, outcomes: Sequence[Outcome], seconds: float) -> None:
        """A call has come to the outcomes of its jobs, `seconds` after its start."""
        if os.getpid() != self._pid:
            os._exit(0)  # a copy that the task forked and let return: it has no lease and no I/O thread
        failed = sum(each.state == states.FAILURE for each in outcomes)
        self.slots.clear(self.index, place=place, ended=len(outcomes), failed=failed)
        for outcome in outcomes:
            if outcome.count == "refusals":
                self.consumer.refuse(outcome.delivery.message.task, outcome.delay)
            self.ledger.record(outcome)
        self.slots.tell_unsettled(self.index, self.ledger.pending)
        self.runner.tidy_up()
        self.consumer.done(call, seconds)
        self.exchange.settle()
        self._ended += len(outcomes)
        self._recycle(self._ended)

    def keep_signals(self) -> None:
        """Take the stops back that a job has taken from us. For the main thread."""
        if self.has_signals and signal.getsignal(signal.SIGTERM) != self.stop:
            take_signals(self.stop)

    def _recycle(self, runs: int) -> None:
        """Stop after so many jobs, or once the process has grown too large; the supervisor replaces it."""
        if not self.options.forks:
            return  # nobody would
        if self.options.max_tasks and runs >= self.options.max_tasks:
            self.stop()
        elif self.options.max_memory and (used := most_memory()) > self.options.max_memory:
            if not self.consumer.stopping:
                most = self.options.max_memory
                logger.info("Child %d is replaced: it has taken %d KiB, and may take %d", self._pid, used, most)
            self.stop()

    def _begin(self, delivery: Delivery, at: tuple[int, int], task: Any, time_limit: float | None) -> None:
        """Mark the job as begun; one that is acknowledged early is marked in the broker too, in one call."""
        if not self.exchange.is_fresh():  # it may have been stopped since it took the job
            raise LeaseLost(f"This worker may have been taken for dead: job {delivery.id} does not begin here.")
        if not task.acknowledges_late and not self._start(delivery):
            raise LeaseLost(f"Job {delivery.id} belongs to another worker by now.")
        place, member = at
        self.slots.mark(self.index, delivery.id, delivery.token, time_limit, place=place, member=member)
        if delivery.message.unique_key is not None and delivery.message.uniqueness.until_start:
            self.broker.unlock([delivery.message])
        tracked = settings.TASK_TRACK_STARTED if task.track_started is None else task.track_started
        self.ledger.begin(delivery, tracked=tracked)

    def _start(self, delivery: Delivery) -> bool:
        """Let the broker know that the job begins, by the connection of the user's code. Returns whether it is ours."""
        with asking_here() if self.broker.transactional else nullcontext():
            return bool(self.broker.start([delivery]))


def most_memory() -> int:
    """The most memory that this process has taken so far, in KiB (what of it is shared with others counts, too)."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most  # bytes there


def run_child(child: Child, patience: float | None = None) -> bool:
    """Run `child` as the process that it was forked for: signals, then work, as `Child.run` says."""
    child.has_signals = True
    take_signals(child.stop)
    spare_copies()
    return child.run(patience)
