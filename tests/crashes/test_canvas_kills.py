"""Workflows whose workers are killed: no step is lost, none is doubled, nothing waits for ever."""

import os
import random
import signal
from itertools import count

import pytest

from djtasks import chain, chord, states
from djtasks.brokers import get_broker
from djtasks.models import Job, JobGroup, Outbox
from tests import tasks
from tests.canvas.tasks import add, echo, fail, identity, replaced_by_chain, retried_now_and_then, total
from tests.waiting import wait_until

a_database_and_redis = pytest.mark.parametrize("database", ["postgresql", "redis"], indirect=True)

CHORDS, MEMBERS = 200, 20


def is_over():
    """Nothing is open: no group, no message, no job that has not ended or waits in a queue."""
    unended = Job.objects.exclude(state__in=states.FINISHED)
    if any(size.ready or size.scheduled or size.running for size in get_broker().sizes().values()):
        return False
    return not (JobGroup.objects.filter(remaining__gt=0).exists() or Outbox.objects.exists() or unended.exists())


def kill_at_random(worker, until, most=150):
    """Kill a child of the worker, the keeper among them, at each `most` jobs that end. Returns how many."""
    for kills in count():
        if until():
            return kills
        victims = worker.children()
        if victims:
            try:
                os.kill(random.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue
        seen = Job.objects.finished().count()
        wait_until(lambda seen=seen: until() or Job.objects.finished().count() >= seen + most, seconds=30)
    raise AssertionError


@pytest.mark.every_broker
@pytest.mark.every_store
def test_each_of_200_chords_runs_its_body_once_with_all_results_whatever_is_killed(start_worker):
    results = [
        chord([retried_now_and_then.s(number) for number in range(MEMBERS)], chain(identity.s(), add.s([number])))()
        for number in range(CHORDS)
    ]
    worker = start_worker("-c", "2")
    kills = kill_at_random(worker, lambda: Job.objects.filter(task=add.name).finished().count() == CHORDS)
    header = list(range(MEMBERS))
    assert [each.get(timeout=30) for each in results] == [[*header, number] for number in range(CHORDS)]
    wait_until(is_over)
    assert kills >= 3
    # Each body, and each step after it, was sent once.
    assert (Job.objects.filter(task=identity.name).count(), Job.objects.filter(task=add.name).count()) == (200, 200)


@a_database_and_redis
def test_a_member_that_kills_its_process_too_often_fails_the_body_and_calls_the_error_callbacks(start_worker, tmp_path):
    path = tmp_path / "notes"
    sig = chord([tasks.kill_own_process.s(str(path)), identity.s(1)], total.s()).on_error(echo.si(str(path), "failed"))
    start_worker("-c", "1", TASK_MAX_LOSSES=1)
    result = (sig | identity.s()).apply_async()
    wait_until(result.ready, seconds=30)
    wait_until(lambda: "failed" in path.read_text())
    assert "WorkerLostError" in str(result.parent.result)
    wait_until(is_over)


@a_database_and_redis
def test_a_chain_goes_on_after_each_of_its_processes_was_killed(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    steps = [tasks.journal.si(str(path), number, 0.2) for number in range(3)]
    result = chain(*steps, replaced_by_chain.si(7), add.s(1)).apply_async()
    for number in range(3):
        wait_until(lambda number=number: f"begin {number}" in (path.read_text() if path.exists() else ""))
        line = next(each for each in path.read_text().splitlines() if each.startswith(f"begin {number}"))
        os.kill(int(line.split()[-1]), signal.SIGKILL)
    assert result.get(timeout=30) == 8
    wait_until(is_over)
    assert worker.process.poll() is None


@a_database_and_redis
def test_a_failing_step_ends_what_follows_though_its_process_is_killed(start_worker, tmp_path):
    path = tmp_path / "notes"
    results = [
        (fail.s(number) | identity.s() | add.s(1)).on_error(echo.si(str(path), number)).apply_async()
        for number in range(50)
    ]
    worker = start_worker("-c", "2")
    assert kill_at_random(worker, lambda: all(each.ready() for each in results), 15) >= 1
    wait_until(is_over)
    assert {each.state for each in results} == {states.FAILURE}
    assert Job.objects.filter(task=echo.name).count() == 50
