"""Tasks run in the process of the test: where they are sent, or once they are asked to; and time passes if it is to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeGuard

from django.conf import settings as django_settings
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings

from djtasks import builtin, code_schedules, publish, states
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.due import turn_of
from djtasks.exceptions import ImproperlyConfigured
from djtasks.execution import Execution
from djtasks.message import Delivery, Outcome, new_id
from djtasks.models import Job, PeriodicTask, statements
from djtasks.models.advancing import Step
from djtasks.periodic import message_of_tick
from djtasks.worker.ledger import Ledger

UPKEEP: Final = (builtin.count.name, builtin.end_stranded.name, builtin.prune.name)
_OF_BLOCKS: Final = ("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO")  # how Django begins and ends inner blocks
MOST_RUNS: Final = 10_000  # jobs of one `run_jobs`; a job that sends itself again and again ends there


@contextmanager
def eager(*, propagates: bool = True) -> Iterator[None]:
    """Within the block, `delay` and `apply_async` run the task at once; what it raises is raised there.

    With `propagates=False` it is kept for `result.get()`. Nothing is queued and no row is written.
    """
    given = getattr(django_settings, "DJTASKS", {})
    changes = {"TASK_ALWAYS_EAGER": True, "TASK_EAGER_PROPAGATES": propagates}
    with override_settings(DJTASKS={**given, **changes}):
        yield


def run_jobs(*queues: str, on_commit: bool = True, until: timedelta | datetime | None = None) -> int:
    """Run all jobs that are ready, and those that these send, in this process. Returns how many runs that were.

    Works inside a TestCase: what `transaction.on_commit` holds back there is called first, unless
    `on_commit=False`. Retries run at once, jobs with a later eta stay. `queues`: only these.

    With `until` (a duration from now, or an aware datetime) it is as if that time passed: retries, jobs with an eta
    and the ticks of schedules, of rows and of the code, come in the order of their times (but for djtasks' own upkeep);
    what a job sends with a countdown or an eta counts from the moment at which it ran. The clock that tasks see stays
    as it is. Raises ImproperlyConfigured where the queues are not in the database.
    """
    runner = _Runner(queues, on_commit)
    if until is None:
        return runner.run_ready(keeps_delays=False)
    return _Hourglass(runner, until).run()


class _Runner:
    """Runs what is ready, as a worker of one process would."""

    def __init__(self, queues: tuple[str, ...], on_commit: bool) -> None:
        self.queues = queues
        self.on_commit = on_commit
        self.runs = 0
        self.owner = f"testing-{new_id()[-12:]}"
        self.ledger = Ledger(get_broker(), self.owner)

    def run_ready(self, *, keeps_delays: bool) -> int:
        """Run until nothing is ready. Returns how many runs there were so far."""
        while True:
            if self.on_commit:
                _run_commit_hooks()
            claimed = _claim(self.queues, self.owner)
            if not claimed:
                return self.runs
            for delivery in self.ledger.unended(claimed):
                self.runs += 1
                if self.runs > MOST_RUNS:
                    raise RuntimeError(
                        f"run_jobs() has run {MOST_RUNS} jobs, and there are more; does one send itself?"
                    )
                _run(delivery, self.ledger, keeps_delays)


class _Hourglass:
    """Lets time pass for what waits for it in the database."""

    def __init__(self, runner: _Runner, until: timedelta | datetime) -> None:
        if not get_broker().transactional:
            raise ImproperlyConfigured(
                "run_jobs(until=…) needs queues in the database: BROKER_URL 'database://' in tests."
            )
        code_schedules.sync()  # as beat does when it begins
        self.runner = runner
        self.began = self.now = self._clock()
        self.until = until if isinstance(until, datetime) else self.now + until
        self._times = self._waiting()

    def run(self) -> int:
        """Run all that is due until then. Returns how many runs that were."""
        while True:
            self.runner.run_ready(keeps_delays=True)
            self._count_from_now()
            tick = self._next_tick()
            moments = [*self._times.values(), *([tick.next_run_at] if tick and tick.next_run_at else [])]
            if not moments or min(moments) > self.until:
                return self.runner.runs
            self.now = max(self.now, min(moments))
            if tick is not None and tick.next_run_at is not None and tick.next_run_at <= self.now:
                self._send(tick, tick.next_run_at)
            self._make_ready()

    def _next_tick(self) -> PeriodicTask | None:
        """The schedule that is next; but for our own upkeep, which no test is about."""
        waiting = PeriodicTask.objects.live().exclude(next_run_at=None).exclude(task__in=UPKEEP)
        return waiting.order_by("next_run_at").first()

    def _make_ready(self) -> None:
        due = [job for job, moment in self._times.items() if moment <= self.now]
        Job.objects.filter(pk__in=due).update(run_at=self._clock() - timedelta(seconds=1))
        self._shift_expiry(due, self.began - self.now)  # whoever runs them looks at the real clock
        get_broker().promote()
        self._times = {job: moment for job, moment in self._times.items() if job not in due}

    def _count_from_now(self) -> None:
        """What has been given a time since the last look has it from the moment at which that was done."""
        passed = self.now - self.began
        for job, moment in self._waiting().items():
            if self._times.get(job) != moment:
                self._times[job] = moment + passed
                Job.objects.filter(pk=job).update(run_at=moment + passed)
                self._shift_expiry([job], passed)

    @staticmethod
    def _shift_expiry(jobs: Sequence[str], by: timedelta) -> None:
        for job in Job.objects.filter(pk__in=jobs).exclude(expires_at=None) if by else ():
            Job.objects.filter(pk=job.pk).update(expires_at=job.expires_at + by)

    def _send(self, row: PeriodicTask, due: datetime) -> None:
        turn = turn_of(row, row.series, due, due)
        messages = [message_of_tick(row, tick) for tick in turn.ticks]
        step = Step(
            row.pk, due, row.changed_at, turn.next, len(messages), messages[-1].id, not row.one_off
        )  # fmt: skip
        with transaction.atomic(using=settings.DATABASE):
            PeriodicTask.objects.advance([step])
            publish.publish(messages, using=settings.DATABASE)

    @staticmethod
    def _clock() -> datetime:
        return statements.now(connections[settings.DATABASE])

    @staticmethod
    def _waiting() -> dict[str, datetime]:
        waiting = Job.objects.waiting().exclude(state=states.PENDING).values_list("pk", "run_at")
        return {job: moment for job, moment in waiting if moment is not None}


def _claim(queues: tuple[str, ...], owner: str) -> list[Delivery]:
    broker = get_broker()
    for queue in queues or broker.queues():
        if claimed := broker.claim(queue, limit=1, worker=owner):
            return claimed
    return []


def _run(delivery: Delivery, ledger: Ledger, keeps_delays: bool) -> None:
    execution = Execution(delivery, hostname="testing", report=lambda state, meta: ledger.report(delivery, state, meta))
    with _each_statement_for_itself():
        outcome = execution.run()
    if _is_for_the_runner(execution.error):
        raise execution.error
    ledger.record(outcome if keeps_delays else _without_delay(outcome), block=False)
    ledger.commit()


def _is_for_the_runner(error: BaseException | None) -> TypeGuard[BaseException]:
    """Whether it ends the test, and not the job: Ctrl-C, `pytest.fail`, the timeout of a test."""
    kinds = type(error).__mro__
    return isinstance(error, KeyboardInterrupt) or any(each.__module__.startswith("_pytest.") for each in kinds)


@contextmanager
def _each_statement_for_itself() -> Iterator[None]:
    """Within a TestCase's transaction a statement that fails spoils no others, as in a worker, where none is open."""
    with ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block:
                stack.enter_context(connection.execute_wrapper(_Statement(connection)))
                stack.callback(setattr, connection, "needs_rollback", connection.needs_rollback)
        yield


class _Statement:
    """Executes statements outside of blocks that the task has opened as if each had been committed."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._blocks = len(connection.atomic_blocks)
        self._saves = False

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        connection = self._connection
        if self._saves or len(connection.atomic_blocks) > self._blocks or str(sql).startswith(_OF_BLOCKS):
            return execute(sql, params, many, context)
        connection.needs_rollback = False  # Django notes it of each `save` that fails
        if connection.vendor != "postgresql":  # which alone gives up the whole transaction
            return execute(sql, params, many, context)
        self._saves = True
        try:
            with transaction.atomic(using=connection.alias):
                return execute(sql, params, many, context)
        finally:
            self._saves = False


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
