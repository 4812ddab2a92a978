"""One run of one delivery, from its message to its outcome: resolve → admit → bind → call → judge.

Used by the worker, `Task.apply`, eager mode and tests alike. All user code of a job runs here, in
the thread that calls `run`; what comes out is ready to be stored by nothing but SQL. Whoever has an event loop
calls the three steps of `run` instead: the one between is the coroutine's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from django.db import DatabaseError, InterfaceError

from djtasks import after_run, batch_call, encoding, follow_ups, publish, registry, signals, states
from djtasks.conf import settings
from djtasks.exceptions import (
    Ignore,
    MalformedMessage,
    MessageTooLarge,
    NotRegistered,
    Reject,
    Replaced,
    Retry,
    TaskRevokedError,
)
from djtasks.failure import failure_of, with_origin
from djtasks.limits import NO_LIMITER, Limiter, limits_of
from djtasks.message import VERSION, Delivery, Message, Outcome
from djtasks.request import Running, request_of, running
from djtasks.result import AsyncResult, GroupResult

if TYPE_CHECKING:
    from djtasks.task import Task

logger = logging.getLogger("djtasks.execution")

LONGEST_REFUSAL_DELAY: Final = 30.0  # seconds
_HANDED_ON: Final = frozenset({"keeps", "link", "chain"})  # options of a job whose value others get
_FOLLOWED: Final = frozenset({*_HANDED_ON, "link_error", "header", "failed", "stands_for", "awaited"})

Report = Callable[[str | None, Any], None]


class Execution:
    """One run of `delivery`. `hostname` is the worker's name; `report` takes what `update_state` says.

    `begin` is called just before the task's own code, once it is known that it will run; `limiter` sets its soft time
    limit. `workflow` gives what a job finds when it starts: the results of a chord's header, the job that an error
    callback is called for.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        hostname: str = "",
        is_eager: bool = False,
        report: Report | None = None,
        begin: Callable[[Task[Any, Any]], None] | None = None,
        limiter: Limiter = NO_LIMITER,
        workflow: Any = follow_ups.Stored,
    ) -> None:
        self.delivery = delivery
        self.message = delivery.message
        self.request = request_of(self.message, is_eager=is_eager, hostname=hostname, report=report)
        self.request.attempts = delivery.attempts
        self.request.delivery_info = {
            "priority": self.message.priority,
            "routing_key": self.message.queue,
            "exchange": "",
            "redelivered": delivery.losses > 0 or delivery.token > self.message.retries + 1,
            "is_eager": is_eager,
        }
        self._begin = begin
        self._limiter = limiter
        self._workflow = workflow
        self._result: str | None = None  # the value as it is stored
        self._begun = True
        self._clock = 0.0
        self._task: Task[Any, Any] | None = None
        self._arguments: tuple[list[Any], dict[str, Any]] = ([], {})
        self._unrun: Outcome | None = None  # of a job that was not run
        self.context = copy_context()  # of all its code, so that nothing stays behind
        self.outcome: Outcome
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> Outcome:
        """Run the task and say how it ended. Raises nothing: whatever happens is an outcome.

        Afterwards `outcome` is that outcome, `value` what the task returned, `error` what it raised.
        """
        return self.context.run(self._run)

    def _run(self) -> Outcome:
        if self._came():
            self._call()
        return self._end()

    @property
    def task(self) -> Task[Any, Any]:
        """The task, once `prepare` was true."""
        assert self._task is not None  # noqa: S101
        return self._task

    def prepare(self) -> bool:
        """Come to the task's own code. Returns whether that is to be called, within `context`."""
        return self.context.run(self._came)

    def call(self) -> None:
        """Call the task's own code."""
        self.context.run(self._call)

    async def acall(self) -> None:
        """The call of an `async def` task. For an asyncio task of this `context`."""
        if self.task.batch is not None:
            await batch_call.acall(self.task, [self], self._limiter)
            return
        try:
            self.value = await self.task.acall(*self._arguments, self._limiter.limit(self.request.soft_time_limit))
        except BaseException as error:
            self.error = error

    def receive(self, value: Any) -> None:
        """Take what the call of a batch has given for this job, an exception if it has failed."""
        if isinstance(value, BaseException):
            self.context.copy().run(self._fail, value)  # we may be in it already
        else:
            self.value = value

    def _fail(self, error: BaseException) -> None:
        try:
            self.error = self.task.judged(error)
        except BaseException as last:  # of a retry too many
            self.error = last

    def conclude(self) -> Outcome:
        """Say how it ended, after `prepare` and, if that was true, the call."""
        return self.context.run(self._end)

    def _completed(self, outcome: Outcome) -> Outcome:
        """The outcome with all that follows from it; a failure if that cannot be made."""
        options = self.request.options or follow_ups.options_of(self.message)
        sig = self.error.sig if isinstance(self.error, Replaced) else None
        try:
            if self.request.sent:
                outcome = replace(outcome, sent=tuple(self.request.sent))
            return follow_ups.complete(outcome, options, result=self._result, sig=sig, added=self.request.added)
        except Exception as error:  # a router of the user's, a signature that is none
            if outcome.state in follow_ups.FAILED:
                return follow_ups.completed_failure(outcome, options)
            self.error = error
            failed = replace(self._failed(error), seconds=outcome.seconds, sent=outcome.sent)
            return follow_ups.completed_failure(failed, options)

    def _resolve(self) -> Task[Any, Any]:
        if self.delivery.malformed:
            raise MalformedMessage(self.delivery.malformed)
        if not self.message.id.isascii():
            raise MalformedMessage("The id must be ASCII.")
        if self.message.version > VERSION:
            # A newer release is being deployed beside this one: somebody else can read it.
            raise NotRegistered(f"Message version {self.message.version} is newer than this worker's {VERSION}.")
        task = registry.get(self.message.task)
        options = follow_ups.read_options(self.message.options)
        headers = encoding.decode(self.message.headers)
        if not isinstance(headers, dict):
            raise MalformedMessage("options and headers must be objects.")
        request = self.request
        request.options, request.headers = options, headers
        request.id = follow_ups.visible_id(self.message, options) if "chain" not in options else self.message.id
        request.replaced_task_nesting = options.get("nesting", 0)
        request.shadow = options.get("shadow")
        request.ignore_result = bool(options.get("ignore_result", task.ignores_result))
        limits = limits_of(options, task, self._limiter.general)
        request.time_limit, request.soft_time_limit = limits.hard, limits.soft
        signals.task_received.notify(sender=task, request=request)
        return task

    def _refused(self, task: Task[Any, Any] | None) -> Outcome | None:
        """The outcome of a job that must not run any more, whether or not its task is known: revoked, or expired."""
        expired = self.message.expires_at is not None and self.message.expires_at <= datetime.now(UTC)
        if not self.delivery.revoked and not expired:
            return None
        signals.task_revoked.notify(sender=task, request=self.request, terminated=False, signum=None, expired=expired)
        logger.info("Task %s[%s] %s", self.message.task, self.request.id, "expired" if expired else "was revoked")
        self.error = TaskRevokedError("expired" if expired else "revoked")
        return Outcome(delivery=self.delivery, state=states.REVOKED, failure=failure_of(self.error))

    def _came(self) -> bool:
        try:
            return self._admitted() is None and self._prepared()
        except BaseException as error:  # a signal's receiver may call sys.exit() too
            self.error = error
            self._unrun = self._failed(error)
            return False

    def _admitted(self) -> Outcome | None:
        """The outcome of a job that is not run, None of one that is."""
        try:
            self._task = self._resolve()
            self._unrun = self._refused(self._task)
        except NotRegistered as error:
            self.error = error
            self._unrun = self._refused(None) or self._unknown(error)
        return self._unrun

    def _prepared(self) -> bool:
        task, request = self._task, self.request
        assert task is not None  # noqa: S101 - it was admitted
        running.set(Running(task, request, request))
        self._clock = time.perf_counter()
        try:
            request.args, request.kwargs = encoding.decode_arguments(self.message.args, self.message.kwargs)
            request.args = [*self._given_before(), *request.args]
            args, kwargs = self._arguments = task.bind(request.args, request.kwargs)
            self._begun = self._begin is None
            if self._begin is not None:
                self._begin(task)
                self._begun = True
            signals.task_prerun.notify(sender=task, task_id=request.id, task=task, args=args, kwargs=kwargs)
            task.before_start(request.id, args, kwargs)
        except BaseException as error:  # sys.exit() in a task ends the job, not the worker
            self.error = error
        return self.error is None

    def _call(self) -> None:
        if self.task.batch is not None:
            batch_call.call(self.task, [self], self._limiter)
            return
        try:
            self.value = self.task.call(*self._arguments, self._limiter.limit(self.request.soft_time_limit))
        except BaseException as error:
            self.error = error

    def _end(self) -> Outcome:
        self._begin = None  # it knows this run: a circle that would keep all of it for a while
        try:
            self.outcome = self._concluded()
        except BaseException as error:
            self.error = error
            self.outcome = self._completed(self._failed(error))
        return self.outcome

    def _concluded(self) -> Outcome:
        if self._unrun is not None or self._task is None:
            return self._completed(self._unrun or self._failed(RuntimeError("It was not prepared.")))
        try:
            outcome = self._success() if self.error is None else self._judge(self.error)
        except BaseException as error:  # the result cannot be stored
            self.error = error
            outcome = self._judge(error)
        if outcome.failure is not None and (origin := self.request.options.get("sent_from")):
            outcome = replace(outcome, failure=with_origin(outcome.failure, origin))
        outcome = self._completed(outcome)
        after_run.report(self, self._task, outcome)
        return outcome

    def _success(self) -> Outcome:
        self._result = self._encoded_value()
        stored = self._result if not self.request.ignore_result or self.request.options.get("keeps") else None
        return self._outcome(states.SUCCESS, result=stored, forget=self._is_forgettable())

    def _given_before(self) -> list[Any]:
        """What its place in a canvas puts before the job's own arguments. Raises ChordError if a header has failed."""
        options = self.request.options
        if "failed" in options:
            return list(self._asked(self._workflow.failed_job, options["failed"]))
        if "header" not in options:
            return []
        group_id, is_bare = options["header"]
        results = self._asked(self._workflow.header_results, group_id)
        return [] if is_bare else [results]

    def _asked(self, ask: Callable[[str], Any], job_id: str) -> Any:
        """Ask the database; that it does not answer, or not yet, is not the job's fault."""
        try:
            return ask(job_id)
        except (DatabaseError, InterfaceError, follow_ups.HeaderRunsAgain):
            self._begun = False
            raise

    def _encoded_value(self) -> str | None:
        """The result as it is stored. Raises TypeError or MessageTooLarge for one that cannot be."""
        if self.request.ignore_result and not self.request.options.keys() & _HANDED_ON:
            return None
        value = self.value.as_tuple() if isinstance(self.value, (AsyncResult, GroupResult)) else self.value
        text = encoding.encode(value, name="the result")
        if len(text) > settings.MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"The result has {len(text)} bytes; MAX_MESSAGE_BYTES is {settings.MAX_MESSAGE_BYTES}. "
                f"Store the data and return its key, or raise the setting."
            )
        return text

    def _is_forgettable(self) -> bool:
        """Whether nobody will ever ask for this job: its row may go with its success."""
        message = self.message
        return (
            self.request.ignore_result
            and not self.request.options.get("own_id")
            and not (message.check or message.group_id or message.unique_key)
            and not self.request.options.keys() & _FOLLOWED
        )

    def _outcome(self, state: str, **fields: Any) -> Outcome:
        return Outcome(delivery=self.delivery, state=state, seconds=time.perf_counter() - self._clock, **fields)

    def _judge(self, error: BaseException) -> Outcome:
        match error:
            case Retry():
                return self._retry(error)
            case Replaced():
                return self._outcome(states.REPLACED)
            case Ignore():
                return self._outcome(states.IGNORED)
            case Reject(requeue=True) if self.delivery.losses + 1 < settings.TASK_MAX_LOSSES:
                delay = 2.0**self.delivery.losses
                return self._outcome(states.REJECTED, delay=delay, count="losses", failure=failure_of(error))
            case _ if not self._begun:
                # Not the task's fault: nobody could be told that it begins, or what it needs is not there yet.
                return self._outcome(states.PENDING, delay=1.0, failure=failure_of(error))
            case _:
                return self._outcome(states.FAILURE, failure=failure_of(error))

    def _retry(self, error: Retry) -> Outcome:
        try:
            following = _next_message(self.message, error)
        except (ValueError, TypeError) as wrong:  # of a Retry that was made by hand
            self.error = wrong
            return self._outcome(states.FAILURE, failure=failure_of(wrong))
        failure = failure_of(error.exc) if error.exc else None
        return self._outcome(states.RETRY, next=following, failure=failure)

    def _unknown(self, error: NotRegistered) -> Outcome:
        """Given back for a worker that knows the task, until `UNKNOWN_TASK_GRACE` has passed in waiting.

        Here and now there is no other process to know it: an eager run fails at once.
        """
        refusals = self.delivery.refusals
        signals.task_unknown.notify(
            sender=None, name=self.message.task, id=self.message.id, message=self.message, exc=error
        )
        delays = [min(2.0 ** min(count, 10), LONGEST_REFUSAL_DELAY) for count in range(refusals + 1)]
        if self.request.is_eager or sum(delays[:refusals]) >= settings.UNKNOWN_TASK_GRACE:
            return self._failed(error)
        logger.warning(
            "Unknown task %s[%s], given back for %d s: no module that this worker imports declares it. "
            "Restart the worker if the task is new; after %d s of waiting the job fails (UNKNOWN_TASK_GRACE).",
            self.message.task,
            self.message.id,
            delays[-1],
            settings.UNKNOWN_TASK_GRACE,
        )
        return Outcome(
            delivery=self.delivery,
            state=states.PENDING,
            delay=delays[-1],
            count="refusals",
            failure=failure_of(error),
        )

    def _failed(self, error: BaseException) -> Outcome:
        """A job that could not be begun, with the reason."""
        logger.error("Job %s[%s] could not run: %s", self.message.task, self.message.id, error)
        return Outcome(delivery=self.delivery, state=states.FAILURE, failure=failure_of(error))


def _next_message(message: Message, error: Retry) -> Message:
    """What runs next: what `Task.retry` prepared, or the same once more for a Retry raised by hand."""
    if isinstance(error.sig, Message):
        return error.sig
    name = "eta" if isinstance(error.when, datetime) else "countdown"
    fields = {"eta": None, "countdown": None, **publish.schedule({name: error.when or 0})}
    return replace(message, retries=message.retries + 1, **fields)
