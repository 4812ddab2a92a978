"""The SDK of OpenTelemetry, with spans that the processes of a test write into a file."""

import json
import os
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from djtasks.monitoring.opentelemetry import instrument


class FileExporter(SpanExporter):
    """Appends a JSON line a span: one small append is atomic."""

    def __init__(self, path):
        self.path = Path(path)

    def export(self, spans):
        with self.path.open("a") as file:
            for span in spans:
                file.write(f"{json.dumps(told(span))}\n")
                file.flush()
        return SpanExportResult.SUCCESS


def told(span):
    """What the tests want to know of a span."""
    return {
        "name": span.name,
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "links": [each.context.span_id for each in span.links],
        "attributes": dict(span.attributes),
        "status": span.status.status_code.name,
        "pid": os.getpid(),
    }


def trace_into(path):
    """Trace this process into a file, as a site would trace to its collector."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(FileExporter(path), schedule_delay_millis=60_000))
    instrument(provider)


if "DJTASKS_TEST_TRACES" in os.environ:  # in the worker of a test, which imports this as a module of tasks
    trace_into(os.environ["DJTASKS_TEST_TRACES"])
