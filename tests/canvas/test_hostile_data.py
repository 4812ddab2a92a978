"""What a message may carry if somebody else has written it, or a task has given it: each job fails with the reason."""

import json

import pytest

from djtasks import chain, chord, control, signature
from djtasks.brokers import get_broker
from djtasks.message import Message, new_id
from djtasks.models import Job
from djtasks.testing import run_jobs
from tests.canvas.tasks import (
    add,
    becomes_any,
    becomes_large_chord,
    big,
    echo,
    errback_of_id,
    fail,
    identity,
    length,
    route_that_raises,
    total,
)
from tests.canvas.ways import nothing_is_left, run_queued


def step(**fields):
    """A step of a chain as it travels."""
    return json.dumps({"chain": [json.dumps({"task": "any", **fields})]})


ENDS = {  # of a step that can be read in part the first may succeed
    "succeeds": ("SUCCESS", "FAILURE"),
    "fails": ("FAILURE",),
    "is revoked": ("FAILURE", "REVOKED"),
}
OPTIONS = [
    "[]",
    '{"chain": 5}',
    '{"chain": "text"}',
    '{"chain": ["no JSON"]}',
    '{"chain": ["5"]}',
    '{"chain": ["[%s]"]}' % ("[" * 5000 + "]" * 5000),
    step(task=5),
    step(options=5),
    step(options={"task_id": {}}),
    step(options={"task_id": "x" * 65}),
    step(options={"task_id": "\0"}),
    step(options={"task_id": "later", "stands_for": [{}]}),
    step(subtask_type="chord"),
    step(subtask_type="chain", kwargs=5),
    '{"chain": ["{}"], "later": 5}',
    '{"chain": ["{}"], "later": "nonsense"}',
    '{"later": "nonsense"}',
    '{"stands_for": 5}',
    '{"stands_for": [{}]}',
    '{"stands_for": ["\\u0000"]}',
    '{"link": 5}',
    '{"link_error": {"$": "set", "v": [1]}}',
    '{"header": ["a"]}',
    '{"header": [{}, 1]}',
    '{"index": {}}',
    '{"nesting": "deep"}',
    '{"failed": {}}',
]


@pytest.mark.parametrize("database", ["redis"], indirect=True)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", ["succeeds", "fails", "is revoked"])
def test_options_of_any_shape_let_the_job_end_and_harm_no_other(database, options, way, settings):
    settings.DJTASKS = {**settings.DJTASKS, "UNKNOWN_TASK_GRACE": 0}
    job_id = new_id()
    task = fail if way == "fails" else identity
    broker = get_broker()
    broker.enqueue([Message(id=job_id, task=task.name, args="[1]", options=options, group_id="none")])
    if way == "is revoked":
        broker.cancel([job_id])
    run_jobs()
    assert Job.objects.get(pk=job_id).state in ENDS[way]
    assert run_queued(identity.s(1)).get(timeout=1) == 1
    assert nothing_is_left()


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
@pytest.mark.parametrize(
    "given",
    [
        None,
        5,
        {},
        {"task": 5},
        {"task": "x", "subtask_type": "chord"},
        {"task": "x", "subtask_type": "group", "kwargs": {"tasks": 5}},
        {"task": "x", "subtask_type": "chain", "kwargs": {"tasks": []}},
        {"task": "x", "subtask_type": "chain", "kwargs": {"tasks": [{"task": "x", "subtask_type": "group"}]}},
        {"task": identity.name, "args": 5},
        {"task": identity.name, "args": [1], "options": {"queue": {"a": 1}}},
        {"task": identity.name, "args": [1], "options": {"retries": "many"}},
        {"task": identity.name, "args": [1], "options": {"parent_id": "é"}},
        {"task": identity.name, "args": [1], "options": {"link": [5]}},
    ],
    ids=repr,
)
def test_a_job_that_would_be_replaced_by_what_is_no_canvas_fails(database, given):
    result = run_queued(becomes_any.s(given) | identity.s())
    assert (result.parent.state, result.state) == ("FAILURE", "FAILURE")
    assert nothing_is_left()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_ours_alone_cannot_be_said_by_data(database):
    ours = {"stands_for": ["x"], "failed": "y", "awaited": True, "own_id": True}
    sig = signature({"task": identity.name, "args": [1], "options": {**ours, "priority": 3}})
    assert sig.options == {"priority": 3}


