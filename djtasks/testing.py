"""For a site's own tests: run tasks at once, or run what was queued, in this very process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from django.conf import settings as django_settings
from django.db import connections
from django.test import override_settings

from djtasks import states
from djtasks.brokers import get_broker
from djtasks.execution import Execution
from djtasks.message import Delivery, Outcome, new_id
from djtasks.worker.ledger import Ledger

MOST_RUNS = 10_000  # jobs of one `run_jobs`; a job that sends itself again and again ends there


@contextmanager
def eager(*, propagates: bool = True) -> Iterator[None]:
    """Within the block, `delay` and `apply_async` run the task at once; what it raises is raised there.

    With `propagates=False` it is kept for `result.get()`. Nothing is queued and no row is written.
    """
    given = getattr(django_settings, "DJTASKS", {})
    changes = {"TASK_ALWAYS_EAGER": True, "TASK_EAGER_PROPAGATES": propagates}
    with override_settings(DJTASKS={**given, **changes}):
        yield


def run_jobs(*queues: str, on_commit: bool = True) -> int:
    """Run all jobs that are ready, and those that these send, in this process. Returns how many runs that were.

    Works inside a TestCase: what `transaction.on_commit` holds back there is called first, unless
    `on_commit=False`. Retries run at once, jobs with a later eta stay. `queues`: only these.
    """
    runs = 0
    owner = f"testing-{new_id()[-12:]}"
    ledger = Ledger(get_broker(), owner)
    while True:
        if on_commit:
            _run_commit_hooks()
        claimed = _claim(queues, owner)
        if not claimed:
            return runs
        for delivery in ledger.unended(claimed):
            runs += 1
            if runs > MOST_RUNS:
                raise RuntimeError(f"run_jobs() has run {MOST_RUNS} jobs, and there are more; does one send itself?")
            _run(delivery, ledger)


def _claim(queues: tuple[str, ...], owner: str) -> list[Delivery]:
    broker = get_broker()
    for queue in queues or broker.queues():
        if claimed := broker.claim(queue, limit=1, worker=owner):
            return claimed
    return []


def _run(delivery: Delivery, ledger: Ledger) -> None:
    execution = Execution(delivery, hostname="testing", report=lambda state, meta: ledger.report(delivery, state, meta))
    ledger.record(_without_delay(execution.run()), block=False)
    ledger.commit()


def _without_delay(outcome: Outcome) -> Outcome:
    """What comes of a retry or a rejection is not waited for: its delay says nothing of interest to a test."""
    following = replace(outcome.next, eta=None, countdown=None) if outcome.next is not None else None
    return replace(outcome, next=following, delay=0.0 if outcome.state == states.REJECTED else outcome.delay)


def _run_commit_hooks() -> None:
    """Call what waits for commits that a TestCase never makes, on all connections in use."""
    for connection in connections.all(initialized_only=True):
        while connection.run_on_commit:
            *_, function, robust = connection.run_on_commit.pop(0)
            _call(function, bool(robust))


def _call(function: object, robust: bool) -> None:
    try:
        function()  # type: ignore[operator]
    except Exception:
        if not robust:
            raise
