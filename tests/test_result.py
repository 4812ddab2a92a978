"""What the caller holds: state, value and error of a job, as its row tells them."""

import asyncio
import builtins
import threading
import time
from datetime import UTC, datetime

import pytest
from django.db import connections, transaction

from djtasks import AsyncResult, EagerResult, send_task, shared_task, states
from djtasks.exceptions import DjtasksError, Reject, TaskRevokedError, TimeoutError
from djtasks.models import Job
from djtasks.result import allow_join_result
from djtasks.testing import run_jobs
from tests import tasks
from tests.executing import execute

pytestmark = pytest.mark.every_broker

pytestmark = pytest.mark.usefixtures("own_tasks")


class Undone(Exception):
    pass


class Coded(Exception):
    """An error of a site's own, with arguments that JSON carries."""

    def __init__(self, code, at):
        super().__init__(code, at)
        self.code, self.at = code, at


@pytest.fixture
def job(db):
    """Make a row of a job and return its handle."""

    def make(state, **fields):
        row = Job.objects.create(
            id=fields.pop("id", "some-id"), task="tests.tasks.add", queue="q", state=state, **fields
        )
        return AsyncResult(row.pk)

    return make


# Where it stands


@pytest.mark.parametrize(
    ("row", "seen", "ready"),
    [
        ("PENDING", "PENDING", False),
        ("SCHEDULED", "PENDING", False),
        ("RECEIVED", "PENDING", False),
        ("STARTED", "STARTED", False),
        ("RETRY", "RETRY", False),
        ("SUCCESS", "SUCCESS", True),
        ("FAILURE", "FAILURE", True),
        ("REVOKED", "REVOKED", True),
        ("IGNORED", "IGNORED", True),
    ],
)
def test_the_state_is_celerys_word_for_where_the_job_stands(job, row, seen, ready):
    result = job(row)
    assert (result.state, result.status, result.ready()) == (seen, seen, ready)
    assert result.successful() is (row == "SUCCESS")
    assert result.failed() is (row == "FAILURE")


def test_an_id_that_nobody_knows_is_pending(db):
    result = AsyncResult("nobody")
    assert (result.state, result.ready(), result.result, result.info) == ("PENDING", False, None, None)
    assert (result.traceback, result.name, result.args, result.worker, result.date_done) == (None,) * 5
    assert (result.parent, result.children) == (None, [])


def test_a_handle_is_equal_to_its_id_and_to_others_of_it():
    result = AsyncResult("some-id")
    assert result == AsyncResult("some-id") == "some-id"
    assert result != AsyncResult("other")
    assert result != 5
    assert {result: 1}["some-id"] == 1
    assert (str(result), repr(result), result.task_id) == ("some-id", "<AsyncResult: some-id>", "some-id")


def test_while_a_job_runs_its_own_word_and_report_are_seen(job):
    result = job("STARTED", custom_state="PROGRESS", meta='{"done":5}')
    assert (result.state, result.info, result.result) == ("PROGRESS", {"done": 5}, {"done": 5})
    Job.objects.update(state="SUCCESS", result="1")
    assert (result.state, result.result) == ("SUCCESS", 1)


def test_a_handle_tells_what_the_row_tells(job):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    result = job("SUCCESS", args="[1]", kwargs='{"y":2}', worker="w", retries=2, finished_at=at)
    assert (result.name, result.args, result.kwargs) == ("tests.tasks.add", [1], {"y": 2})
    assert (result.worker, result.retries, result.queue, result.date_done) == ("w", 2, "q", at)


def test_the_row_of_a_finished_job_is_read_once(job, django_assert_num_queries):
    result = job("SUCCESS", result="1")
    assert result.get() == 1
    with django_assert_num_queries(0):
        assert (result.state, result.get(), result.retries) == ("SUCCESS", 1, 0)


# The value


def test_get_gives_the_value(database):
    result = tasks.add.delay(1, 2)
    run_jobs()
    assert result.get() == result.get(timeout=0) == result.result == 3


def test_tuples_come_as_lists_and_typed_values_as_themselves(database):
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    @shared_task
    def several():
        return (1, {"at": moment}, {2})

    result = several.delay()
    run_jobs()
    assert result.get() == [1, {"at": moment}, {2}]


def test_an_async_task_and_a_result_of_none(database):
    first, second = tasks.answer_later.delay("x"), tasks.noop.delay()
    run_jobs()
    assert (first.get(), second.get(), second.state) == ("x", None, "SUCCESS")


def test_get_waits_until_the_job_has_ended(database):
    result = tasks.add.delay(1, 2)

    def work():
        try:
            run_jobs()
        finally:
            connections[database].close()

    timer = threading.Timer(0.1, work)
    timer.start()
    try:
        assert result.get(timeout=20) == 3
    finally:
        timer.join()


