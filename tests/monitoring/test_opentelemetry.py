"""Traces: from the code that sends, to the run, to what follows."""

import json

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from djtasks import chain, chord, group, signals, states
from djtasks.execution import Execution
from djtasks.message import Delivery, Message
from djtasks.models import Job
from djtasks.monitoring.opentelemetry import instrument, uninstrument
from tests import tasks
from tests.monitoring.tracing import told


class Traced:
    """Spans of this process, and of a worker that is started with `worker_settings` and `worker_environment`."""

    def __init__(self, provider, exporter, path, imports):
        self.tracer = provider.get_tracer("tests")
        self.exporter, self.path = exporter, path
        self.worker = {"env": {"DJTASKS_TEST_TRACES": str(path)}, "IMPORTS": [*imports, "tests.monitoring.tracing"]}

    def here(self):
        return [told(each) for each in self.exporter.get_finished_spans()]

    def all(self):
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return self.here() + [json.loads(line) for line in lines]

    def named(self, name):
        return [each for each in self.all() if each["name"] == name]

    def one(self, name):
        (found,) = self.named(name)
        return found


@pytest.fixture
def traced(settings, tmp_path):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(provider)
    yield Traced(provider, exporter, tmp_path / "spans", settings.DJTASKS["IMPORTS"])
    uninstrument()


@pytest.mark.every_broker
def test_one_trace_leads_from_the_sender_to_the_run_to_the_next_step_and_through_a_chord(start_worker, traced):
    worker = start_worker("-c", "2", **traced.worker)
    with traced.tracer.start_as_current_span("request") as request:
        steps = chain(tasks.add.s(1, 2), tasks.add.s(3)).apply_async()
        body = chord(group(tasks.process.si(), tasks.process.si()), tasks.swallow.s()).apply_async()
    assert steps.get(timeout=30) == 6
    body.get(timeout=30)
    assert worker.stop() == 0  # which flushes
    assert {each["trace"] for each in traced.all()} == {request.get_span_context().trace_id}
    by_id = {each["id"]: each for each in traced.all()}

    def path(span):
        return [span["name"], *(path(by_id[span["parent"]]) if span["parent"] else [])]

    add, process, swallow = (f"tests.tasks.{name}" for name in ("add", "process", "swallow"))
    first = [f"run {add}", f"enqueue {add}", "request"]
    assert sorted(path(each) for each in traced.named(f"run {add}")) == [
        first,
        [f"run {add}", f"enqueue {add}", *first],
    ]
    run = traced.one(f"run {swallow}")
    assert path(run) == [f"run {swallow}", f"enqueue {swallow}", "request"]
    assert sorted(run["links"]) == sorted(each["id"] for each in traced.named(f"enqueue {process}"))
    assert run["attributes"] == {
        "messaging.system": "djtasks",
        "messaging.operation.type": "process",
        "messaging.operation.name": "run",
        "messaging.destination.name": "default",
        "messaging.message.id": body.id,
        "djtasks.task": swallow,
        "djtasks.root_id": run["attributes"]["djtasks.root_id"],
        "djtasks.retries": 0,
        "djtasks.worker": run["attributes"]["djtasks.worker"],
        "djtasks.state": "SUCCESS",
    }


def test_each_try_is_a_span_and_a_failure_is_an_error(start_worker, traced, tmp_path):
    worker = start_worker("-c", "1", **traced.worker)
    tasks.succeed_at.delay(str(tmp_path / "journal"), 2).get(timeout=30)
    tasks.fail.delay().get(timeout=30, propagate=False)
    tasks.answer_later.delay(1).get(timeout=30)
    assert worker.stop() == 0
    tries = sorted(traced.named("run tests.tasks.succeed_at"), key=lambda each: each["attributes"]["djtasks.retries"])
    assert [each["attributes"]["djtasks.state"] for each in tries] == ["RETRY", "SUCCESS"]
    assert {each["parent"] for each in tries} == {traced.one("enqueue tests.tasks.succeed_at")["id"]}
    assert traced.one("run tests.tasks.fail")["status"] == "ERROR"
    assert traced.one("run tests.tasks.answer_later")["status"] == "OK"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_context_travels_as_w3c_headers_beside_those_of_the_caller(database, traced):
    result = tasks.add.apply_async((1, 1), headers={"tenant": "acme"})
    headers = json.loads(Job.objects.get(pk=result.id).headers)
    span = traced.one("enqueue tests.tasks.add")
    assert headers.keys() == {"tenant", "traceparent"}
    assert headers["traceparent"].startswith(f"00-{span['trace']:032x}-{span['id']:016x}-")


def test_an_eager_run_is_part_of_what_called_it(settings, traced):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ALWAYS_EAGER": True}
    with traced.tracer.start_as_current_span("request") as request:
        tasks.add.delay(1, 1)
        assert trace.get_current_span() is request
    run = traced.one("run tests.tasks.add")
    assert run["trace"] == request.get_span_context().trace_id
    assert not trace.get_current_span().is_recording()


def test_headers_that_are_no_context_do_no_harm(traced):
    headers = json.dumps({"traceparent": 7, "tracestate": ["x"], "baggage": {}})
    message = Message(id="1", task=tasks.add.name, args="[1, 1]", headers=headers)
    assert Execution(Delivery(message, "w.1", 1)).run().state == states.SUCCESS
    assert traced.one("run tests.tasks.add")["parent"] is None


def test_nothing_listens_once_it_is_switched_off():
    watched = (signals.before_task_publish, signals.task_prerun)
    before = [list(each.receivers) for each in watched]  # others may listen
    instrument(TracerProvider(shutdown_on_exit=False))
    assert [list(each.receivers) for each in watched] != before
    uninstrument()
    assert [list(each.receivers) for each in watched] == before
