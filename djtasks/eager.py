"""Runs jobs in the caller's process, with the outcome that workers would give them; nothing is stored."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

from djtasks import encoding, states
from djtasks.announce import announced, told
from djtasks.canvas.composed import Composed
from djtasks.conf import settings
from djtasks.exceptions import ChordError
from djtasks.execution import Execution
from djtasks.follow_ups import Member, in_order, options_of, visible_id
from djtasks.message import Delivery, Message, NewGroup, Outcome
from djtasks.models.attempts import attempts_after
from djtasks.models.fields import utc_now
from djtasks.plan import Given, Plan, place_of_caller
from djtasks.request import Request
from djtasks.result import EagerResult, GroupResult, line_of

HOSTNAME: Final = "eager"

_around: ContextVar[EagerRun | None] = ContextVar("djtasks_eager_run", default=None)  # the run whose job sends another


class EagerRun:
    """Jobs that run one after another, here; what the database is to workers is in memory."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._sent: dict[str, Message] = {}
        self._executions: dict[str, Execution] = {}  # by the id that callers know
        self._ended: dict[str, EagerResult[Any]] = {}
        self._groups: dict[str, NewGroup] = {}
        self._remaining: dict[str, int] = {}
        self._members: dict[str, list[Member]] = {}

    def send(self, messages: Sequence[Message], groups: Sequence[NewGroup] = ()) -> None:
        """Take jobs that are to run."""
        for group in groups:
            self._groups.setdefault(group.id, group)
            self._remaining.setdefault(group.id, group.size)
        self._waiting.extend(messages)
        self._sent.update((message.id, message) for message in messages)

    def run(self) -> None:
        """Run all, and what they lead to, to the end."""
        while self._waiting:
            execution = self._execute(self._waiting.popleft())
            self._take(execution.outcome, execution)
        self._relate()
        if (around := _around.get()) is not None:
            around._adopt(self)

    def result(self, job_id: str) -> EagerResult[Any]:
        """How the job ended; PENDING if it never came to its turn."""
        return self._ended.get(job_id) or EagerResult(job_id, None, states.PENDING)

    def handle(self, result: Any) -> Any:
        """The handle `result`, made of the results that are here now."""
        before = None
        for each in line_of(result):
            made: Any = self.result(each.id)
            if isinstance(each, GroupResult):
                made = GroupResult(each.id, [self.handle(member) for member in each.results])
            made.known_parent, before = before, made
        return before

    def _execute(self, message: Message) -> Execution:
        """One job, with all its retries, at once."""
        delivery = Delivery(message, HOSTNAME, 1)
        token = _around.set(self)
        try:
            execution = Execution(delivery, hostname=HOSTNAME, is_eager=True, workflow=self)
            while (following := execution.run().next) is not None:
                earlier = attempts_after(execution.outcome, utc_now())
                delivery = Delivery(following, HOSTNAME, delivery.token + 1, attempts=earlier)
                execution = Execution(delivery, hostname=HOSTNAME, is_eager=True, workflow=self)
        finally:
            _around.reset(token)
        return execution

    def _take(self, outcome: Outcome, execution: Execution) -> None:
        message = outcome.delivery.message
        self._executions[message.id] = execution
        for each in (outcome, *outcome.also):
            self._note(each, execution)
        self.send(outcome.follow_ups, outcome.groups)
        if outcome.grows is not None:
            self._grow(*outcome.grows)
        if outcome.counts is not None:
            self._count(outcome.counts, (outcome.stands_for or (message.id,))[0])

    def _note(self, outcome: Outcome, execution: Execution) -> None:
        message = outcome.delivery.message
        if outcome.state == states.REPLACED:
            return
        for job_id in (message.id, *outcome.stands_for):
            self._ended[job_id] = _result_of(job_id, message.task, outcome, execution)
        if message.group_id is not None:
            self._members.setdefault(message.group_id, []).append(_member(outcome, execution))

    def _grow(self, group_id: str, members: int) -> None:
        group = self._groups[group_id]
        self._groups[group_id] = NewGroup(group.id, group.size + members, group.body)
        self._remaining[group_id] += members

    def _count(self, group_id: str, job_id: str) -> None:
        left = self._remaining[group_id] = self._remaining.get(group_id, 0) - 1
        if left == 0:
            self.send([replace(message, parent_id=job_id) for message in self._groups[group_id].body])

    def _relate(self) -> None:
        """Give each result its children, as the rows of jobs would tell."""
        groups: dict[tuple[str, str], GroupResult] = {}
        for message in self._sent.values():
            parent = self._ended.get(message.parent_id or "")
            if parent is None:
                continue
            if message.group_id in (None, self._sent[parent.id].group_id):
                parent.children.append(self.result(message.id))
                continue
            key = parent.id, str(message.group_id)
            if key not in groups:
                parent.children.append(groups.setdefault(key, GroupResult(key[1])))
            groups[key].results.append(self.result(message.id))

    def _adopt(self, run: EagerRun) -> None:
        """Take in what a job of this run has run itself, to be children of that job."""
        entries = {pk: message for pk, message in run._sent.items() if message.parent_id not in run._ended}
        self._sent.update(entries)
        self._ended.update((pk, run.result(pk)) for pk in entries)

    def header_results(self, group_id: str) -> list[Any]:
        return in_order(self._members.get(group_id, []), self._groups[group_id].size)

    def failed_job(self, job_id: str) -> tuple[Request, BaseException, str]:
        execution = self._executions[job_id]
        failure = execution.outcome.failure
        error = execution.error or ChordError(f"The job {job_id} failed.")
        return execution.request, error, failure.traceback if failure else ""


def apply(tree: Any, result: Any, args: Sequence[Any], kwargs: Mapping[str, Any], throw: bool | None = None) -> Any:
    """Run a canvas in normal form, `result` being the handle that `freeze` gave. Returns the same of EagerResults.

    `throw=True` raises the first error, as does TASK_EAGER_PROPAGATES.
    """
    if result is None:
        return None
    plan = Plan()
    plan.add(tree, Given(args=args, kwargs=kwargs, checked=True), place_of_caller())
    run = EagerRun()
    run.send(announced(plan.messages), plan.groups)
    run.run()
    told(plan.messages)
    eager = run.handle(result)
    if settings.TASK_EAGER_PROPAGATES if throw is None else throw:
        eager.get(disable_sync_subtasks=False)  # all has ended, so it does not wait, in a task either
    return eager


def apply_message(message: Message, name: str) -> EagerResult[Any]:
    """Run one job, and all that follows from it."""
    run = EagerRun()
    run.send(announced([message]))
    run.run()
    told([message])
    return run.result(message.id)


def _result_of(job_id: str, name: str, outcome: Outcome, execution: Execution) -> EagerResult[Any]:
    """The same value that a worker's result would have: tuples are lists, and so on."""
    failure = outcome.failure
    if failure is not None:
        value, traceback = execution.error, failure.traceback
    else:
        value = encoding.decode(outcome.result) if outcome.result is not None else execution.value
        traceback = None
    attempts = json.loads(attempts_after(outcome, utc_now()))
    return EagerResult(job_id, value, outcome.state, traceback=traceback, name=name, attempts=attempts)


def _member(outcome: Outcome, execution: Execution) -> Member:
    message = outcome.delivery.message
    options = options_of(message)
    index = -1 if "chain" in options else options.get("index", -1)
    return Member(visible_id(message, options), index, outcome.state, outcome.result, outcome.failure)


Composed.run_here = staticmethod(apply)
