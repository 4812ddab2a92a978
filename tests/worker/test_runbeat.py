"""Beat in real processes: on board of workers, in a process of its own, and at their ends."""

import signal
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from djtasks.brokers.base import Loss
from djtasks.models import Job, PeriodicTask, Worker, statements
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker

SECOND = timedelta(seconds=1)


def make(**values):
    return PeriodicTask.objects.create(
        **{"name": "often", "task": "tests.tasks.add", "args": "[3, 4]", "schedule": "* * * * * *", **values}
    )


def runs():
    return Job.objects.finished().filter(periodic_task="often")


def test_a_worker_sends_and_runs_what_is_due(start_worker):
    make()
    worker = start_worker("-c", "1")
    wait_until(lambda: runs().count() >= 2, what="two runs")
    wait_until(lambda: Worker.objects.get().scheduler_at, what="a word of when it woke")
    assert worker.stop() == 0
    first, second = runs().order_by("pk")[:2]
    assert (first.state, first.result) == ("SUCCESS", "7")
    assert second.pk > first.pk
    row = Worker.objects.get()
    # Two clocks, the database's and the machine's, so that either may be a little ahead.
    assert abs(row.beat_at - row.scheduler_at) < 10 * SECOND


def test_a_solo_worker_does_too(start_worker):
    make()
    worker = start_worker("-P", "solo")
    wait_until(lambda: runs().exists(), what="a run")
    assert worker.stop() == 0


def test_a_worker_without_beat_leaves_the_schedules_to_others(start_worker):
    make()
    worker = start_worker("-c", "1", "--no-beat")
    wait_until(lambda: Worker.objects.get().beat > 8, what="some beats")
    assert worker.stop() == 0
    assert not Job.objects.filter(periodic_task="often").exists()
    assert Worker.objects.get().scheduler_at is None
    assert "one beat" not in worker.output


def test_an_edit_takes_effect_within_seconds(start_worker, database):
    row = make(schedule="every hour")
    start_worker("-c", "1", "-B")
    row.schedule = "* * * * * *"
    row.save()
    wait_until(lambda: runs().exists(), what="a run")
    job = runs().order_by("pk").first()
    assert job.created_at - row.changed_at < 5 * SECOND


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_beat_alone_sends_and_runs_nothing_and_is_seen(start_worker, number):
    make()
    beat = start_worker("-n", "clock@%h", command="runbeat")
    wait_until(lambda: PeriodicTask.objects.get(source="admin").total_run_count >= 2, what="two ticks")
    row = Worker.objects.get()
    assert (row.pool, row.concurrency, row.is_live) == ("beat", 0, True)
    assert row.hostname.startswith("clock@")
    wait_until(lambda: Worker.objects.get().scheduler_at, what="a word of when it woke")
    beat.kill(number)
    assert beat.process.wait(10) == 0
    assert not Worker.objects.get().is_live
    assert not Job.objects.running().exists()
    assert not runs().exists()
    assert "djtasks " in beat.output
    assert "broker:" in beat.output


def test_a_worker_runs_what_beat_alone_has_sent(start_worker):
    make()
    start_worker(command="runbeat")
    start_worker("-c", "1", "--no-beat")
    wait_until(lambda: runs().exists(), what="a run")


def test_beat_alone_goes_on_under_a_new_name_if_it_was_taken_for_dead(start_worker, broker):
    make()
    beat = start_worker(command="runbeat")
    first = Worker.objects.get().pk
    broker.rescue([Loss(first, known=False, beat=broker.beats()[first])], rescuer="r")
    wait_until(lambda: Worker.objects.exclude(pk=first).filter(pid=beat.pid, beat__gt=0).exists(), what="a new name")
    before = PeriodicTask.objects.get(source="admin").total_run_count
    wait_until(lambda: PeriodicTask.objects.get(source="admin").total_run_count > before, what="the next tick")
    assert beat.stop() == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_beat_alone_does_not_start_on_a_broker_that_is_none(database, settings, tmp_path):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_URL": "amqp://nowhere"}
    with pytest.raises(CommandError):
        call_command("runbeat", "--pidfile", str(tmp_path / "pid"))
    assert not (tmp_path / "pid").exists()


def test_the_clock_of_a_tick_is_the_databases(start_worker, database):
    make()
    start_worker("-c", "1")
    wait_until(lambda: runs().count() >= 2, what="two runs")
    row = PeriodicTask.objects.get(source="admin")
    now = statements.now(connections[database])
    assert now - 2 * SECOND < row.next_run_at < now + 2 * SECOND
    assert row.next_run_at.microsecond == 0
