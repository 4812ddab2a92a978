"""The queues in Redis: processes killed, and memory lost, at just the points at which others lose or double jobs."""

import subprocess
import sys
import time
from collections import Counter

import pytest
import redis
from django.db import connections

from djtasks import control, states
from djtasks.brokers import get_broker
from djtasks.message import new_id
from djtasks.models import Job, Outbox
from tests import failpoints, tasks
from tests.conftest import empty_redis
from tests.processes import worker_environment
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("database", ["redis"], indirect=True)

TELL = "djtasks.worker.ledger:Ledger._tell_broker"  # what follows the COMMIT


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def begun(path):
    return Counter(line.split()[1] for line in lines(path) if line.startswith("begin"))


def sender(settings, code, dies_at, path, call=1):
    """A process that sends jobs and dies."""
    preamble = f"import django; django.setup(); from django.db import transaction; from tests import tasks; {code}"
    return subprocess.run(
        [sys.executable, "-c", preamble],
        env=worker_environment(settings.DJTASKS) | failpoints.variables(dies_at, path, call),
        check=False,
        timeout=60,
    )


def test_what_was_recorded_but_not_acknowledged_does_not_run_again_nor_does_what_follows(start_worker, tmp_path):
    path, follow_up = tmp_path / "journal", new_id()
    start_worker("-c", "1", env=failpoints.variables(TELL, tmp_path / "dead"))
    job = tasks.journal.apply_async((str(path), "job"), headers={"then": [follow_up, str(path)]})
    wait_until(lambda: (tmp_path / "dead").exists())
    wait_until(lambda: Job.objects.filter(pk=follow_up, state=states.SUCCESS).exists())
    wait_until(lambda: get_broker().known([job.id, follow_up]) == set() and not Outbox.objects.exists())
    assert begun(path) == {"job": 1, "follow-up": 1}
    assert (job.state, Job.objects.get(pk=job.id).losses) == (states.SUCCESS, 0)


def test_what_follows_is_sent_even_if_the_process_dies_between_commit_and_send(start_worker, tmp_path):
    path, follow_up = tmp_path / "journal", new_id()
    start_worker("-c", "1", env=failpoints.variables("djtasks.outbox:_send_written", tmp_path / "dead"))
    tasks.journal.apply_async((str(path), "job"), headers={"then": [follow_up, str(path)]})
    wait_until(lambda: Job.objects.filter(pk=follow_up, state=states.SUCCESS).exists())
    assert (tmp_path / "dead").exists()
    assert begun(path) == {"job": 1, "follow-up": 1}


def test_a_retry_that_was_recorded_but_not_put_in_the_queue_goes_on_from_its_row(start_worker, tmp_path):
    path = tmp_path / "tries"
    start_worker("-c", "1", env=failpoints.variables(TELL, tmp_path / "dead"))
    result = tasks.succeed_at.delay(str(path), 3)
    assert result.get(timeout=30) == 2
    assert (tmp_path / "dead").exists()
    assert lines(path) == ["try 0", "try 1", "try 2"]
    assert [each["ending"] for each in Job.objects.get(pk=result.id).earlier_attempts()] == ["RETRY", "RETRY"]


def test_what_a_sender_committed_before_it_died_is_sent_from_the_outbox(start_worker, settings, tmp_path):
    path = tmp_path / "journal"
    code = f"\nwith transaction.atomic(using='postgresql'): tasks.journal.delay({str(path)!r}, 'x')"
    done = sender(settings, code, "djtasks.outbox:_send_written", tmp_path / "dead")
    assert (done.returncode, Outbox.objects.count()) == (-9, 1)
    start_worker("-c", "1")
    wait_until(lambda: Job.objects.filter(state=states.SUCCESS).count() == 1)
    wait_until(lambda: not Outbox.objects.exists())
    assert begun(path) == {"x": 1}


