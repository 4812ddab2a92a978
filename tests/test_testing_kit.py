"""What `djtasks.testing` gives to tests that look at jobs, let time pass, or want a real worker."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connections, transaction

from djtasks import chord, send_task, shared_task
from djtasks.exceptions import ImproperlyConfigured
from djtasks.models import Job, PeriodicTask, Queue
from djtasks.testing import CapturedJobs, run_jobs, worker
from tests import tasks
from tests.waiting import wait_until

pytest_plugins = ["pytester"]

HOUR = timedelta(hours=1)


# What was queued


def test_a_job_that_was_queued_is_found_by_task_and_arguments(djtasks_jobs):
    result = tasks.add.apply_async((1,), {"y": 2}, queue="sums", priority=4)
    (job,) = djtasks_jobs.assert_enqueued(tasks.add, (1,), {"y": 2}, queue="sums", priority=4)
    assert (job.id, job.args, job.kwargs) == (result.id, [1], {"y": 2})
    djtasks_jobs.assert_enqueued("tests.tasks.add")
    djtasks_jobs.assert_not_enqueued(tasks.add, (2, 2))
    djtasks_jobs.assert_not_enqueued(tasks.noop)
    assert len(djtasks_jobs) == 1


def test_eta_and_countdown_are_found(djtasks_jobs):
    eta = datetime.now(UTC) + HOUR
    tasks.noop.apply_async(eta=eta)
    tasks.noop.apply_async(countdown=60)
    djtasks_jobs.assert_enqueued(tasks.noop, eta=eta)
    djtasks_jobs.assert_enqueued(tasks.noop, countdown=60)
    djtasks_jobs.assert_enqueued(tasks.noop, times=2)


def test_what_is_missing_is_told_with_what_there_was(djtasks_jobs):
    tasks.add.delay(1, y=2)
    send_task("elsewhere.mail", ["a@b.c"], queue="mail", countdown=5)
    with pytest.raises(AssertionError) as told:
        djtasks_jobs.assert_enqueued(tasks.add, (1, 3))
    assert str(told.value) == (
        "0 and not 1 of tests.tasks.add, args=(1, 3) were queued. There were:\n"
        "  tests.tasks.add(1, y=2) in queue 'default' with priority 0\n"
        "  elsewhere.mail('a@b.c') in queue 'mail' with priority 0, countdown=5"
    )
    with pytest.raises(AssertionError, match=r"1 and not 0 of tests\.tasks\.add"):
        djtasks_jobs.assert_not_enqueued(tasks.add)
    with pytest.raises(TypeError, match="no color"):
        djtasks_jobs.assert_enqueued(tasks.add, color="red")


def test_all_doors_are_watched_and_only_within_the_block(db):
    with CapturedJobs() as jobs:
        tasks.add.enqueue_many([(1, 1), (2, 2)])
        chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s())()
        tasks.noop.delay_on_commit()
        assert run_jobs() == 6
    tasks.noop.delay()
    jobs.assert_enqueued(tasks.add, times=4)
    jobs.assert_enqueued(tasks.noop)
    assert [each.task for each in jobs].count(tasks.total.name) == 0  # its header's end has sent it
    jobs.clear()
    assert len(jobs) == 0


# Time


def test_retries_run_at_their_times(db, tmp_path):
    result = tasks.succeed_at.delay(str(tmp_path / "tries"), 3, 600.0)
    assert run_jobs(until=timedelta(minutes=9)) == 1
    assert result.state == "RETRY"
    assert run_jobs(until=timedelta(minutes=11)) == 1
    assert run_jobs(until=timedelta(minutes=11)) == 0
    assert run_jobs(until=timedelta(minutes=21)) == 1
    assert result.get(timeout=0) is not None


def test_each_try_waits_from_the_one_before(db, tmp_path):
    tasks.succeed_at.delay(str(tmp_path / "tries"), 3, 600.0)
    assert run_jobs(until=timedelta(minutes=19)) == 2
    Job.objects.all().delete()
    tasks.succeed_at.delay(str(tmp_path / "again"), 3, 600.0)
    assert run_jobs(until=timedelta(minutes=21)) == 3


def test_jobs_with_an_eta_run_in_the_order_of_their_times(db, tmp_path):
    path = tmp_path / "notes"
    for name, hours in (("late", 3), ("early", 1), ("too late", 5)):
        tasks.journal.apply_async((str(path), name), countdown=3600 * hours)
    assert run_jobs(until=datetime.now(UTC) + 4 * HOUR) == 2
    assert path.read_text().index("early") < path.read_text().index("late")
    assert Job.objects.waiting().count() == 1


def test_schedules_send_their_ticks(db):
    PeriodicTask.objects.create(name="often", task="tests.tasks.add", args="[1, 2]", schedule="*/10 * * * *")
    PeriodicTask.objects.create(name="off", task="tests.tasks.noop", schedule="*/10 * * * *", enabled=False)
    assert run_jobs(until=HOUR) == 6
    jobs = Job.objects.filter(periodic_task="often")
    assert set(jobs.values_list("state", "result")) == {("SUCCESS", "3")}
    assert PeriodicTask.objects.get(name="often").total_run_count == 6


@pytest.mark.upkeep
def test_schedules_of_the_code_send_their_ticks_and_our_own_none(db, own_tasks, settings):
    runs = []

    @shared_task(name="tests.hourly", schedule=timedelta(minutes=30))
    def hourly():
        runs.append("beside a task")

    @shared_task(name="tests.in_settings")
    def in_settings():
        runs.append("in the settings")

    entry = {"task": "tests.in_settings", "schedule": 600}
    settings.DJTASKS = {**settings.DJTASKS, "BEAT_SCHEDULE": {"often": entry}}
    assert run_jobs(until=timedelta(minutes=61)) == 8
    assert (runs.count("beside a task"), runs.count("in the settings")) == (2, 6)


def test_a_schedule_that_runs_once_runs_once(db):
    PeriodicTask.objects.create(name="once", task="tests.tasks.noop", schedule="*/10 * * * *", one_off=True)
    assert run_jobs(until=HOUR) == 1


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_time_passes_only_where_the_queues_are_in_the_database(database):
    with pytest.raises(ImproperlyConfigured, match="database://"):
        run_jobs(until=HOUR)


# A real worker


def test_a_real_worker_runs_what_is_queued(database):
    with worker(processes=1) as pid:
        result = tasks.add.delay(20, 22)
        wait_until(result.ready)
        assert (result.get(), result.state) == (42, "SUCCESS")
        assert pid
    with transaction.atomic(using=database):
        assert not Job.objects.running().exists()


def test_a_database_in_memory_is_refused(settings, monkeypatch, transactional_db):
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "file:memorydb_default?mode=memory&cache=shared")
    with pytest.raises(ImproperlyConfigured, match="TEST"), worker():
        pass


def test_the_fixtures_are_there_for_any_site(pytester):
    pytester.makepyfile(
        settings_of_site="""
        SECRET_KEY = "x"
        INSTALLED_APPS = ["djtasks"]
        DATABASES = {"default": {
            "ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3", "TEST": {"NAME": "test.sqlite3"},
            "OPTIONS": {
                "timeout": 20, "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }}
        """
    )
    pytester.makepyfile(
        test_site="""
        from djtasks import shared_task

        @shared_task
        def double(number):
            return 2 * number

        def test_eager(djtasks_eager):
            assert double.delay(2).get() == 4

        def test_jobs(djtasks_jobs):
            double.delay(3)
            djtasks_jobs.assert_enqueued(double, (3,))

        def test_worker(djtasks_worker):
            assert double.delay(4).get(timeout=30) == 8
        """
    )
    found = pytester.runpytest_subprocess("--ds=settings_of_site", "-p", "no:cacheprovider")
    found.assert_outcomes(passed=3)


def test_what_is_no_option_of_a_worker_is_an_error_here_and_no_second_test_run(transactional_db):
    with pytest.raises(TypeError, match="concurrency"), worker(concurrency=2):
        pass


def test_a_real_worker_within_a_test_cases_transaction_is_refused(db):
    with pytest.raises(ImproperlyConfigured, match="TransactionTestCase"), worker():
        pass
    assert not Job.objects.exists()  # the connection is still the test's


def test_a_statement_that_fails_in_a_task_spoils_no_other_within_a_transaction(database, own_tasks):
    """As in a worker, where what was written before stays, and what comes after is done."""

    @shared_task(name="tests.twice", max_retries=1, autoretry_for=(IntegrityError,))
    def twice():
        Queue.objects.create(name=f"before {twice.request.retries}")
        try:
            Queue.objects.create(name="before 0")
        except IntegrityError:
            Queue.objects.create(name=f"after {twice.request.retries}")
        with transaction.atomic(using=database):
            Queue.objects.create(name="rolled back")
            Queue.objects.create(name="before 0")

    with transaction.atomic(using=database):
        result = twice.delay()
        assert run_jobs() == 2
        assert (result.state, type(result.result)) == ("FAILURE", IntegrityError)
        names = set(Queue.objects.values_list("name", flat=True))
        assert names >= {"before 0", "before 1", "after 0", "after 1"}
        assert "rolled back" not in names
        transaction.set_rollback(True, using=database)


def test_what_expires_before_its_time_comes_is_revoked_as_time_passes(db, own_tasks):
    @shared_task(name="tests.sends_later")
    def sends_later():
        sent.append(tasks.noop.apply_async(countdown=1800, expires=60))
        sent.append(tasks.noop.apply_async(countdown=1800, expires=3600))

    sent = [tasks.noop.apply_async(countdown=3600, expires=60), tasks.noop.apply_async(countdown=3600, expires=3700)]
    sends_later.apply_async(countdown=1800)
    run_jobs(until=2 * HOUR)
    assert [each.state for each in sent] == ["REVOKED", "SUCCESS", "REVOKED", "SUCCESS"]


def test_what_ends_the_test_ends_no_job(db, own_tasks):
    @shared_task(name="tests.interrupted")
    def interrupted(error):
        raise KeyboardInterrupt if error == "ctrl-c" else pytest.fail.Exception(error)

    for error, kind in (("ctrl-c", KeyboardInterrupt), ("too late", pytest.fail.Exception)):
        interrupted.delay(error)
        with pytest.raises(kind):
            run_jobs()


def test_a_job_whose_argument_is_gone_is_compared_and_shown_by_its_reference(djtasks_jobs):
    queue = Queue.objects.create(name="soon gone")
    tasks.add.delay(queue, 1)
    queue.delete()
    djtasks_jobs.assert_not_enqueued(tasks.add, args=[5, 1])
    with pytest.raises(AssertionError, match="0 and not 1 of tests"):
        djtasks_jobs.assert_enqueued(tasks.add, args=[5, 1])