# What is too large, or cannot be sent: the error callbacks are called all the same


@pytest.fixture
def path(tmp_path):
    return tmp_path / "notes"


@pytest.fixture
def small(settings, database):
    settings.DJTASKS = {**settings.DJTASKS, "MAX_MESSAGE_BYTES": 20_000}


TOO_LARGE = {
    "a step": chain(big.s(15_000), add.s("y" * 8_000)),
    "a member": chord([chain(big.s(15_000), add.s("y" * 8_000)), identity.s(1)], identity.s()),
    "a replacement's member": becomes_large_chord.s(30_000, 1),
    "a replacement's body": becomes_large_chord.s(1, 30_000),
}


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_follows_and_is_too_large_fails_the_job_and_calls_the_error_callback_once(small, name, path):
    result = run_queued(TOO_LARGE[name].clone().on_error(echo.si(str(path), "failed")))
    with pytest.raises(Exception, match="MAX_MESSAGE_BYTES"):
        result.get(timeout=1)
    assert path.read_text() == "failed\n"
    assert nothing_is_left()


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
def test_a_router_that_raises_for_the_next_step_fails_the_job_and_calls_its_error_callback(database, settings, path):
    result = (identity.s(1) | add.s(1)).on_error(echo.si(str(path), "failed")).apply_async()
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ROUTES": route_that_raises}
    run_jobs()
    with pytest.raises(ZeroDivisionError):
        result.get(timeout=1)
    assert path.read_text() == "failed\n"
    assert Job.objects.get(pk=result.parent.id).seconds is not None  # it has run


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
def test_an_error_callback_that_cannot_be_sent_keeps_neither_the_error_nor_another_callback_from_being_seen(
    database, path
):
    sig = fail.s(1).set(link_error=[errback_of_id.s().set(priority=1000), echo.si(str(path), "failed")])
    result = run_queued(sig)
    assert type(result.result).__name__ == "Expected"
    assert path.read_text() == "failed\n"


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_later_step_whose_name_fits_no_column_ends_with_the_first(database):
    result = run_queued(chain(fail.s(1), signature("x" * 300), total.s()))
    assert (result.parent.state, result.state) == ("FAILURE", "FAILURE")
    assert nothing_is_left()


# What was accepted goes on; what no row can hold harms nobody else


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
def test_a_body_is_sent_though_the_limit_has_been_lowered_since_its_chord_was(database, settings):
    result = chord([identity.s(1), identity.s(2)], length.si("b" * 15_000)).apply_async()
    settings.DJTASKS = {**settings.DJTASKS, "MAX_MESSAGE_BYTES": 10_000}
    run_jobs()
    assert result.get(timeout=1) == 15_000
    assert nothing_is_left()


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
def test_a_job_that_has_failed_is_retried_though_the_limit_has_been_lowered_since(database, settings):
    result = run_queued(length.s("a" * 15_000).set(queue="x", expires=-1))
    run_jobs("x")
    assert result.state == "REVOKED"
    settings.DJTASKS = {**settings.DJTASKS, "MAX_MESSAGE_BYTES": 10_000}
    assert control.retry(result.id) == 1


@pytest.mark.parametrize("database", ["redis"], indirect=True)
@pytest.mark.parametrize("fields", [{"id": "x" * 100}, {"id": "x\0y"}, {"claims": 10**12}], ids=repr)
def test_a_message_of_which_not_even_a_failure_can_be_stored_holds_up_no_other(database, fields):
    get_broker().enqueue([Message(**{"id": new_id(), "task": identity.name, "args": "[1]", **fields})])
    run_jobs()
    assert run_queued(identity.s(3)).get(timeout=1) == 3
    assert nothing_is_left()
