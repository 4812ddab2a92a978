"""Processes killed with real signals, at just the points where other queues lose or double jobs."""

import os
import signal
import time
from collections import Counter

import pytest
from django.db import connections, transaction

from djtasks import states
from djtasks.models import Job, Worker
from tests import tasks
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker

LOST_AFTER = 2.0  # seconds, as `start_worker` sets it
GRACE = 2.0  # seconds that a rescue may take beyond that


def finished():
    return Job.objects.finished().count()


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def runner(path, word="begin"):
    """The pid in the last line that begins with `word`."""
    return int([line for line in lines(path) if line.startswith(word)][-1].split()[-1])


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.every_store
def test_a_child_killed_midway_loses_none_of_200_jobs(start_worker, tmp_path):
    path = tmp_path / "journal"
    results = [tasks.journal.delay(str(path), number, 0.05) for number in range(200)]
    start_worker("-c", "2")
    for share in (20, 60, 100):
        wait_until(lambda share=share: finished() >= share)
        os.kill(runner(path), signal.SIGKILL)
    assert [each.get(timeout=30) for each in results] == list(range(200))
    begun = Counter(line.split()[1] for line in lines(path) if line.startswith("begin"))
    # Only what ran in a killed process, or was not committed yet, ran twice.
    assert sum(begun.values()) - 200 <= 3 * 3


@pytest.mark.every_store
def test_a_worker_killed_whole_is_replaced_by_another_in_time(start_worker, tmp_path):
    path = tmp_path / "journal"
    results = [tasks.journal.delay(str(path), number, 0.05) for number in range(200)]
    first = start_worker("-c", "2")
    start_worker("-c", "1", "-Q", "idle")
    wait_until(lambda: finished() >= 50)
    first.kill_all()
    killed = time.monotonic()
    start_worker("-c", "2", wait=False)
    wait_until(lambda: not Job.objects.running().filter(worker__startswith=_boot_id(first)).exists())
    assert time.monotonic() - killed < LOST_AFTER + GRACE
    assert [each.get(timeout=30) for each in results] == list(range(200))
    assert not Job.objects.filter(losses__gt=1).exists()


def _boot_id(worker):
    return Worker.objects.get(pid=worker.pid).pk


def test_children_and_keeper_die_with_their_supervisor(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "2")
    tasks.journal.delay(str(path), "long", 60)
    wait_until(lambda: lines(path))
    family = worker.children()
    assert len(family) == 3
    worker.kill()
    worker.process.wait(10)
    wait_until(lambda: all(is_gone(pid) for pid in family))


