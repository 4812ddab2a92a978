"""Limits with all that jobs may have besides: canvas, times, retries, other queues, early ends, unique keys."""

import time

import pytest

from djtasks import chain, chord, control, group, states
from djtasks.brokers import get_broker
from djtasks.models import Job
from tests import tasks
from tests.canvas.tasks import total
from tests.waiting import wait_until
from tests.worker.test_places import events, finished, most_at_a_time
from tests.worker.test_rates import lines, start

pytestmark = pytest.mark.every_broker


def nothing_is_held():
    return sum(each.holding + each.waiting for each in get_broker().limits()) == 0


def waiting():
    """How many jobs wait for a limit, and are not on their way to or from it."""
    scheduled = sum(size.scheduled for size in get_broker().sizes().values())
    return scheduled if scheduled == sum(each.waiting for each in get_broker().limits()) else None


def move_all(count):
    """Move so many jobs from "one" to "two"; what a worker is just looking at comes later."""
    moved = []
    wait_until(lambda: moved.append(control.move("one", "two")) or sum(moved) == count)


def begins(path):
    return [float(when) for word, _number, when in events(path) if word == "begin"]


def test_a_canvas_of_limited_jobs_keeps_the_limits_and_comes_to_its_end(start_worker, tmp_path):
    path = str(tmp_path / "canvas")
    one = tasks.limited_in_each_way
    start(start_worker, 2, "-c", "2")
    header = group(one.si(path, number) for number in range(12))
    result = chain(one.si(path, 100), header, one.si(path, 101), chord([one.si(path, 1)] * 3, total.s())).apply_async()
    assert result.get(timeout=40) == 3
    found = events(tmp_path / "canvas")
    assert len(found) == 2 * (1 + 12 + 1 + 3)
    assert most_at_a_time(found) <= 2
    starts = begins(tmp_path / "canvas")
    assert max(sum(first <= each < first + 0.5 for each in starts) for first in starts) <= 26
    wait_until(nothing_is_held)


def test_limited_jobs_with_a_time_of_their_own_and_retries_come_after_it_and_keep_the_limits(start_worker, tmp_path):
    path = tmp_path / "times"
    start(start_worker, 2, "-c", "2")
    one = tasks.limited_in_each_way
    sent = time.time()
    for number in range(10):
        one.apply_async((str(path), number, "retry" if number % 2 else "return"), countdown=0.5 + number % 3 / 10)
    wait_until(lambda: finished(10), seconds=40)
    assert set(Job.objects.values_list("state", flat=True)) == {states.SUCCESS}
    assert begins(path)[0] - sent >= 0.5
    assert len(begins(path)) == 15
    assert most_at_a_time(events(path)) <= 2
    wait_until(nothing_is_held)


def test_acknowledged_early_a_job_that_dies_fails_and_frees_its_place_and_its_key(start_worker, tmp_path):
    path = tmp_path / "early"
    start(start_worker, 1, "-c", "2")
    one = tasks.limited_in_each_way
    first = [one.delay(str(path), number, "die") for number in range(4)]
    wait_until(lambda: finished(4), seconds=40)
    assert {each.state for each in first} == {states.FAILURE}
    assert len(begins(path)) == 4
    wait_until(nothing_is_held)
    again = [one.delay(str(path), number) for number in range(4)]
    assert [each.get(timeout=20) for each in again] == [0, 1, 2, 3]


def test_while_one_waits_for_its_limit_a_second_with_its_key_is_that_one(start_worker, tmp_path):
    path = tmp_path / "same"
    control.set_rate("tests.tasks.limited_in_each_way", "2/s")
    start(start_worker, 1, "-c", "2")
    one = tasks.limited_in_each_way
    handles = [one.delay(str(path), number) for number in range(4)]
    wait_until(lambda: len(lines(path)) >= 2)
    same = [one.delay(str(path), 3) for _ in range(5)]
    assert {each.id for each in same} == {handles[3].id}
    assert [each.get(timeout=20) for each in handles] == [0, 1, 2, 3]
    assert len(begins(path)) == 4


def test_what_waits_for_its_slot_can_be_moved_to_another_queue_and_keeps_its_line(start_worker, tmp_path):
    path = tmp_path / "moved"
    start_worker("-c", "1", "-Q", "one", TASK_DEFAULT_RATE_LIMIT="1/h")
    for number in range(6):
        tasks.few_at_a_time.apply_async((str(path), number), queue="one")
    wait_until(lambda: waiting() == 5)
    move_all(5)
    start_worker("-c", "2", "-Q", "two", TASK_DEFAULT_RATE_LIMIT="1/h")
    wait_until(lambda: waiting() == 5)
    control.set_rate("tests.tasks.few_at_a_time", "20/s")
    wait_until(lambda: Job.objects.filter(queue="two", state=states.SUCCESS).count() == 5, seconds=30)


def test_what_waits_for_a_place_can_be_moved_to_another_queue_and_is_called_there(start_worker, tmp_path):
    path = tmp_path / "moved"
    start_worker("-c", "3", "-Q", "one")
    long = [tasks.few_at_a_time.apply_async((str(path), number, 60.0), queue="one") for number in (1, 2)]
    wait_until(lambda: len(begins(path)) == 2)
    for number in range(4):
        tasks.few_at_a_time.apply_async((str(path), number, 0.1), queue="one")
    wait_until(lambda: waiting() == 4)
    move_all(4)
    start_worker("-c", "2", "-Q", "two")
    control.revoke([each.id for each in long], terminate=True)
    wait_until(lambda: Job.objects.filter(queue="two", state=states.SUCCESS).count() == 4, seconds=30)


def test_a_rate_that_changes_again_and_again_loses_nobody(start_worker, tmp_path):
    path = tmp_path / "changing"
    control.set_rate("tests.tasks.few_at_a_time", "1/h")
    start(start_worker, 2, "-c", "2")
    tasks.few_at_a_time.enqueue_many([(str(path), number) for number in range(60)])
    wait_until(lambda: len(begins(path)) == 1)
    for rate in ("1/m", "5/s", "none", "1/h", None, "1/d", "50/s"):
        control.set_rate("tests.tasks.few_at_a_time", rate)
        time.sleep(0.2)
    wait_until(lambda: finished(60), seconds=40)
    assert set(Job.objects.values_list("state", flat=True)) == {states.SUCCESS}
    assert len(begins(path)) == 60
    wait_until(nothing_is_held)


def test_batches_of_unique_jobs_free_their_keys(start_worker, tmp_path):
    path = tmp_path / "batches"
    start(start_worker, 1, "-c", "1")
    handles = [tasks.gather_unique.delay(str(path), number % 3) for number in range(9)]
    assert sorted(handle.get(timeout=20) for handle in handles) == [0] * 3 + [1] * 3 + [2] * 3
    assert len({each.id for each in handles}) == 3
    assert tasks.gather_unique.delay(str(path), 0).get(timeout=20) == 0
    assert sum(map(len, map(str.split, lines(path)))) == 4
