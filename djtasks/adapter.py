"""Django's tasks as tasks of djtasks, and jobs as Django's results, for `backend`."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from functools import wraps
from itertools import chain
from typing import Any, Final

from asgiref.sync import iscoroutinefunction

from djtasks import encoding, registry, states
from djtasks.backend import UNSET, DjtasksBackend, DjtasksTask, exceptions, signals, task_backends, tasks
from djtasks.brokers import get_broker
from djtasks.exceptions import WorkerLostError
from djtasks.message import Message, is_id, sent_at
from djtasks.models import Job, Outbox
from djtasks.models.fields import utc_now
from djtasks.request import Request
from djtasks.result import EagerResult
from djtasks.task import Task

Status: Final = tasks.TaskResultStatus
_OPTIONS: Final = frozenset(each.name for each in fields(DjtasksTask)) - {each.name for each in fields(tasks.Task)}
_STATUSES: Final[Mapping[str, Any]] = {
    states.STARTED: Status.RUNNING,
    states.SUCCESS: Status.SUCCESSFUL,
    states.IGNORED: Status.SUCCESSFUL,
    states.FAILURE: Status.FAILED,
    states.REVOKED: Status.FAILED,
}  # all other states of a row: READY
_FAILED_ATTEMPTS: Final = frozenset({states.RETRY, states.FAILURE, states.REJECTED, "LOST"})
_LOST: Final = f"{WorkerLostError.__module__}.{WorkerLostError.__qualname__}"


class DjangoTask(Task[..., Any]):
    """A task that was declared with Django's `@task`. `declared` is that, as the decorator made it."""

    declared: Any

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Tell the receivers of Django's `task_started`."""
        self.request.begun_at = utc_now()
        _tell(signals.task_started, self, self.running_result())

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any
    ) -> None:
        """Tell the receivers of Django's `task_finished`, as from inside the `except`: its log line asks for that."""
        if status == states.SUCCESS:
            found = replace(self.running_result(), status=Status.SUCCESSFUL, finished_at=utc_now())
            _tell(signals.task_finished, self, _with_value(found, retval))
        elif status == states.FAILURE:
            found = self.running_result()
            errors = [*found.errors, _error_of(retval)]
            found = replace(found, status=Status.FAILED, finished_at=utc_now(), errors=errors)
            try:
                raise retval
            except BaseException:
                _tell(signals.task_finished, self, found)

    def running_result(self) -> Any:
        """The TaskResult of the job that runs here."""
        request: Request = self.request
        began = request.begun_at or utc_now()
        earlier = json.loads(request.attempts)
        task = _as_called(self, request.message)
        return tasks.TaskResult(
            task=task,
            id=request.id,
            status=Status.RUNNING,
            enqueued_at=sent_at(request.id or ""),
            started_at=datetime.fromisoformat(earlier[0]["start"]) if earlier and earlier[0]["start"] else began,
            finished_at=None,
            last_attempted_at=began,
            args=list(request.args),
            kwargs=dict(request.kwargs),
            backend=task.backend,
            errors=_errors_of(earlier),
            worker_ids=[*(each["worker"] for each in earlier), request.hostname or ""],
        )


def register(declared: Any) -> None:
    """Make a task of Django's known by its name. `using()` makes others of the same function, which change nothing."""
    function, name = declared.func, declared.module_path
    known = registry.find(name)
    if isinstance(known, DjangoTask) and known.declared.func is function:
        return
    options = {each: value for each in _OPTIONS if (value := getattr(declared, each, UNSET)) is not UNSET}
    task_class = type(
        declared.name,
        (DjangoTask,),
        {
            **options,
            "name": name,
            "origin": f"{name} (line {function.__code__.co_firstlineno})",
            "declared": declared,
            "run": _with_context(function) if declared.takes_context else staticmethod(function),
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": function.__doc__,
            "__wrapped__": staticmethod(function),
        },
    )
    registry.register(task_class())


