"""Django's own tasks, queued and run by djtasks: the backend tests of Django that apply, and what is ours."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from django.core.checks import run_checks
from django.db import transaction

from djtasks import backend, registry, shared_task
from djtasks.backend import _DJANGO, DjtasksBackend, exceptions, signals
from djtasks.control import revoke
from djtasks.exceptions import DuplicateTask
from djtasks.models import Job
from djtasks.testing import CapturedJobs, eager, run_jobs
from tests import djangos_tasks as declared
from tests.site import Site
from tests.waiting import wait_until

Status = backend.tasks.TaskResultStatus
InvalidTask = getattr(exceptions, "InvalidTask", None) or exceptions.InvalidTaskError  # as django-tasks calls it
handler = backend.import_module(_DJANGO).task_backends


@pytest.fixture
def told():
    """What the receivers of Django's signals are told: (signal, status) in order."""
    seen = []

    def receiver_of(name):
        def receiver(task_result, **kwargs):
            seen.append((name, str(task_result.status), task_result.id))

        getattr(signals, name).connect(receiver, weak=False, dispatch_uid=f"test {name}")

    names = ("task_enqueued", "task_started", "task_finished")
    for each in names:
        receiver_of(each)
    yield seen
    for each in names:
        getattr(signals, each).disconnect(dispatch_uid=f"test {each}")


def test_the_settings_name_it():
    assert isinstance(handler["default"], DjtasksBackend)
    assert handler["default"].task_class is type(declared.double)


def test_it_can_all_that_a_backend_may_say():
    flags = [name for name in dir(DjtasksBackend) if name.startswith("supports_")]
    assert len(flags) >= 4
    assert all(getattr(DjtasksBackend, name) for name in flags)


@pytest.mark.every_broker
@pytest.mark.parametrize("task", [declared.double, declared.double_async])
def test_a_task_is_queued_and_run_and_its_result_is_read(database, task):
    result = task.enqueue(21)
    assert (result.status, result.is_finished, result.attempts) == (Status.READY, False, 0)
    assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)
    assert (result.task, result.args, result.kwargs, result.errors) == (task, [21], {}, [])
    with pytest.raises(ValueError, match="has not finished"):
        _ = result.return_value
    waiting = task.get_result(result.id)
    assert (waiting.status, waiting.args, waiting.task) == (Status.READY, [21], task)
    assert abs(waiting.enqueued_at - result.enqueued_at) < timedelta(seconds=5)
    assert run_jobs() == 1
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == (Status.SUCCESSFUL, 42, 1)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at


def test_it_can_be_queued_and_asked_for_in_async_code(transactional_db):
    async def way():
        sent = await declared.double.aenqueue(number=4)
        return sent, await declared.double.aget_result(sent.id)

    sent, found = asyncio.run(way())
    assert (sent.id, sent.kwargs, found.status) == (found.id, {"number": 4}, Status.READY)


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [(declared.fail, ValueError, "This task fails"), (declared.leave, SystemExit, "This task leaves")],
)
def test_a_failure_is_told_with_its_class_and_traceback(database, task, kind, text):
    result = task.enqueue()
    run_jobs()
    result.refresh()
    assert result.status == Status.FAILED
    assert [each.exception_class for each in result.errors] == [kind]
    assert result.errors[0].traceback.rstrip().endswith(f"{kind.__name__}: {text}")
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_a_result_that_is_no_json_is_a_failure(database):
    result = declared.answer_oddly.enqueue()
    run_jobs()
    result.refresh()
    assert (result.status, result.errors[0].exception_class) == (Status.FAILED, TypeError)


def test_a_cancelled_job_has_failed(database):
    result = declared.double.enqueue(1)
    revoke(result.id)
    run_jobs()
    result.refresh()
    assert result.status == Status.FAILED
    assert result.errors[0].exception_class_path == "djtasks.exceptions.TaskRevokedError"


@pytest.mark.every_broker
def test_queue_priority_and_time_of_a_task_are_those_of_its_job(database, broker):
    result = declared.mail.using(priority=-3).enqueue("a@b.c")
    later = datetime.now(UTC) + timedelta(hours=1)
    deferred = declared.mail.using(run_after=later).enqueue("a@b.c")
    (ready,), (scheduled,) = broker.peek("mail"), broker.peek("mail", scheduled=True)
    assert (ready.id, ready.message.priority) == (result.id, -3)
    assert (scheduled.id, scheduled.message.priority) == (deferred.id, 7)
    assert handler["default"].get_result(result.id).task == declared.mail.using(priority=-3)
    assert deferred.task.get_result(deferred.id).task.run_after == later


