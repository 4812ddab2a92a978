"""Revoking what runs: its process is ended by a signal, wherever its worker is."""

import os
import signal
import time

import pytest

from djtasks import AsyncResult, GroupResult, control, group, states
from djtasks.brokers import get_broker
from djtasks.exceptions import TaskRevokedError
from djtasks.models import Job, Worker
from tests import tasks
from tests.crashes.test_hostile_tasks import is_gone_or_zombie
from tests.crashes.test_kills import lines, runner
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker


def run_long(path, **options):
    """A job that runs for a minute; returns once it does."""
    before = len(lines(path))
    result = tasks.journal.apply_async((str(path), "x", 60), **options)
    wait_until(lambda: len(lines(path)) > before, what="the run")
    return result


@pytest.mark.parametrize("options", [{}, {"signal": "SIGKILL"}, {"signal": "int"}, {"signal": signal.SIGUSR1}])
def test_what_runs_is_ended_and_its_process_replaced(start_worker, tmp_path, options):
    path = tmp_path / "journal"
    start_worker("-c", "1")
    result = run_long(path)
    pid = runner(path)
    result.revoke(terminate=True, **options)
    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=10)
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.revoked, job.losses) == (states.REVOKED, True, 0)
    assert 0 < job.seconds < 10
    assert tasks.process.delay().get(timeout=20) != pid
    assert len(lines(path)) == 1


def test_without_terminate_what_runs_goes_on(start_worker, tmp_path):
    start_worker("-c", "1")
    path = tmp_path / "journal"
    result = tasks.journal.delay(str(path), "x", 1.5)
    wait_until(lambda: lines(path))
    result.revoke()
    assert result.get(timeout=20) == "x"


def test_what_ignores_the_signal_is_killed_after_a_while_with_what_it_has_started(start_worker, tmp_path):
    start_worker("-c", "1")
    path = tmp_path / "journal"
    result = tasks.be_stubborn.delay(str(path), 60)
    wait_until(lambda: lines(path))
    program, pid = lines(path)[0].split()[1:]
    control.revoke(result, terminate=True)
    wait_until(result.ready)
    assert result.state == states.REVOKED
    wait_until(lambda: is_gone_or_zombie(int(program)) and is_gone_or_zombie(int(pid)))


def test_a_signal_that_there_is_not_is_an_error_at_the_caller(database):
    for wrong in ("SIGNONE", 4711):
        with pytest.raises(ValueError, match="There is no signal"):
            control.revoke("x", terminate=True, signal=wrong)


def test_errbacks_are_called_and_the_worker_goes_on_with_what_it_had_claimed(start_worker, tmp_path):
    start_worker("-c", "1", "--prefetch-multiplier", "50")
    path, errors = tmp_path / "journal", tmp_path / "errors"
    result = run_long(path, link_error=tasks.note_error.s(str(errors)))
    others = [tasks.journal.delay(str(path), number) for number in range(10)]
    result.revoke(terminate=True)
    assert [each.get(timeout=20) for each in others] == list(range(10))
    wait_until(lambda: lines(errors) == [f"TaskRevokedError of {result.id}"])
    assert set(Job.objects.values_list("losses", flat=True)) == {0}


def test_a_group_is_ended_by_one_word(start_worker, tmp_path):
    start_worker("-c", "1")
    start_worker("-c", "1")
    path = tmp_path / "journal"
    sent = group(tasks.journal.si(str(path), number, 60) for number in range(5)).delay()
    wait_until(lambda: len(lines(path)) == 2)
    sent.save()
    GroupResult.restore(sent.id).revoke(terminate=True)
    for each in sent.results:
        wait_until(each.ready)
        assert each.state == states.REVOKED
    assert len(lines(path)) == 2


def test_a_run_that_ends_by_itself_meanwhile_is_left_as_it_is_and_the_next_is_spared(start_worker, tmp_path):
    worker = start_worker("-c", "1")
    path = tmp_path / "journal"
    pid = tasks.process.delay().get(timeout=20)
    (keeper,) = set(worker.children()) - {pid}
    os.kill(keeper, signal.SIGSTOP)
    first = tasks.journal.delay(str(path), "first", 0.5)
    wait_until(lambda: lines(path))
    wait_until(lambda: get_broker().leases([first.id]))
    first.revoke(terminate=True)
    second = tasks.journal.delay(str(path), "second", 2)
    assert first.get(timeout=20) == "first"
    wait_until(lambda: len(lines(path)) == 3)
    os.kill(keeper, signal.SIGCONT)
    assert second.get(timeout=20) == "second"
    wait_until(lambda: not Worker.objects.exclude(command=None).exists())
    assert tasks.process.delay().get(timeout=20) == pid


def test_a_job_that_is_run_once_more_is_not_hit_by_an_older_word(start_worker, tmp_path):
    start_worker("-c", "1")
    path = tmp_path / "journal"
    result = run_long(path)
    result.revoke(terminate=True)
    wait_until(result.ready)
    Job.objects.filter(pk=result.id).update(args=f'["{path}","again",1.5]')
    control.retry(result.id)
    assert AsyncResult(result.id).get(timeout=20) == "again"


def test_a_revocation_outlives_the_worker_and_its_keeper(start_worker, tmp_path):
    path = tmp_path / "journal"
    first = start_worker("-c", "1")
    result = run_long(path)
    family = [first.pid, *first.children()]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    result.revoke(terminate=True)
    first.kill_all()
    start_worker("-c", "1")
    wait_until(result.ready)
    assert (result.state, len(lines(path))) == (states.REVOKED, 1)


def test_the_solo_pool_says_that_it_cannot(start_worker, tmp_path):
    worker = start_worker("-P", "solo")
    path = tmp_path / "journal"
    result = tasks.journal.delay(str(path), "x", 2.5)
    wait_until(lambda: lines(path))
    result.revoke(terminate=True)
    assert result.get(timeout=20) == "x"
    assert "cannot end what runs" in worker.output


def test_receivers_of_task_revoked_are_told_with_celerys_arguments(start_worker, tmp_path):
    path, told = tmp_path / "journal", tmp_path / "told"
    start_worker("-c", "1", env={"DJTASKS_TEST_REVOKED": str(told)})
    result = run_long(path)
    began = time.monotonic()
    result.revoke(terminate=True, signal="SIGKILL")
    wait_until(lambda: lines(told))
    assert lines(told) == [f"{result.id} tests.tasks.journal True 9 False"]
    assert time.monotonic() - began < 8