def test_get_gives_up_after_its_timeout(job):
    result = job("PENDING")
    before = time.monotonic()
    with pytest.raises(TimeoutError, match=r"Job some-id had not ended after 0\.05 seconds"):
        result.get(timeout=0.05)
    assert time.monotonic() - before < 10
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    with pytest.raises(builtins.TimeoutError):
        result.wait(timeout=0, interval=0.01)


def test_aget_waits_and_gives_up_too(transactional_db):
    result = tasks.add.delay(1, 2)

    async def look():
        with pytest.raises(TimeoutError):
            await result.aget(timeout=0.01)

    asyncio.run(look())
    run_jobs()
    assert asyncio.run(result.aget(timeout=0)) == 3


def test_aget_raises_the_jobs_error(transactional_db):
    result = tasks.fail.delay()
    run_jobs()
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(result.aget())
    assert isinstance(asyncio.run(result.aget(propagate=False)), ValueError)


def test_aget_leaves_the_event_loop_to_others(transactional_db):
    result = tasks.add.delay(1, 2)

    async def look():
        waiting = asyncio.ensure_future(result.aget(timeout=20))
        await asyncio.to_thread(_run_and_close)
        return await waiting

    assert asyncio.run(look()) == 3


def _run_and_close():
    try:
        run_jobs()
    finally:
        connections.close_all()


# Errors


def failed(task, *args):
    result = task.delay(*args)
    run_jobs()
    return result


def test_an_error_comes_back_as_its_own_class_with_the_remote_traceback_as_a_note(database):
    result = failed(tasks.fail, "broken")
    with pytest.raises(ValueError, match="broken") as caught:
        result.get()
    assert caught.value.args == ("broken", 42)
    (note,) = caught.value.__notes__
    assert "The traceback in the worker:" in note
    assert "in fail" in note
    assert result.traceback in note


def test_without_propagate_the_error_is_the_value(database):
    result = failed(tasks.fail)
    assert isinstance(result.get(propagate=False), ValueError)
    assert isinstance(result.result, ValueError)


def test_an_error_of_the_sites_own_comes_back_with_its_attributes(database):
    at = datetime(2026, 1, 1, tzinfo=UTC)

    @shared_task
    def coded():
        raise Coded(7, at)

    result = failed(coded)
    with pytest.raises(Coded) as caught:
        result.get()
    assert (caught.value.code, caught.value.at) == (7, at)


def test_an_error_that_cannot_be_rebuilt_comes_as_one_whose_text_names_class_and_arguments(database):
    result = failed(tasks.raise_not_rebuildable)
    with pytest.raises(DjtasksError, match=r"^NotRebuildable\(only one argument\)") as caught:
        result.get()
    assert type(caught.value).__name__ == "NotRebuildable"
    assert type(caught.value).__module__ == "tests.tasks"


@pytest.mark.parametrize(
    ("exception", "arguments", "text"),
    [
        ("not.imported.Error", "[]", "Error(said)"),
        ("tests.tasks.NoSuchClass", "[]", "NoSuchClass(said)"),
        ("os.getcwd", "[]", "getcwd(said)"),
        ("SystemExit", "[0]", "SystemExit(said)"),
        ("KeyboardInterrupt", "[]", "KeyboardInterrupt(said)"),
        ("ValueError", None, "ValueError(said)"),
        ("ValueError", "no json", "ValueError(said)"),
        ("ValueError", '{"$":"model","v":["auth.group",1,null]}', "ValueError(said)"),
        ("UnicodeDecodeError", "[1]", "UnicodeDecodeError(said)"),
        ("", None, "UnknownError(said)"),
    ],
)
def test_what_stands_in_a_row_imports_nothing_and_ends_no_process(job, exception, arguments, text):
    result = job("FAILURE", exception=exception, exception_message="said", exception_args=arguments)
    error = result.get(propagate=False)
    assert isinstance(error, DjtasksError)
    assert str(error) == text


def test_sys_exit_in_a_task_does_not_end_the_process_that_asks(database):
    result = failed(tasks.leave)
    with pytest.raises(DjtasksError, match=r"SystemExit\(goodbye\)"):
        result.get()


def test_a_revoked_job_raises_that_it_was(database):
    result = tasks.add.delay(1, 2)
    result.revoke()
    run_jobs()
    assert (result.state, result.failed(), result.ready()) == ("REVOKED", False, True)
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get()


def test_an_expired_job_raises_that_it_was(database):
    result = tasks.add.apply_async((1, 2), expires=-1)
    run_jobs()
    assert (result.state, result.failed()) == ("REVOKED", False)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get()


def test_a_rejected_job_raises_its_reject(database, tmp_path):
    result = failed(tasks.rejected, str(tmp_path / "x"))
    assert result.state == "FAILURE"
    with pytest.raises(Reject) as caught:
        result.get()
    assert (caught.value.reason, caught.value.requeue) == ("not this one", False)


