"""Tasks that do to their process what no task should."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connections

from djtasks import states
from djtasks.conf import settings
from djtasks.models import Job, Worker
from tests import tasks
from tests.crashes.test_kills import is_gone, lines, runner
from tests.processes import worker_environment
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def is_gone_or_zombie(pid):
    """A process whose parent has gone may wait for ever to be fetched by an init that does not care."""
    if is_gone(pid):
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_process_that_leaves_quietly_in_the_midst_of_a_job_has_died_like_others(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "1")
    result = tasks.leave_quietly.delay(str(path))
    wait_until(result.ready)
    assert (result.state, len(lines(path))) == (states.FAILURE, 3)
    assert Job.objects.get(pk=result.id).exception == "djtasks.exceptions.WorkerLostError"


def test_a_copy_that_a_task_forked_runs_no_job(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "1", "--prefetch-multiplier", "50")
    result = tasks.fork_and_return.delay(str(path))
    others = [tasks.journal.delay(str(tmp_path / "others"), number) for number in range(20)]
    copy = result.get(timeout=20)
    assert [each.get(timeout=20) for each in others] == list(range(20))
    wait_until(lambda: is_gone_or_zombie(copy))
    begun = [line for line in lines(tmp_path / "others") if line.startswith("begin")]
    assert len(begun) == 20


def test_a_task_may_use_multiprocessing(start_worker):
    start_worker("-c", "1")
    for _ in range(60):  # a pool that ends as it begins must not miss its own SIGTERM
        assert tasks.use_processes.delay().get(timeout=20) == [1, 2]


def test_what_a_job_has_started_ends_with_it_in_a_cold_stop(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    tasks.start_a_program.delay(str(path), 60)
    wait_until(lambda: lines(path))
    program = runner(path)
    worker.kill(signal.SIGTERM)
    wait_until(lambda: "Warm stop" in worker.output)
    worker.kill(signal.SIGTERM)
    assert worker.process.wait(20) == 1
    wait_until(lambda: is_gone_or_zombie(program))


def test_a_process_whose_descriptors_were_closed_is_replaced(start_worker):
    start_worker("-c", "1")
    culprit = tasks.close_everything.delay()
    assert tasks.add.delay(1, 1).get(timeout=30) == 2
    wait_until(culprit.ready)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_process_whose_pipes_were_closed_is_replaced_before_it_takes_others_for_them(start_worker):
    """Their numbers are those of files that are opened next, such as a database's."""
    start_worker("-c", "1")
    culprit = tasks.close_pipes.delay()
    for number in range(3):
        assert tasks.add.delay(number, 1).get(timeout=30) == number + 1
    assert (culprit.get(timeout=30), culprit.row.losses) == (None, 0)
    connection = connections[settings.DATABASE]
    if connection.vendor == "sqlite":
        journal = Path(f"{connection.settings_dict['NAME']}-wal")
        assert journal.read_bytes()[:3] == b"\x37\x7f\x06"  # by SQLite's description of its files


def test_an_alarm_that_a_job_leaves_behind_stops_no_worker(start_worker, tmp_path):
    """Its handler raises in whatever the thread that runs jobs is at between two of them."""
    worker = start_worker("-c", "1")
    for number, seconds in enumerate((0.02, 0.1, 0.3)):
        path = tmp_path / str(number)
        left = tasks.leave_alarm.delay(str(path), seconds)
        wait_until(path.exists)
        assert tasks.add.delay(number, 1).get(timeout=30) == number + 1
        assert left.get(timeout=30) is None
    assert worker.stop(seconds=10) == 0


def test_a_task_that_ignores_stops_does_not_keep_its_worker(start_worker):
    worker = start_worker("-c", "1")
    tasks.ignore_stops.delay().get(timeout=20)
    tasks.noop.delay().get(timeout=20)
    assert worker.stop(seconds=10) == 0


def test_a_row_whose_id_is_no_id_fails(start_worker):
    Job.objects.create(id="ünï", task="tests.tasks.add", args="[1,1]", queue="default")
    start_worker("-c", "1")
    wait_until(lambda: Job.objects.get(pk="ünï").state == states.FAILURE)


def test_a_solo_worker_finishes_its_job_when_its_parent_is_gone(database, settings, tmp_path):
    path = tmp_path / "journal"
    source, sink = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "runworker", "-P", "solo", "--parent-pipe", str(source)],
        env=worker_environment({**settings.DJTASKS, "WORKER_HEARTBEAT": 0.2, "WORKER_LOST_AFTER": 2.0}),
        pass_fds=[source],
        stdout=subprocess.DEVNULL,
    )
    os.close(source)
    try:
        result = tasks.journal.delay(str(path), "x", 4.0)
        wait_until(lambda: lines(path))
        os.close(sink)
        assert process.wait(20) == 0
    finally:
        process.kill()
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.token, len(lines(path))) == (states.SUCCESS, 1, 2)
    assert Worker.objects.get().stopped_at is not None
