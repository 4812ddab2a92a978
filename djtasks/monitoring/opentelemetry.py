"""Traces by OpenTelemetry: a span for each job that is sent, and one for each run. It needs opentelemetry-api.

`instrument()` once in each process, where the site sets up its tracer provider. The context travels in the headers of
the message, as the site's propagators write it: W3C's `traceparent`, unless it says otherwise.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Final

from django.db import DatabaseError
from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider

import djtasks
from djtasks import signals, states
from djtasks.models import Job
from djtasks.task import Task

MOST_LINKS: Final = 128  # of a span; what SDKs keep by default
FLUSH_WITHIN: Final = 5_000  # milliseconds, at the end of a process

_UID: Final = "djtasks.monitoring.opentelemetry"


@dataclass(frozen=True, slots=True)
class _Run:
    """The span of the job that runs here."""

    span: Span
    token: Token[Context]


_run: ContextVar[_Run | None] = ContextVar("djtasks_traced_run", default=None)


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Trace from now on, by that provider (None: the global one). Called again, it takes the place of what stood."""
    uninstrument()
    tracing = _Tracing(tracer_provider or trace.get_tracer_provider())
    for name, receiver in tracing.receivers().items():
        getattr(signals, name).connect(receiver, dispatch_uid=_UID)


def uninstrument() -> None:
    """Trace no longer."""
    for name in _Tracing.receivers_of:
        getattr(signals, name).disconnect(dispatch_uid=_UID)


class _Tracing:
    """The receivers of our signals that make spans."""

    receivers_of: Final = {
        "before_task_publish": "sends",
        "task_prerun": "begins",
        "task_failure": "fails",
        "task_retry": "retries",
        "task_postrun": "ends",
        "worker_process_shutdown": "flush",
    }

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("djtasks", djtasks.__version__, provider)

    def receivers(self) -> dict[str, Any]:
        return {name: getattr(self, method) for name, method in self.receivers_of.items()}

    def sends(self, sender: str, headers: dict[str, Any], routing_key: str, **_more: Any) -> None:
        """A message is made: its span is the one that the run goes on from."""
        attributes = _attributes("create", sender, headers["id"], headers["root_id"], routing_key)
        with self._tracer.start_as_current_span(f"enqueue {sender}", kind=SpanKind.PRODUCER, attributes=attributes):
            propagate.inject(headers)

    def begins(self, task: Task[Any, Any], task_id: str, **_more: Any) -> None:
        request = task.request
        queue = str(request.delivery_info.get("routing_key", ""))
        attributes = {
            **_attributes("process", task.name, task_id, request.root_id or task_id, queue),
            "djtasks.retries": request.retries,
            "djtasks.worker": request.hostname or "",
        }
        parent = propagate.extract(_texts(request.headers))
        span = self._tracer.start_span(f"run {task.name}", parent, kind=SpanKind.CONSUMER, attributes=attributes)
        if span.is_recording() and "header" in request.options:
            for each in _spans_of_header(request.options["header"][0]):
                span.add_link(each)
        _run.set(_Run(span, context.attach(trace.set_span_in_context(span, parent))))

    def fails(self, exception: BaseException, **_more: Any) -> None:
        if run := _run.get():
            run.span.record_exception(exception)
            run.span.set_status(StatusCode.ERROR, type(exception).__name__)

    def retries(self, reason: Any, **_more: Any) -> None:
        run = _run.get()
        if run is not None and reason.exc is not None:
            run.span.record_exception(reason.exc)

    def ends(self, state: str, **_more: Any) -> None:
        """The run is over; one that never came to its beginning has no span."""
        if run := _run.get():
            _run.set(None)
            run.span.set_attribute("djtasks.state", state)
            if state == states.SUCCESS:
                run.span.set_status(StatusCode.OK)
            run.span.end()
            context.detach(run.token)

    def flush(self, **_more: Any) -> None:
        """A worker's process ends without what Python does at its exit."""
        if hasattr(self._provider, "force_flush"):
            self._provider.force_flush(FLUSH_WITHIN)


def _attributes(operation: str, task: str, job_id: str, root_id: str, queue: str) -> dict[str, Any]:
    return {
        "messaging.system": "djtasks",
        "messaging.operation.type": operation,
        "messaging.operation.name": "enqueue" if operation == "create" else "run",
        "messaging.destination.name": queue,
        "messaging.message.id": job_id,
        "djtasks.task": task,
        "djtasks.root_id": root_id,
    }


def _spans_of_header(group_id: str) -> Iterator[trace.SpanContext]:
    """The spans by which those jobs were sent whose results a chord's body is to have; of very many the first."""
    with contextlib.suppress(DatabaseError):  # links are not worth a job
        rows = Job.objects.filter(group_id=group_id).order_by("pk").values_list("headers", flat=True)
        for text in rows[:MOST_LINKS]:
            headers = json.loads(text)
            if isinstance(headers, Mapping):
                found = trace.get_current_span(propagate.extract(_texts(headers), Context())).get_span_context()
                if found.is_valid:
                    yield found


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if isinstance(value, str)}