def test_a_keeper_that_is_killed_is_replaced_and_no_job_notices(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    result = tasks.journal.delay(str(path), "x", 1.0)
    wait_until(lambda: lines(path))
    (keeper,) = set(worker.children()) - {runner(path)}
    os.kill(keeper, signal.SIGKILL)
    assert result.get(timeout=20) == "x"
    assert tasks.add.delay(1, 1).get(timeout=20) == 2
    assert Job.objects.get(pk=result.id).token == 1


def test_a_child_that_dies_while_the_keeper_is_dead_is_rescued_by_the_next_keeper(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    result = tasks.journal.delay(str(path), "x", 1.0)
    wait_until(lambda: lines(path))
    child = runner(path)
    (keeper,) = set(worker.children()) - {child}
    os.kill(keeper, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    assert result.get(timeout=20) == "x"
    assert Job.objects.get(pk=result.id).losses == 1


@pytest.mark.parametrize("task", [tasks.kill_own_process, tasks.crash_interpreter])
def test_a_poison_job_stops_after_its_losses_and_its_neighbours_do_not_suffer(start_worker, tmp_path, task):
    path = tmp_path / "journal"
    start_worker("-c", "1")
    before = [tasks.noop.delay() for _ in range(10)]
    poison = task.delay(str(path))
    after = [tasks.noop.delay() for _ in range(10)]
    wait_until(lambda: poison.ready() and all(each.successful() for each in before + after), seconds=30)
    job = Job.objects.get(pk=poison.id)
    assert (job.state, job.exception) == (states.FAILURE, "djtasks.exceptions.WorkerLostError")
    assert len(lines(path)) == 3
    assert [each["ending"] for each in job.earlier_attempts()] == ["LOST", "LOST"]
    assert set(Job.objects.exclude(pk=poison.id).values_list("losses", flat=True)) == {0}
    with pytest.raises(Exception, match="died under this job 3 times"):
        poison.get(timeout=1)


def test_a_job_acknowledged_early_is_not_run_again_after_its_process_died(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "1")
    result = tasks.kill_own_process_early_ack.delay(str(path))
    wait_until(result.ready)
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.exception) == (states.FAILURE, "djtasks.exceptions.WorkerLostError")
    assert len(lines(path)) == 1


def test_a_job_acknowledged_early_ends_when_its_whole_worker_dies(start_worker, tmp_path):
    path = tmp_path / "journal"
    first = start_worker("-c", "1")
    result = tasks.journal_early_ack.delay(str(path), 60)
    wait_until(lambda: lines(path))
    first.kill_all()
    start_worker("-c", "1")
    wait_until(result.ready, seconds=LOST_AFTER + GRACE + 10)
    assert (result.state, len(lines(path))) == (states.FAILURE, 1)


@pytest.mark.rows_that_wait
def test_what_finished_but_was_not_committed_runs_again(start_worker, tmp_path, database):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    result = tasks.journal.delay(str(path), "x", 1.5)
    wait_until(lambda: lines(path))
    with transaction.atomic(using=database):
        # The ledger waits for this lock, so the outcome is known to the child alone when it dies.
        list(Job.objects.filter(pk=result.id).select_for_update())
        wait_until(lambda: f"[{result.id}] succeeded" in worker.output)
        os.kill(runner(path), signal.SIGKILL)
    assert result.get(timeout=20) == "x"
    assert [line.split()[0] for line in lines(path)] == ["begin", "end", "begin", "end"]
    assert Job.objects.get(pk=result.id).losses == 0


@pytest.mark.every_store
def test_a_zombie_does_no_harm_and_goes_on_under_a_new_name(start_worker, tmp_path):
    path = tmp_path / "journal"
    zombie = start_worker("-c", "1", "-n", "zombie")
    boot_id = _boot_id(zombie)
    result = tasks.journal.delay(str(path), "x", 1.0)
    wait_until(lambda: lines(path))
    family = [zombie.pid, *zombie.children()]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        start_worker("-c", "1", "-n", "other")
        assert result.get(timeout=20) == "x"
        winner = Job.objects.get(pk=result.id)
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: Worker.objects.filter(hostname="zombie", lost_at=None, beat__gt=0).exists())
    wait_until(lambda: "belongs to another worker by now" in zombie.output)
    now = Job.objects.get(pk=result.id)
    assert (now.worker, now.token, now.finished_at) == (winner.worker, winner.token, winner.finished_at)
    assert not now.worker.startswith(boot_id)
    # The zombie works again.
    results = [tasks.add.delay(number, 0) for number in range(50)]
    assert [each.get(timeout=20) for each in results] == list(range(50))


def test_quitting_at_once_leaves_the_jobs_to_the_others(start_worker, tmp_path):
    path = tmp_path / "journal"
    first = start_worker("-c", "1")
    result = tasks.journal.delay(str(path), "x", 1.0)
    wait_until(lambda: lines(path))
    first.kill(signal.SIGQUIT)
    assert first.process.wait(10) == 1
    start_worker("-c", "1")
    assert result.get(timeout=20) == "x"


def test_a_job_that_holds_the_interpreter_is_not_taken_for_dead(start_worker, tmp_path):
    start_worker("-c", "1")
    start_worker("-c", "1")
    path = tmp_path / "journal"
    result = tasks.hold_the_interpreter.delay(str(path), LOST_AFTER * 2)
    assert result.get(timeout=30) == "done"
    assert len(lines(path)) == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_rescue_after_an_outage_of_the_store_spares_the_living(start_worker, database):
    """Nobody could beat while the store was away; nobody may be taken for dead when it is back."""
    start_worker("-c", "1", "-n", "one")
    start_worker("-c", "1", "-n", "two")
    with connections[database].cursor() as cursor, transaction.atomic(using=database):
        cursor.execute("LOCK TABLE djtasks_worker IN ACCESS EXCLUSIVE MODE")
        held_since = time.monotonic()
        wait_until(lambda: time.monotonic() - held_since > LOST_AFTER * 1.5)
    beats = {worker.pk: worker.beat for worker in Worker.objects.all()}
    wait_until(lambda: all(worker.beat >= beats[worker.pk] + 5 for worker in Worker.objects.filter(pk__in=beats)))
    assert set(Worker.objects.filter(lost_at=None).values_list("hostname", flat=True)) == {"one", "two"}