def test_ten_thousand_jobs_whose_sender_dies_halfway_all_run_and_once(start_worker, settings, tmp_path):
    code = "\nwith transaction.atomic(using='postgresql'): tasks.noop.enqueue_many([()] * 10_000)"
    # The eleventh batch of twenty, so that some are in the queue, and one is there and still in the outbox.
    done = sender(settings, code, "djtasks.outbox:_delete", tmp_path / "dead", call=11)
    assert done.returncode == -9
    assert 0 < Outbox.objects.count() < 10_000
    start_worker("-c", "2")
    wait_until(lambda: Job.objects.filter(state=states.SUCCESS).count() == 10_000, seconds=60)
    wait_until(lambda: not Outbox.objects.exists())
    # One claim each, but for what a busy machine has let somebody give back; and one run.
    assert set(Job.objects.values_list("losses", "attempts")) == {(0, None)}


def test_what_waits_by_its_row_comes_back_after_the_server_was_emptied(start_worker, settings, tmp_path):
    path = tmp_path / "journal"
    first = start_worker("-c", "2")
    retried = tasks.succeed_at.delay(str(path), 2, 3.0)
    finished = tasks.add.delay(1, 1)
    running = tasks.journal.delay(str(tmp_path / "running"), "x", 3.0)
    wait_until(lambda: retried.state == states.RETRY and finished.ready() and running.state == states.STARTED)
    control.pause("default")
    control.retry(finished.id)
    empty_redis(settings.DJTASKS["BROKER_URL"])
    assert [each.get(timeout=30) for each in (retried, running, finished)] == [1, "x", 2]
    assert begun(tmp_path / "running") == {"x": 1}
    assert Job.objects.get(pk=finished.id).token == 2
    assert first.process.poll() is None


def test_a_job_whose_lease_was_forgotten_runs_again_if_its_process_dies(start_worker, settings, tmp_path):
    path = tmp_path / "journal"
    first = start_worker("-c", "1")
    result = tasks.journal.delay(str(path), "x", 2.0)
    wait_until(lambda: result.state == states.STARTED)
    empty_redis(settings.DJTASKS["BROKER_URL"])
    first.kill_all()
    start_worker("-c", "1")
    assert result.get(timeout=30) == "x"
    assert begun(path) == {"x": 2}


def test_an_id_twice_is_no_second_run_even_after_the_first_has_left_redis(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "1")
    for _ in range(2):
        tasks.journal.apply_async((str(path), "x"), task_id="once").get(timeout=20)
        wait_until(lambda: not get_broker().known(["once"]))
    tasks.journal.delay(str(path), "y").get(timeout=20)
    assert begun(path) == {"x": 1, "y": 1}


def test_an_outage_of_redis_does_not_keep_outcomes_from_the_database(start_worker, settings, tmp_path):
    """They are recorded while Redis is away, and acknowledged when it is back."""
    url = settings.DJTASKS["BROKER_URL"]
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    result = tasks.journal.delay(str(path), "x", 1.0)
    wait_until(lambda: lines(path))
    with redis.Redis.from_url(url) as client:
        client.execute_command("CLIENT", "PAUSE", 5000, "ALL")
    assert result.get(timeout=4) == "x"
    assert tasks.add.delay(1, 1).get(timeout=20) == 2
    wait_until(lambda: not get_broker().known([result.id]))
    assert begun(path) == {"x": 1}
    assert worker.process.poll() is None


def test_connections_to_the_database_that_are_ended_again_and_again_lose_nothing(start_worker, database, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "2", WORKER_LOST_AFTER=5.0)
    results = [tasks.journal.delay(str(path), number, 0.01) for number in range(200)]
    ended = 0
    while Job.objects.finished().count() < 200:
        with connections[database].cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            ended += cursor.fetchone()[0]
        time.sleep(0.1)
    assert ended > 5
    assert [each.get(timeout=30) for each in results] == list(range(200))
    assert sum(begun(path).values()) == 200
    wait_until(lambda: get_broker().sizes() == {})
    assert worker.process.poll() is None
    assert "The keeper died" not in worker.output
    assert "Traceback" not in worker.output