def enqueue(backend: DjtasksBackend, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Queue a call, and tell the receivers of `task_enqueued`. Returns its TaskResult; raises as `Task.apply_async`."""
    result = tasks.TaskResult(
        task=task,
        id="",
        status=Status.READY,
        enqueued_at=utc_now(),
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=list(args),
        kwargs=dict(kwargs),
        backend=backend.alias,
        errors=[],
        worker_ids=[],
    )
    handle = registry.get(task.module_path).apply_async(result.args, result.kwargs, **_call_options(task))
    result = replace(result, id=handle.id)
    if isinstance(handle, EagerResult):
        result = _ended_eagerly(result, handle)
    signals.task_enqueued.send(type(backend), task_result=result)
    return result


def result_of(backend: DjtasksBackend, job_id: str) -> Any:
    """The TaskResult of a job as it stands. Raises TaskResultDoesNotExist for one that is unknown, or not Django's."""
    row = (Job.objects.filter(pk=job_id).first() or _waiting(job_id)) if is_id(job_id) else None
    task = registry.find(row.task) if row is not None else None
    if row is None or not isinstance(task, DjangoTask):
        raise exceptions.TaskResultDoesNotExist(job_id)
    attempts = row.all_attempts()
    args, kwargs = row.arguments()
    begun = row.started_at if attempts else None
    first = datetime.fromisoformat(attempts[0]["start"]) if attempts and attempts[0]["start"] else begun
    result = tasks.TaskResult(
        task=_as_called(task, row, backend.alias),
        id=row.pk,
        status=_STATUSES.get(row.state, Status.READY),
        enqueued_at=row.created_at,
        started_at=first,
        finished_at=row.finished_at,
        last_attempted_at=begun,
        args=args,
        kwargs=kwargs,
        backend=backend.alias,
        errors=[*_errors_of(attempts[:-1] if row.is_finished else attempts), *_last_error(row)],
        worker_ids=[each["worker"] for each in attempts],
    )
    value = encoding.decode(row.result) if row.result else None
    return _with_value(result, value) if row.state == states.SUCCESS else result


def _waiting(job_id: str) -> Job | None:
    """A job that waits and has no row: in its broker, or for its transaction's commit."""
    where = get_broker().locate(job_id)
    if where is not None:
        return _row_of(where.delivery.message, where.delivery.created_at)
    kept = Outbox.objects.filter(pk=job_id).first()
    if kept is not None:
        return _row_of(Message.from_json(kept.message), kept.created_at)
    return Job.objects.filter(pk=job_id).first()  # it may have ended since its row was looked for


def _row_of(message: Message, sent: datetime | None) -> Job:
    sent = sent or sent_at(message.id) or utc_now()
    return Job(
        id=message.id, task=message.task, queue=message.queue, priority=message.priority, run_at=message.eta,
        args=message.args, kwargs=message.kwargs, created_at=sent, state=states.PENDING,
    )  # fmt: skip


def _as_called(task: DjangoTask, job: Any, alias: str | None = None) -> Any:
    """The task as it was called: with the queue, the priority and the time of a job's row or message.

    Jobs do not keep by which alias of TASKS they were called: it is `alias`, else one whose queues fit.
    """
    declared = task.declared
    eta = job.run_at if isinstance(job, Job) else job.eta
    asked = chain([alias or declared.backend], _aliases())
    backend = next((each for each in asked if _takes(each, job.queue)), None)
    if backend is None:  # a route has sent it elsewhere
        return replace(declared, priority=job.priority, run_after=eta)
    return replace(declared, backend=backend, queue_name=job.queue, priority=job.priority, run_after=eta)


def _aliases() -> Iterator[str]:
    """The aliases of TASKS that are djtasks."""
    yield from (each.alias for each in task_backends.all() if isinstance(each, DjtasksBackend))


def _takes(alias: str, queue: str) -> bool:
    queues = task_backends[alias].queues
    return not queues or queue in queues


def _call_options(task: Any) -> dict[str, Any]:
    """What a call of Django's says, for `apply_async`; its defaults leave the choice to settings and routes."""
    return {
        "queue": None if task.queue_name == tasks.DEFAULT_TASK_QUEUE_NAME else task.queue_name,
        "priority": task.priority or None,
        "eta": task.run_after,
    }


def _with_context(function: Any) -> Any:
    """`run` of a task that takes its context, by the parameters that are left to its callers."""

    def call(self: DjangoTask, *args: Any, **kwargs: Any) -> Any:
        return function(tasks.TaskContext(task_result=self.running_result()), *args, **kwargs)

    async def acall(self: DjangoTask, *args: Any, **kwargs: Any) -> Any:
        return await call(self, *args, **kwargs)

    # A method of the task: `self` takes the place of the context, so that the signature is as it should be.
    return wraps(function)(acall if iscoroutinefunction(function) else call)


def _tell(signal: Any, task: DjangoTask, result: Any) -> None:
    """What a receiver raises is logged by Django: the job has its own course."""
    signal.send_robust(type(task.declared.get_backend()), task_result=result)


def _ended_eagerly(result: Any, handle: EagerResult[Any]) -> Any:
    began = [datetime.fromisoformat(each["start"]) for each in handle.attempts] or [result.enqueued_at]
    errors = _errors_of(handle.attempts)
    if handle.failed() and isinstance(handle.result, BaseException):
        errors = [*_errors_of(handle.attempts[:-1]), _error_of(handle.result)]
    ended = replace(
        result,
        status=_STATUSES.get(handle.state, Status.READY),
        started_at=began[0],
        last_attempted_at=began[-1],
        finished_at=utc_now(),
        errors=errors,
        worker_ids=[each["worker"] for each in handle.attempts],
    )
    return _with_value(ended, handle.result) if ended.status == Status.SUCCESSFUL else ended


def _with_value(result: Any, value: Any) -> Any:
    object.__setattr__(result, "_return_value", value)  # Django's class has no other way
    return result


def _error_of(error: BaseException) -> Any:
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return tasks.TaskError(exception_class_path=kind, traceback="".join(traceback.format_exception(error)))


def _errors_of(attempts: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What earlier attempts failed with; of those only one line is kept."""
    failed = [each for each in attempts if each["ending"] in _FAILED_ATTEMPTS and each.get("error")]
    return [tasks.TaskError(exception_class_path=_kind_of(each), traceback=each["error"]) for each in failed]


def _kind_of(attempt: Mapping[str, Any]) -> str:
    return _LOST if attempt["ending"] == "LOST" else _path(attempt["error"].partition(":")[0])


def _last_error(row: Job) -> list[Any]:
    if _STATUSES.get(row.state) != Status.FAILED:
        return []
    trace = row.traceback or f"{row.exception}: {row.exception_message or ''}"
    return [tasks.TaskError(exception_class_path=_path(row.exception), traceback=trace)]


def _path(kind: str) -> str:
    """An exception's class by its whole path; as rows have it, built-in ones come without a module."""
    return kind if "." in kind else f"builtins.{kind}"