def test_while_it_waits_for_a_retry_the_error_that_led_to_it_is_seen(job):
    assert job("RETRY", id="one").result is None
    waiting = job("RETRY", id="two", exception="KeyError", exception_message="'k'", exception_args='["k"]')
    assert isinstance(waiting.result, KeyError)


# Waiting for what cannot come


def test_get_inside_a_task_raises():
    @shared_task
    def waits():
        AsyncResult("x").get()

    error = execute(waits).error
    assert isinstance(error, RuntimeError)
    assert "Never call result.get() within a task!" in str(error)


def test_get_inside_a_task_that_is_called_by_another_raises_too():
    @shared_task
    def inner():
        AsyncResult("x").get()

    @shared_task
    def outer():
        inner()

    assert "Never call result.get()" in str(execute(outer).error)


def test_aget_inside_an_async_task_raises_too():
    @shared_task
    async def waits():
        await AsyncResult("x").aget()

    assert "Never call result.get()" in str(execute(waits).error)


def test_get_inside_a_task_may_be_allowed(job):
    job("SUCCESS", result="5")

    @shared_task
    def waits():
        with allow_join_result():
            inside = AsyncResult("some-id").get()
        return inside + AsyncResult("some-id").get(disable_sync_subtasks=False)

    assert execute(waits).value == 10


def test_a_task_that_is_only_called_may_wait(job):
    job("SUCCESS", result="5")

    @shared_task
    def waits():
        return AsyncResult("some-id").get()

    assert waits() == 5


def test_get_on_a_job_of_the_own_open_transaction_raises_at_once(database):
    with transaction.atomic(using=database):
        sent = [tasks.add.delay(1, 2), send_task("elsewhere"), *tasks.add.enqueue_many([(1, 2)])]
        for result in sent:
            with pytest.raises(RuntimeError, match=r"leave the atomic\(\) block before get\(\)"):
                result.get(timeout=60)
    with pytest.raises(TimeoutError):
        sent[0].get(timeout=0)


def test_get_on_a_job_that_was_rolled_back_raises_at_once(database):
    result = None
    try:
        with transaction.atomic(using=database):
            result = tasks.add.delay(1, 2)
            raise Undone
    except Undone:
        pass
    with pytest.raises(RuntimeError, match="inside a transaction that has not committed"):
        result.get(timeout=60)


# Ignored results


@pytest.mark.parametrize("send", ["declared", "called", "by name"])
def test_an_ignored_result_is_none_at_once_and_pending_for_ever(database, send, tmp_path):
    path = str(tmp_path / "x")
    if send == "declared":
        result = tasks.forgotten.delay(path)
    elif send == "called":
        result = tasks.raise_text.apply_async(("x", 0), ignore_result=True)
    else:
        result = send_task("tests.tasks.forgotten", (path,))
    assert result.get() is None
    run_jobs()
    assert result.get() is None
    assert result.state == "PENDING" or result.failed()


def test_a_call_may_want_the_result_that_its_task_ignores(database, tmp_path):
    result = tasks.forgotten.apply_async((str(tmp_path / "x"),), ignore_result=False)
    run_jobs()
    assert (result.state, result.get()) == ("SUCCESS", None)


def test_all_results_may_be_ignored(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_IGNORE_RESULT": True}
    result = tasks.add.delay(1, 2)
    run_jobs()
    assert (result.get(), Job.objects.count()) == (None, 0)


# Families


def test_parent_children_and_their_forms(database):
    @shared_task(bind=True)
    def child(self, number):
        return number

    @shared_task(bind=True)
    def parent(self):
        return [child.delay(number).id for number in (1, 2)]

    result = parent.delay()
    run_jobs()
    first, second = result.get()
    assert result.children == [first, second]
    assert (AsyncResult(first).parent, result.parent) == (result.id, None)
    assert AsyncResult(first).as_tuple() == ((first, ((result.id, None), None)), None)
    assert AsyncResult(second).as_list() == [second, result.id]
    assert list(result.collect()) == [(result, [first, second]), (first, 1), (second, 2)]


def test_forget_deletes_what_has_ended_and_nothing_else(job):
    waiting, ended = job("PENDING", id="waiting"), job("SUCCESS", id="ended", result="1")
    assert ended.get() == 1
    waiting.forget()
    ended.forget()
    assert set(Job.objects.values_list("pk", flat=True)) == {"waiting"}
    assert ended.state == "PENDING"


# Eager


def test_an_eager_result_needs_no_row():
    result = EagerResult("x", ValueError("y"), states.FAILURE, traceback="t")
    assert (result.state, result.ready(), result.traceback, result.children) == ("FAILURE", True, "t", [])
    with pytest.raises(ValueError, match="y"):
        result.get()
    assert isinstance(result.get(propagate=False), ValueError)
    result.revoke()
    result.forget()
