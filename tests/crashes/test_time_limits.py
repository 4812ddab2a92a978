"""Time limits in real workers: what runs too long is told so, or killed with all that it has started."""

import os
import random
import signal
import time

import pytest
from django.db import connections, transaction

from djtasks import chord, states
from djtasks.exceptions import ChordError, SoftTimeLimitExceeded, TimeLimitExceeded
from djtasks.models import Job
from tests import tasks
from tests.crashes.test_hostile_tasks import is_gone_or_zombie
from tests.crashes.test_kills import LOST_AFTER, lines, runner
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker


def started(path):
    """Wait until a task has noted that it runs."""
    wait_until(lambda: lines(path), what="the first line of the task")


def process(worker):
    """The pid of the only child of the worker that runs jobs."""
    return tasks.process.delay().get(timeout=20)


# Soft ones


def test_a_soft_limit_ends_a_job_as_failure_and_its_process_goes_on(start_worker, tmp_path):
    worker = start_worker("-c", "1")
    pid = process(worker)
    result = tasks.journal.apply_async((str(tmp_path / "journal"), "x", 30), soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=10)
    assert (result.state, process(worker)) == (states.FAILURE, pid)
    assert 0.2 <= Job.objects.get(pk=result.id).seconds < 5


def test_a_soft_limit_may_be_caught_and_the_task_still_returns(start_worker, tmp_path):
    start_worker("-c", "1")
    path = tmp_path / "journal"
    for task in (tasks.tidy_up, tasks.tidy_up_later):
        assert task.apply_async((str(path), 30), soft_time_limit=0.2).get(timeout=10) == "cut short"
        assert task.apply_async((str(path), 0.01), soft_time_limit=20).get(timeout=10) == "whole"
    assert lines(path).count("tidied") == 2


def test_a_soft_limit_may_lead_to_a_retry_whose_waiting_counts_for_nothing(start_worker, tmp_path):
    start_worker("-c", "1")
    path = tmp_path / "journal"
    result = tasks.try_within.apply_async((str(path), 30), soft_time_limit=0.05)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=20)
    assert lines(path) == ["try"] * 3


def test_the_solo_pool_knows_soft_limits(start_worker, tmp_path):
    worker = start_worker("-P", "solo", "--soft-time-limit", "0.2", "--time-limit", "20")
    assert "solo" in worker.output
    assert "time limit" in worker.output
    assert tasks.tidy_up.delay(str(tmp_path / "journal"), 30).get(timeout=10) == "cut short"
    assert tasks.tidy_up_later.delay(str(tmp_path / "journal"), 30).get(timeout=10) == "cut short"


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("atomic", [True, False])
def test_a_query_that_was_cut_off_spoils_no_later_one(start_worker, database, atomic):
    if connections[database].vendor == "mysql" and connections[database].Database.__name__ == "MySQLdb":
        pytest.skip("mysqlclient waits for the server in C, where Python takes no signal")
    start_worker("-c", "1")
    answer = tasks.query_for_long.apply_async((database, 20, atomic), soft_time_limit=0.3).get(timeout=20)
    assert answer[0] == 42
    assert tasks.ask_database.delay(database).get(timeout=20) == answer


def test_limits_come_from_the_call_the_task_the_worker_and_the_settings_in_this_order(start_worker):
    start_worker("-c", "1", "--time-limit", "40", TASK_TIME_LIMIT=60, TASK_SOFT_TIME_LIMIT=50)
    # A general soft limit that is above the hard one that counts never comes.
    assert tasks.tell_limits.delay().get(timeout=20) == [40, None]
    assert tasks.tell_limits.apply_async(time_limit=55).get(timeout=20) == [55, 50]
    assert tasks.tell_limits.s().set(time_limit=70, soft_time_limit=0.5).delay().get(timeout=20) == [70, 0.5]
    assert tasks.limited.delay().get(timeout=20) == [30, 20]
    assert tasks.limited.apply_async(soft_time_limit=10).get(timeout=20) == [30, 10]


def test_a_soft_limit_above_the_hard_one_of_the_worker_fails_with_a_word(start_worker):
    start_worker("-c", "1", "--time-limit", "5")
    result = tasks.noop.apply_async(soft_time_limit=10)
    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        result.get(timeout=20)


