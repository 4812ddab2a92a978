"""One run of one delivery, from its message to its outcome: resolve → admit → bind → call → judge.

Used by the worker, `Task.apply`, eager mode and tests alike. All user code of a job runs here, in
the thread that calls `run`; what comes out is ready to be stored by nothing but SQL.
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

from djtasks import encoding, follow_ups, publish, registry, signals, states
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
from djtasks.failure import ErrorInfo, failure_of, shown, text_of
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
        self.outcome: Outcome
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> Outcome:
        """Run the task and say how it ended. Raises nothing: whatever happens is an outcome.

        Afterwards `outcome` is that outcome, `value` what the task returned, `error` what it raised.
        """
        self.outcome = self._outcome_of_run()
        return self.outcome

    def _outcome_of_run(self) -> Outcome:
        try:
            task = self._resolve()
            refused = self._refused(task)
            return self._completed(refused) if refused else copy_context().run(self._run, task)
        except NotRegistered as error:
            self.error = error
            return self._completed(self._refused(None) or self._unknown(error))
        except BaseException as error:  # a signal's receiver may call sys.exit() too
            self.error = error
            return self._completed(self._failed(error))

    def _completed(self, outcome: Outcome) -> Outcome:
        """The outcome with all that follows from it; a failure if that cannot be made."""
        options = self.request.options or follow_ups.options_of(self.message)
        sig = self.error.sig if isinstance(self.error, Replaced) else None
        try:
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

    def _run(self, task: Task[Any, Any]) -> Outcome:
        running.set(Running(task, self.request, self.request))
        self._clock = time.perf_counter()
        try:
            outcome = self._call(task)
        except BaseException as error:  # sys.exit() in a task ends the job, not the worker
            self.error = error
            outcome = self._judge(error)
        outcome = self._completed(outcome)
        self._report_end(task, outcome)
        return outcome

    def _call(self, task: Task[Any, Any]) -> Outcome:
        request = self.request
        request.args, request.kwargs = encoding.decode_arguments(self.message.args, self.message.kwargs)
        request.args = [*self._given_before(), *request.args]
        args, kwargs = task.bind(request.args, request.kwargs)
        self._begun = self._begin is None
        if self._begin is not None:
            self._begin(task)
            self._begun = True
        signals.task_prerun.notify(sender=task, task_id=request.id, task=task, args=args, kwargs=kwargs)
        task.before_start(request.id, args, kwargs)
        self.value = task.call(args, kwargs, self._limiter.limit(request.soft_time_limit))
        self._result = self._encoded_value()
        stored = self._result if not request.ignore_result or request.options.get("keeps") else None
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

    def _report_end(self, task: Task[Any, Any], outcome: Outcome) -> None:
        """Tell hooks and signals. What they raise is logged: the job has ended as it has ended."""
        value = self.value if self.error is None else self.error
        self._tell(_ENDINGS[outcome.state], self, task, outcome, value)
        self._tell(
            signals.task_postrun.notify,
            sender=task,
            task_id=self.request.id,
            task=task,
            args=self.request.args,
            kwargs=self.request.kwargs,
            retval=value,
            state=outcome.state,
        )

    def _tell(self, listener: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        try:
            listener(*args, **kwargs)
        except BaseException:  # sys.exit() in a hook must not end the worker either
            logger.exception("A hook or handler of %s[%s] failed after its end", self.message.task, self.request.id)

    def _succeeded(self, task: Task[Any, Any], outcome: Outcome, value: Any) -> None:
        request = self.request
        self._tell(task.on_success, value, request.id, request.args, request.kwargs)
        self._tell(signals.task_success.notify, sender=task, result=value, task_id=request.id)
        logger.info("Task %s[%s] succeeded in %.6fs", task.name, request.id, outcome.seconds)
        self._tell(task.after_return, outcome.state, value, request.id, request.args, request.kwargs, None)

    def _fell(self, task: Task[Any, Any], outcome: Outcome, error: BaseException) -> None:
        request = self.request
        info = ErrorInfo(error, outcome.failure.traceback if outcome.failure else "")
        self._tell(task.on_failure, error, request.id, request.args, request.kwargs, info)
        self._tell(
            signals.task_failure.notify,
            sender=task,
            task_id=request.id,
            exception=error,
            args=request.args,
            kwargs=request.kwargs,
            traceback=error.__traceback__,
            einfo=info,
        )
        self._log_failure(task, error)
        self._tell(task.after_return, outcome.state, error, request.id, request.args, request.kwargs, info)

    def _log_failure(self, task: Task[Any, Any], error: BaseException) -> None:
        throws = task.throws if isinstance(task.throws, type) else tuple(task.throws)
        expected = isinstance(error, throws)
        logger.log(
            logging.INFO if expected else logging.ERROR,
            "Task %s[%s] raised %s: %s",
            task.name,
            self.request.id,
            "expected" if expected else "unexpected",
            shown(error),
            exc_info=None if expected else (type(error), error, error.__traceback__),
        )

    def _retries(self, task: Task[Any, Any], outcome: Outcome, error: Retry) -> None:
        request = self.request
        info = ErrorInfo(error.exc or error, outcome.failure.traceback if outcome.failure else "")
        self._tell(task.on_retry, error.exc or error, request.id, request.args, request.kwargs, info)
        self._tell(signals.task_retry.notify, sender=task, request=request, reason=error, einfo=info)
        logger.info("Task %s[%s] retry: %s", task.name, request.id, text_of(error))

    def _ended_quietly(self, task: Task[Any, Any], outcome: Outcome, error: BaseException) -> None:
        logger.info("Task %s[%s] %s", task.name, self.request.id, outcome.state.lower())
        if isinstance(error, Reject):
            signals.task_rejected.notify(sender=task, message=self.message, exc=error)

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


_ENDINGS: Final[dict[str, Callable[[Execution, Any, Outcome, Any], None]]] = {
    states.SUCCESS: Execution._succeeded,
    states.FAILURE: Execution._fell,
    states.RETRY: Execution._retries,
    states.IGNORED: Execution._ended_quietly,
    states.REJECTED: Execution._ended_quietly,
    states.PENDING: Execution._ended_quietly,
    states.REPLACED: Execution._ended_quietly,
}


def _next_message(message: Message, error: Retry) -> Message:
    """What runs next: what `Task.retry` prepared, or the same once more for a Retry raised by hand."""
    if isinstance(error.sig, Message):
        return error.sig
    name = "eta" if isinstance(error.when, datetime) else "countdown"
    fields = {"eta": None, "countdown": None, **publish.schedule({name: error.when or 0})}
    return replace(message, retries=message.retries + 1, **fields)
