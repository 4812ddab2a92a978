"""Limits of queues, on what has none of its own, over all tasks and all workers: with real ones, on each broker."""

from datetime import timedelta

import pytest

from djtasks import control
from djtasks.brokers import get_broker
from djtasks.models import Job
from djtasks.why import why
from tests import tasks
from tests.waiting import wait_until
from tests.worker.test_places import finished, most_at_a_time
from tests.worker.test_rates import lines, most_within, scheduled, start

pytestmark = pytest.mark.every_broker


def send(task, queue, *calls):
    return [task.apply_async(args, queue=queue) for args in calls]


def running(path):
    """How many have begun, and not ended."""
    words = [line.split()[0] for line in lines(path)]
    return words.count("begin") - words.count("end")


def test_no_more_jobs_of_a_queue_run_at_a_time_than_may_whatever_their_tasks(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.set_queue("narrow", max_concurrency=2)
    start(start_worker, 2, "-c", "2")
    # So long that a place that the first child leaves free is taken by another meanwhile.
    send(tasks.journal, "narrow", *[(str(path), number, 0.6) for number in range(4)])
    send(tasks.journal_besides, "narrow", *[(str(path), number, 0.6) for number in range(4)])
    wait_until(lambda: finished(8))
    assert most_at_a_time([line.split() for line in lines(path)]) == 2


def test_what_waits_for_a_place_in_a_queue_holds_up_no_other_queue(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.set_queue("narrow", max_concurrency=1)
    start(start_worker, 1, "-c", "2")
    send(tasks.journal, "narrow", *[(str(path), number, 30.0) for number in range(20)])
    wait_until(lambda: running(path) == 1)
    assert [each.get(timeout=10) for each in send(tasks.add, "default", *[(1, 1)] * 10)] == [2] * 10
    assert running(path) == 1


def test_jobs_of_a_queue_begin_as_often_as_its_rate_says_whatever_their_tasks(start_worker):
    control.set_queue("slow", rate_limit="20/s")
    start(start_worker, 2)
    send(tasks.add, "slow", *[(1, 1)] * 15)
    send(tasks.noop, "slow", *[()] * 15)
    wait_until(lambda: finished(30))
    times = sorted(each.timestamp() for each in Job.objects.values_list("started_at", flat=True))
    assert most_within(1.0, times) <= 22
    assert times[-1] - times[0] > 1.3


def test_a_task_with_a_limit_of_its_own_keeps_that_and_takes_no_place_of_the_queue(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.set_queue("narrow", max_concurrency=1)
    start(start_worker, 1, "-c", "4")
    send(tasks.few_at_a_time, "narrow", *[(str(path), number, 30.0) for number in range(3)])
    send(tasks.journal, "narrow", *[(str(path), number, 30.0) for number in range(3)])
    wait_until(lambda: running(path) == 3 and scheduled() == 3)


def test_a_limit_that_is_changed_counts_within_seconds_and_calls_what_waits(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.set_queue("narrow", max_concurrency=1)
    start(start_worker, 1, "-c", "4")
    send(tasks.journal, "narrow", *[(str(path), number, 60.0) for number in range(4)])
    wait_until(lambda: running(path) == 1 and scheduled() == 3)
    control.set_queue("narrow", max_concurrency=3)
    wait_until(lambda: running(path) == 3 and scheduled() == 1)
    control.set_queue("narrow", max_concurrency=None)
    wait_until(lambda: running(path) == 4)


def test_a_rate_that_is_taken_away_lets_go_what_waits_for_hours(start_worker):
    control.set_queue("slow", rate_limit="1/h")
    start(start_worker, 1)
    send(tasks.noop, "slow", *[()] * 5)
    wait_until(lambda: finished(1) and scheduled() == 4)
    control.set_queue("slow", rate_limit=None)
    wait_until(lambda: finished(5))


def test_what_is_moved_to_another_queue_waits_for_that_one_alone(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.set_queue("narrow", max_concurrency=1)
    start(start_worker, 1, "-c", "4")
    send(tasks.journal, "narrow", *[(str(path), number, 60.0) for number in range(3)])
    wait_until(lambda: running(path) == 1 and scheduled() == 2)
    assert control.move("narrow", "wide") == 2
    wait_until(lambda: running(path) == 3)


def test_a_chain_heeds_the_limits_of_its_queue(start_worker):
    control.set_queue("slow", rate_limit="10/s")
    start(start_worker, 1)
    steps = [tasks.add.si(1, number).set(queue="slow") for number in range(8)]
    last = tasks.add.si(0, 0).set(queue="slow")
    for step in steps:
        last = last | step
    assert last.delay().get(timeout=30) == 8
    times = Job.objects.order_by("started_at").values_list("started_at", flat=True)
    assert times[8] - times[0] >= timedelta(seconds=0.75)


def test_why_names_the_queue_for_whose_limit_a_job_waits(start_worker, tmp_path):
    control.set_queue("narrow", max_concurrency=1)
    control.set_queue("slow", rate_limit="1/h")
    start(start_worker, 1, "-c", "2")
    ids = [each.id for each in send(tasks.journal, "narrow", *[(str(tmp_path / "journal"), 1, 60.0)] * 2)]
    ids += [each.id for each in send(tasks.noop, "slow", (), ())]
    waits = wait_until(lambda: len(found := get_broker().waits(ids)) == 2 and found)
    texts = sorted(" ".join(reason.text for reason in why(each)) for each in waits)
    assert texts[0].startswith("It waits for a place: of the queue narrow as many run as may at a time.")
    assert texts[1].startswith("It waits for its slot by the rate of the queue slow, at ")