def test_soft_limits_near_the_run_time_end_each_job_once(start_worker, tmp_path):
    """The end of a job and its limit meet again and again; the ledger and the queue must not notice."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    worker = start_worker("-c", "2")
    pause = 0.004
    results = [tasks.sleep.apply_async((pause,), soft_time_limit=pause * chance.uniform(0.8, 1.4)) for _ in range(400)]
    ends = {states.SUCCESS: 0, states.FAILURE: 0}
    for each in results:
        wait_until(each.ready)
        ends[each.state] += 1
    print(ends)
    rows = Job.objects.filter(pk__in=[each.id for each in results])
    assert set(rows.values_list("token", "losses")) == {(1, 0)}
    failed = rows.filter(state=states.FAILURE)
    assert set(failed.values_list("exception", flat=True)) == {"djtasks.exceptions.SoftTimeLimitExceeded"}
    assert min(ends.values()) > 0
    assert "stumbled" not in worker.output
    assert worker.stop() == 0


# Hard ones


@pytest.mark.parametrize("task", [tasks.be_stubborn, tasks.hold_the_interpreter, tasks.wait_later])
def test_a_hard_limit_kills_whatever_runs_and_its_process_is_replaced(start_worker, tmp_path, task):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    pid = process(worker)
    began = time.monotonic()
    result = task.apply_async(
        (str(path), 60), time_limit=0.5, soft_time_limit=0.2 if task is tasks.be_stubborn else None
    )
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=20)
    assert time.monotonic() - began < 8
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.losses, job.retries, job.seconds) == (states.FAILURE, 0, 0, 0.5)
    assert result.result.args == (0.5,)
    assert process(worker) != pid
    assert len(lines(path)) == 1
    assert is_gone_or_zombie(pid)


def test_what_a_job_has_started_dies_with_it(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "1")
    result = tasks.start_a_program.apply_async((str(path), 60), time_limit=0.5)
    wait_until(result.ready)
    assert result.state == states.FAILURE
    wait_until(lambda: is_gone_or_zombie(runner(path)), what="the end of the program")


def test_a_job_that_was_killed_calls_its_errbacks_and_counts_in_its_chord(start_worker, tmp_path):
    path, errors = tmp_path / "journal", tmp_path / "errors"
    start_worker("-c", "2")
    errback = tasks.note_error.s(str(errors))
    result = tasks.journal.apply_async((str(path), "x", 60), time_limit=0.3, link_error=errback)
    body = chord([tasks.add.s(1, 1), tasks.journal.si(str(path), "y", 60).set(time_limit=0.3)], tasks.total.s()).delay()
    with pytest.raises((ChordError, TimeLimitExceeded)):
        body.get(timeout=20)
    wait_until(lambda: lines(errors) == [f"TimeLimitExceeded of {result.id}"])


def test_neighbours_of_a_job_that_is_killed_do_not_suffer(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "1", "--prefetch-multiplier", "50")
    before = [tasks.journal.delay(str(path), f"before{number}") for number in range(20)]
    killed = tasks.journal.apply_async((str(path), "killed", 60), time_limit=0.5)
    after = [tasks.journal.delay(str(path), f"after{number}") for number in range(20)]
    assert [each.get(timeout=20) for each in (*before, *after)]
    wait_until(killed.ready)
    begun = [line for line in lines(path) if line.startswith("begin")]
    assert len(begun) == 41
    assert set(Job.objects.values_list("losses", flat=True)) == {0}


@pytest.mark.rows_that_wait
def test_what_was_finished_but_not_committed_is_waited_for(start_worker, tmp_path, database):
    """The ledger is held up when the limit is reached, and gets its moment before the process is killed."""
    path = tmp_path / "journal"
    start_worker("-c", "1", "--prefetch-multiplier", "50")
    process(None)
    with transaction.atomic(using=database):
        first = tasks.journal.delay(str(path), "first", 0.2)
        second = tasks.journal.apply_async((str(path), "second", 60), time_limit=0.5)
    wait_until(lambda: any("end first" in line for line in lines(path)))
    if connections[database].vendor != "sqlite":
        with transaction.atomic(using=database):
            list(Job.objects.filter(pk=first.id).select_for_update())
            wait_until(lambda: any("begin second" in line for line in lines(path)))
            time.sleep(0.8)  # beyond the limit, within the last second
    with pytest.raises(TimeLimitExceeded):
        second.get(timeout=20)
    assert first.get(timeout=20) == "first"
    assert [line.split()[1] for line in lines(path) if line.startswith("begin")] == ["first", "second"]


def test_a_limit_that_is_reached_just_as_the_job_ends_is_recorded_once(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "2")
    chance = random.Random(3)
    results = [
        tasks.journal.apply_async((str(path), number, 0.1), time_limit=0.1 * chance.uniform(0.9, 1.2))
        for number in range(40)
    ]
    for each in results:
        wait_until(each.ready, seconds=60)
    rows = Job.objects.filter(pk__in=[each.id for each in results])
    killed = rows.filter(exception="djtasks.exceptions.TimeLimitExceeded").count()
    assert rows.filter(state=states.SUCCESS).count() + killed == 40
    assert killed > 0
    assert set(rows.values_list("losses", flat=True)) == {0}
    begun = [line.split()[1] for line in lines(path) if line.startswith("begin")]
    assert len(begun) == len(set(begun)) == 40


def test_a_job_whose_supervisor_dies_as_well_is_delivered_again(start_worker, tmp_path):
    path = tmp_path / "journal"
    first = start_worker("-c", "1")
    result = tasks.journal.apply_async((str(path), "x", 60), time_limit=1.0)
    started(path)
    first.kill_all()
    start_worker("-c", "1")
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=LOST_AFTER + 20)
    job = Job.objects.get(pk=result.id)
    assert (job.losses, len(lines(path))) == (1, 2)


def test_a_keeper_that_is_dead_then_learns_of_it_from_the_next_word(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    result = tasks.journal.apply_async((str(path), "x", 60), time_limit=0.6)
    started(path)
    (keeper,) = set(worker.children()) - {runner(path)}
    os.kill(keeper, signal.SIGSTOP)
    wait_until(lambda: is_gone_or_zombie(runner(path)), what="the end of the child")
    os.kill(keeper, signal.SIGKILL)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=20)
    assert len(lines(path)) == 1
