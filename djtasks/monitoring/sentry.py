"""Errors of jobs in Sentry, each with its job: `sentry_sdk.init(…, integrations=[DjtasksIntegration()])`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import sentry_sdk
from sentry_sdk.integrations import Integration
from sentry_sdk.scope import Scope
from sentry_sdk.utils import event_from_exception

from djtasks import signals
from djtasks.failure import users_own
from djtasks.masking import MASK, hidden_texts, is_sensitive, masked_call
from djtasks.request import Request, running

if TYPE_CHECKING:  # settings, where this is imported, are read before models are
    from djtasks.task import Task

FLUSH_WITHIN: Final = 2.0  # seconds, at the end of a process
_UID: Final = "djtasks.monitoring.sentry"
_SHOWN: Final = ("message", "logentry", "exception", "threads", "breadcrumbs", "extra")  # of an event: where values are

_scope: ContextVar[AbstractContextManager[Scope] | None] = ContextVar("djtasks_sentry_scope", default=None)


class DjtasksIntegration(Integration):
    """Each job has a scope of its own, and what fails is sent with the job's name, id, arguments and tries.

    Sensitive arguments are masked as in the admin, in the variables of frames and in texts, too; with `arguments=False`
    none are sent.
    """

    identifier = "djtasks"

    def __init__(self, arguments: bool = True) -> None:
        self.arguments = arguments

    @staticmethod
    def setup_once() -> None:
        """Sentry's, called once a process."""
        signals.task_prerun.connect(_begin, dispatch_uid=_UID)
        signals.task_failure.connect(_capture, dispatch_uid=_UID)
        signals.task_postrun.connect(_end, dispatch_uid=_UID)
        signals.worker_process_shutdown.connect(_flush, dispatch_uid=_UID)


def _begin(task: Task[Any, Any], **_more: Any) -> None:
    """What is noted from here on belongs to this job."""
    integration = sentry_sdk.get_client().get_integration(DjtasksIntegration)
    now = running.get()
    if integration is None or now is None:
        return
    opened = sentry_sdk.isolation_scope()
    scope = opened.__enter__()
    _scope.set(opened)
    scope.clear_breadcrumbs()
    scope.set_transaction_name(task.name, source="task")
    job = _Job(task, now.request, has_arguments=integration.arguments)
    scope.set_tags({"djtasks.task": task.name, "djtasks.queue": job.queue})
    scope.add_event_processor(job.complete)


def _capture(sender: Task[Any, Any], exception: BaseException, traceback: Any, **_more: Any) -> None:
    client = sentry_sdk.get_client()
    if client.get_integration(DjtasksIntegration) is None or isinstance(exception, _expected(sender)):
        return
    error = type(exception), exception, users_own(traceback)
    mechanism = {"type": "djtasks", "handled": False}
    event, hint = event_from_exception(error, client_options=client.options, mechanism=mechanism)
    sentry_sdk.capture_event(event, hint=hint)


def _end(**_more: Any) -> None:
    if (opened := _scope.get()) is not None:
        _scope.set(None)
        opened.__exit__(None, None, None)


def _flush(**_more: Any) -> None:
    """A worker's process ends without what Python does at its exit."""
    sentry_sdk.flush(FLUSH_WITHIN)


def _expected(task: Task[Any, Any]) -> tuple[type[BaseException], ...]:
    return (task.throws,) if isinstance(task.throws, type) else tuple(task.throws)


class _Job:
    """What an event is told of the job in which it came to be."""

    def __init__(self, task: Task[Any, Any], request: Request, *, has_arguments: bool) -> None:
        self._task = task
        self._request = request
        self._has_arguments = has_arguments
        self.queue = str(request.delivery_info.get("routing_key", ""))

    def complete(self, event: Any, _hint: Any) -> Any:
        """The event, with what is known of the job, and without what is not for people's eyes."""
        request = self._request
        about: dict[str, Any] = {
            "task": self._task.name,
            "id": request.id,
            "root_id": request.root_id,
            "parent_id": request.parent_id,
            "queue": self.queue,
            "retries": request.retries,
            "worker": request.hostname,
        }
        if self._has_arguments:
            about["args"], about["kwargs"] = masked_call(self._task, request.args, request.kwargs)
        event.setdefault("contexts", {})["djtasks"] = about
        texts = hidden_texts(self._task, request.args, request.kwargs)
        for name in _SHOWN:
            if name in event:
                event[name] = _without(event[name], texts, self._task.sensitive_arguments)
        return event


def _without(value: Any, texts: Sequence[str], names: Collection[str]) -> Any:
    """`value` with these texts masked, however deep they stand, and what stands under a sensitive name."""
    if isinstance(value, str):
        for text in texts:
            value = value.replace(text, MASK)
        return value
    if isinstance(value, Mapping):
        return {
            key: MASK if key in names or is_sensitive(key) else _without(each, texts, names)
            for key, each in value.items()
        }
    return [_without(each, texts, names) for each in value] if isinstance(value, (list, tuple)) else value
