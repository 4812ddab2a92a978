"""What hooks, signals and the log are told of the end of a run. What they raise is logged: it stays as it has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from djtasks import signals, states
from djtasks.exceptions import Reject, Retry
from djtasks.failure import ErrorInfo, shown, text_of, users_own
from djtasks.message import Message, Outcome
from djtasks.request import Request

if TYPE_CHECKING:
    from djtasks.task import Task

logger = logging.getLogger("djtasks.execution")


class Run(Protocol):
    """A run that has ended: by `error`, or with `value`."""

    message: Message
    request: Request
    value: Any
    error: BaseException | None


def report(run: Run, task: Task[Any, Any], outcome: Outcome) -> None:
    """Tell hooks and signals. What they raise is logged: the job has ended as it has ended."""
    value = run.value if run.error is None else run.error
    _tell(run, _ENDINGS[outcome.state], run, task, outcome, value)
    _tell(
        run,
        signals.task_postrun.notify,
        sender=task,
        task_id=run.request.id,
        task=task,
        args=run.request.args,
        kwargs=run.request.kwargs,
        retval=value,
        state=outcome.state,
    )


def _tell(run: Run, listener: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    try:
        listener(*args, **kwargs)
    except BaseException:  # sys.exit() in a hook must not end the worker either
        logger.exception("A hook or handler of %s[%s] failed after its end", run.message.task, run.request.id)


def _succeeded(run: Run, task: Task[Any, Any], outcome: Outcome, value: Any) -> None:
    request = run.request
    _tell(run, task.on_success, value, request.id, request.args, request.kwargs)
    _tell(run, signals.task_success.notify, sender=task, result=value, task_id=request.id)
    logger.log(task.log_level, "Task %s[%s] succeeded in %.6fs", task.name, request.id, outcome.seconds)
    _tell(run, task.after_return, outcome.state, value, request.id, request.args, request.kwargs, None)


def _fell(run: Run, task: Task[Any, Any], outcome: Outcome, error: BaseException) -> None:
    request = run.request
    info = ErrorInfo(error, outcome.failure.traceback if outcome.failure else "")
    _tell(run, task.on_failure, error, request.id, request.args, request.kwargs, info)
    _tell(
        run,
        signals.task_failure.notify,
        sender=task,
        task_id=request.id,
        exception=error,
        args=request.args,
        kwargs=request.kwargs,
        traceback=error.__traceback__,
        einfo=info,
    )
    _log_failure(run, task, error)
    _tell(run, task.after_return, outcome.state, error, request.id, request.args, request.kwargs, info)


def _log_failure(run: Run, task: Task[Any, Any], error: BaseException) -> None:
    throws = task.throws if isinstance(task.throws, type) else tuple(task.throws)
    expected = isinstance(error, throws)
    logger.log(
        logging.INFO if expected else logging.ERROR,
        "Task %s[%s] raised %s: %s",
        task.name,
        run.request.id,
        "expected" if expected else "unexpected",
        shown(error),
        # Without our own frames, whose variables are the arguments: some handlers show those.
        exc_info=None if expected else (type(error), error, users_own(error.__traceback__)),
    )


def _retries(run: Run, task: Task[Any, Any], outcome: Outcome, error: Retry) -> None:
    request = run.request
    info = ErrorInfo(error.exc or error, outcome.failure.traceback if outcome.failure else "")
    _tell(run, task.on_retry, error.exc or error, request.id, request.args, request.kwargs, info)
    _tell(run, signals.task_retry.notify, sender=task, request=request, reason=error, einfo=info)
    logger.info("Task %s[%s] retry: %s", task.name, request.id, text_of(error))


def _ended_quietly(run: Run, task: Task[Any, Any], outcome: Outcome, error: BaseException) -> None:
    logger.info("Task %s[%s] %s", task.name, run.request.id, outcome.state.lower())
    if isinstance(error, Reject):
        signals.task_rejected.notify(sender=task, message=run.message, exc=error)


_ENDINGS: Final[dict[str, Callable[[Run, Any, Outcome, Any], None]]] = {
    states.SUCCESS: _succeeded,
    states.FAILURE: _fell,
    states.RETRY: _retries,
    states.IGNORED: _ended_quietly,
    states.REJECTED: _ended_quietly,
    states.PENDING: _ended_quietly,
    states.REPLACED: _ended_quietly,
}