def test_what_a_task_leaves_open_the_settings_say(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ROUTES": {"tests.djangos_tasks.double": {"queue": "side"}}}
    result = declared.double.enqueue(1)
    assert Job.objects.get().queue == "side"
    assert declared.double.get_result(result.id).task == declared.double


def test_a_task_is_told_of_its_job_and_of_its_attempts(database, tmp_path, monkeypatch):
    task = registry.get("tests.djangos_tasks.tell_context")
    monkeypatch.setattr(type(task), "autoretry_for", [OSError])
    path = tmp_path / "notes"
    result = declared.tell_context.enqueue(str(path), tries=3)
    run_jobs()
    result.refresh()
    told = [f"{n} {result.id} RUNNING {n - 1}" for n in (1, 2, 3)]
    assert path.read_text().splitlines() == told
    assert (result.status, result.return_value, result.attempts) == (Status.SUCCESSFUL, 3, 3)
    assert [each.exception_class for each in result.errors] == [OSError, OSError]
    assert result.started_at < result.last_attempted_at
    assert len(result.worker_ids) == 3


def test_an_async_task_may_take_its_context(database):
    result = declared.attempt_of.enqueue()
    run_jobs()
    result.refresh()
    assert result.return_value == 1


def test_djangos_signals_are_sent(database, told):
    good, bad = declared.double.enqueue(1), declared.fail.enqueue()
    run_jobs()
    assert [each for each in told if each[2] == good.id] == [
        ("task_enqueued", "READY", good.id),
        ("task_started", "RUNNING", good.id),
        ("task_finished", "SUCCESSFUL", good.id),
    ]
    assert told[-1] == ("task_finished", "FAILED", bad.id)


def test_the_end_is_told_with_the_start_of_the_run(database):
    found = []

    def receiver(task_result, **kwargs):
        found.append(task_result.finished_at - task_result.started_at)

    signals.task_finished.connect(receiver)
    try:
        declared.rest.enqueue(0.2)
        run_jobs()
    finally:
        signals.task_finished.disconnect(receiver)
    assert found[0] >= timedelta(seconds=0.2)


def test_djangos_log_shows_why_a_task_failed(database, caplog):
    declared.fail.enqueue()
    with caplog.at_level("INFO", "django.tasks"), caplog.at_level("INFO", "django_tasks"):
        run_jobs()
    (record,) = [each for each in caplog.records if each.name.startswith("django") and each.levelname == "ERROR"]
    assert "FAILED" in record.getMessage()
    assert record.exc_info[0] is ValueError


def test_wrong_arguments_are_an_error_at_the_caller(database):
    with pytest.raises(TypeError, match="missing"):
        declared.double.enqueue()
    with pytest.raises(TypeError):
        declared.double.enqueue(object())
    assert not Job.objects.exists()


def test_a_queue_that_the_settings_do_not_name_is_refused(database):
    with pytest.raises(InvalidTask, match="Queue 'elsewhere' is not valid"):
        declared.double.using(queue_name="elsewhere")


def test_an_unknown_result_and_one_of_another_task_are_told_apart(database):
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        handler["default"].get_result("unknown")
    others = registry.get("tests.tasks.noop").delay()
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        handler["default"].get_result(others.id)
    result = declared.double.enqueue(1)
    with pytest.raises(exceptions.TaskResultMismatch):
        declared.fail.get_result(result.id)


def test_it_is_queued_with_the_transaction(database):
    with transaction.atomic(using=database):
        result = declared.double.enqueue(1)
        transaction.set_rollback(True, using=database)
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        declared.double.get_result(result.id)


def test_a_job_that_waits_for_its_commit_can_be_asked_for(database, settings):
    with transaction.atomic(using=database):
        result = declared.double.enqueue(1)
        assert declared.double.get_result(result.id).status == Status.READY


def test_in_eager_mode_it_is_run_at_once(database, told):
    with eager(propagates=False):
        good, bad = declared.double.enqueue(4), declared.fail.enqueue()
    assert (good.status, good.return_value, good.attempts) == (Status.SUCCESSFUL, 8, 1)
    assert (bad.status, bad.errors[0].exception_class) == (Status.FAILED, ValueError)
    assert good.enqueued_at <= good.started_at <= good.finished_at


def test_in_eager_mode_too_a_task_is_told_of_its_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr(type(registry.get("tests.djangos_tasks.tell_context")), "autoretry_for", [OSError])
    path = tmp_path / "notes"
    with eager():
        result = declared.tell_context.enqueue(str(path), tries=3)
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["1", "2", "3"]
    assert (result.status, result.return_value, result.attempts) == (Status.SUCCESSFUL, 3, 3)
    assert [each.exception_class for each in result.errors] == [OSError, OSError]
    assert result.started_at < result.last_attempted_at


def test_a_job_tells_of_the_queue_that_it_was_called_for_by_another_alias(database, settings):
    ours = {"BACKEND": "djtasks.backend.DjtasksBackend"}
    settings.TASKS = {"default": ours, "all": {**ours, "QUEUES": []}}
    sent = declared.attempt_of.using(backend="all", queue_name="side").enqueue()
    assert handler["all"].get_result(sent.id).task == sent.task
    seen = []

    def receiver(task_result, **kwargs):
        seen.append((task_result.task, task_result.backend))

    signals.task_started.connect(receiver)
    run_jobs()
    signals.task_started.disconnect(receiver)
    assert seen == [(sent.task, "all")]


def test_a_site_that_names_the_backend_and_has_not_installed_the_app_is_told(tmp_path):
    site = Site(tmp_path)
    tasks = {"default": {"BACKEND": "djtasks.backend.DjtasksBackend"}}
    site.settings(more=f"INSTALLED_APPS = ['shop']\nTASKS = {tasks}\n")
    task = f"from {_DJANGO} import task\n\n\n@task\ndef sell():\n    pass\n"
    site.write({"shop/tasks.py": task, "shop/models.py": "from shop import tasks\n"})
    finished = site.manage("check")
    assert "(djtasks.E015) TASKS['default'] is djtasks, which INSTALLED_APPS does not name." in finished.stderr


def test_it_is_a_task_like_others(database):
    task = registry.get("tests.djangos_tasks.double")
    assert task.delay(3).id
    assert run_jobs() == 1
    assert Job.objects.get().result == "6"
    assert task.__doc__ == "Twice as much."


# What @task of Django 6.0 gives each task; later ones have defaults.
REQUIRED = {"priority": 0, "queue_name": "default", "backend": "default", "run_after": None}


def test_a_name_that_a_shared_task_has_is_refused(own_tasks):
    def twice(number):
        return number

    twice.__qualname__ = "twice"
    shared_task(name=f"{__name__}.twice")(lambda number: 2 * number)
    with pytest.raises(DuplicateTask, match="Two tasks are named"):
        handler["default"].task_class(func=twice, **REQUIRED)


def test_options_of_djtasks_may_stand_beside_djangos(own_tasks):
    def paid(number):
        return number

    paid.__qualname__ = "paid"
    handler["default"].task_class(func=paid, max_retries=9, time_limit=60, **REQUIRED)
    task = registry.get(f"{__name__}.paid")
    assert (task.max_retries, task.time_limit) == (9, 60)


def test_options_in_the_settings_are_a_check_error(settings):
    settings.TASKS = {"default": {"BACKEND": "djtasks.backend.DjtasksBackend", "OPTIONS": {"retries": 3}}}
    found = [each for each in handler["default"].check() if each.id == "djtasks.E012"]
    assert "retries" in found[0].msg


def test_the_checks_are_content_with_the_settings():
    assert [each for each in run_checks() if "TASKS" in each.msg] == []


@pytest.mark.every_broker
def test_a_real_worker_runs_it(database, start_worker):
    start_worker("-c", "1")
    results = [declared.double.enqueue(3), declared.double_async.enqueue(4), declared.rest.enqueue(30)]

    def running():
        for each in results:
            each.refresh()
        return [str(each.status) for each in results] == ["SUCCESSFUL", "SUCCESSFUL", "RUNNING"]

    wait_until(running, what="the results")
    assert [each.return_value for each in results[:2]] == [6, 8]


def test_what_was_queued_of_a_task_is_found_by_that_task(db):
    with CapturedJobs() as jobs:
        declared.double.enqueue(21)
    jobs.assert_enqueued(declared.double, args=[21])
    jobs.assert_not_enqueued(declared.fail)
    with pytest.raises(AssertionError, match=r"1 and not 0 of tests\.djangos_tasks\.double were queued"):
        jobs.assert_not_enqueued(declared.double)


def test_what_cannot_be_an_id_is_no_result(db):
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        handler["default"].get_result("\ud800")
