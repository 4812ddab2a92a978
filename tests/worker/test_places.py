"""How many jobs of a task run at a time, over all workers: with real ones, on each broker."""

import os
import signal
import time
from statistics import median

import pytest

from djtasks import control, states
from djtasks.brokers import get_broker
from djtasks.models import Job
from tests import tasks
from tests.waiting import wait_until
from tests.worker.test_rates import lines, start

pytestmark = pytest.mark.every_broker


def events(path):
    """What begins and ends: word, of what, when; in order of time."""
    return sorted((line.split() for line in lines(path)), key=lambda words: float(words[2]))


def most_at_a_time(found):
    running = most = 0
    for word, *_rest in found:
        running += 1 if word == "begin" else -1
        most = max(most, running)
    return most


def finished(count):
    return Job.objects.finished().count() == count


def test_no_more_run_at_a_time_than_may_and_as_many_as_may(start_worker, tmp_path):
    path = tmp_path / "few"
    start(start_worker, 2, "-c", "2")
    began = time.time()
    # So long that a place that the first child leaves free is taken by another meanwhile.
    tasks.few_at_a_time.enqueue_many([(str(path), number, 0.6) for number in range(8)])
    wait_until(lambda: finished(8))
    found = events(path)
    assert most_at_a_time(found) == 2
    assert float(found[-1][2]) - began < 15  # 2.4 s, were there no pause between two, and no other load


@pytest.mark.every_store
def test_the_next_one_begins_soon_after_a_place_is_free_without_being_asked_before(start_worker, tmp_path):
    path = tmp_path / "few"
    start(start_worker, 2, "-c", "2")
    tasks.few_at_a_time.enqueue_many([(str(path), number, 0.5) for number in range(6)])
    wait_until(lambda: finished(6))
    times = {(word, number): float(when) for word, number, when in events(path)}
    ends = sorted(when for (word, _number), when in times.items() if word == "end")
    begins = sorted(when for (word, _number), when in times.items() if word == "begin")[2:]
    waited = [begin - end for begin, end in zip(begins, ends, strict=False)]
    print(f"from a free place to the start of the next job: {', '.join(f'{1000 * each:.0f}' for each in waited)} ms")
    assert median(waited) < 1  # some 10 ms, where nothing else runs on the machine; with MariaDB up to 100
    assert max(Job.objects.values_list("token", flat=True)) <= 3


def test_each_value_of_a_key_has_places_of_its_own(start_worker, tmp_path):
    path = tmp_path / "accounts"
    start(start_worker, 2, "-c", "2")
    tasks.one_by_account.enqueue_many([(str(path), f"account-{number % 3}", 0.3) for number in range(9)])
    wait_until(lambda: finished(9))
    found = events(path)
    for account in range(3):
        assert most_at_a_time([each for each in found if each[1] == f"account-{account}"]) == 1
    assert most_at_a_time(found) > 1


def test_what_waits_for_a_place_holds_up_no_other_job(start_worker, tmp_path):
    path = tmp_path / "few"
    tasks.few_at_a_time.enqueue_many([(str(path), number, 5.0) for number in range(300)])
    others = tasks.add.enqueue_many([(1, 1)] * 10)
    start(start_worker, 1, "-c", "3")
    ids = [each.id for each in others]
    wait_until(lambda: Job.objects.filter(pk__in=ids, state=states.SUCCESS).count() == 10)


@pytest.mark.parametrize("whole", [False, True], ids=["a child", "a worker"])
def test_a_crash_frees_its_place(start_worker, tmp_path, whole):
    path = tmp_path / "few"
    first = start_worker("-c", "2")
    tasks.few_at_a_time.enqueue_many([(str(path), number, 60.0) for number in (1, 2)])
    wait_until(lambda: len(lines(path)) == 2)
    tasks.few_at_a_time.enqueue_many([(str(path), number) for number in range(3, 9)])
    start_worker("-c", "1")
    wait_until(lambda: len(get_broker().waits([each.pk for each in Job.objects.all()])) == 6 or not_in_rows())
    for job in Job.objects.running():
        control.revoke(job.pk)
    if whole:
        first.kill_all()
    else:
        for pid in first.children()[1:]:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Job.objects.filter(state=states.SUCCESS).count() == 6)


def not_in_rows():
    """Where what waits has no rows."""
    return not get_broker().transactional and get_broker().sizes()["default"].scheduled == 6


def test_failures_retries_and_cancelled_jobs_free_their_places(start_worker, tmp_path):
    path = tmp_path / "ways"
    start(start_worker, 2)
    jobs = tasks.end_in_many_ways.enqueue_many(
        [(str(path), way) for way in ("fail", "retry", "ignore", "return", "reject", "fail", "return")]
    )
    control.revoke(jobs[3].id)
    wait_until(lambda: finished(7))
    wait_until(lambda: sum(each.holding + each.waiting for each in get_broker().limits()) == 0)


def test_with_a_rate_and_places_both_hold(start_worker, tmp_path):
    path = tmp_path / "both"
    control.set_rate("tests.tasks.few_at_a_time", "20/s")
    start(start_worker, 2, "-c", "2")
    tasks.few_at_a_time.enqueue_many([(str(path), number, 0.05) for number in range(30)])
    wait_until(lambda: finished(30))
    found = events(path)
    begins = [float(when) for word, _number, when in found if word == "begin"]
    assert most_at_a_time(found) <= 2
    assert max(sum(first <= each < first + 1 for each in begins) for first in begins) <= 21
    assert begins[-1] - begins[0] < 8  # 1.5 s by the rate alone
