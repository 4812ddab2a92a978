"""How often the jobs of a task begin, over all workers: with real ones, on each broker."""

import os
import time
from itertools import pairwise

import pytest

from djtasks import control, states
from djtasks.brokers import get_broker
from djtasks.models import Job, Worker
from tests import tasks
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker

PACED = int(os.environ.get("DJTASKS_TEST_PACED", "100"))  # jobs; 600 are the whole proof


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def most_within(seconds, times):
    """The largest number of these times within a sliding window."""
    return max(sum(first <= each < first + seconds for each in times) for first in times)


def scheduled():
    """How many jobs wait for their time."""
    return sum(size.scheduled for size in get_broker().sizes().values())


def start(start_worker, count, *arguments, **settings):
    for _ in range(count):
        start_worker(*(arguments or ("-c", "1")), wait=False, **settings)
    wait_until(lambda: Worker.objects.filter(beat__gt=0).count() == count)


def test_a_rate_holds_over_all_workers_and_is_used_up_with_one_deferral_a_job(start_worker, tmp_path):
    path = tmp_path / "paced"
    start(start_worker, 3)
    tasks.paced.enqueue_many([(str(path),)] * PACED)
    wait_until(lambda: Job.objects.finished().count() == PACED, seconds=60)
    times = sorted(map(float, lines(path)))
    assert most_within(1.0, times) <= 101
    assert most_within(0.5, times) <= 51
    # Slots that a busy machine lets pass are gone, and who missed his takes another; else it is used up to the last.
    assert times[-1] - times[0] < 3 * PACED / 100 + 2
    claims = sorted(Job.objects.values_list("token", flat=True))
    assert claims[PACED // 2] <= 2
    assert set(Job.objects.values_list("losses", "retries")) == {(0, 0)}


def test_each_value_of_a_key_has_a_rate_of_its_own(start_worker, tmp_path):
    path = tmp_path / "paced"
    start(start_worker, 2)
    tasks.paced_by_account.enqueue_many([(str(path), f"account {number % 5}") for number in range(50)])
    wait_until(lambda: len(lines(path)) == 50)
    for account in range(5):
        times = [float(line.split()[2]) for line in lines(path) if line.startswith(f"account {account} ")]
        assert len(times) == 10
        assert most_within(0.2, times) <= 5
    every = [float(line.split()[2]) for line in lines(path)]
    assert most_within(0.2, sorted(every)) > 5  # no more, were it one rate for all


def test_what_waits_for_its_slot_holds_up_no_other_job(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.set_rate("tests.tasks.paced", "1/h")
    tasks.paced.enqueue_many([(str(path),)] * 500)
    others = tasks.add.enqueue_many([(1, 1)] * 20)
    start(start_worker, 1)
    wait_until(lambda: Job.objects.filter(pk__in=[each.id for each in others], state=states.SUCCESS).count() == 20)
    assert len(lines(path)) <= 1


def test_a_deferred_job_can_be_cancelled_and_shows_for_what_it_waits(start_worker, tmp_path):
    control.set_rate("tests.tasks.paced", "1/h")
    first, second, third = tasks.paced.enqueue_many([(str(tmp_path / "paced"),)] * 3)
    start(start_worker, 1)
    broker = get_broker()
    waits = wait_until(lambda: len(found := broker.waits([first.id, second.id, third.id])) == 2 and found)
    (kept, cancelled) = waits
    assert {each.limit for each in waits.values()} == {"rate:tests.tasks.paced"}
    if broker.transactional:
        row = Job.objects.get(pk=kept)
        assert row.state == states.SCHEDULED
        assert abs((row.run_at - waits[kept].until).total_seconds()) < 1
    control.revoke(cancelled)
    wait_until(lambda: Job.objects.filter(pk=cancelled, state=states.REVOKED).exists())
    assert list(broker.waits([kept, cancelled])) == [kept]


def test_a_rate_that_is_changed_while_workers_run_counts_within_seconds(start_worker, tmp_path):
    path = tmp_path / "paced"
    control.set_rate("tests.tasks.paced", "1/h")
    start(start_worker, 2)
    tasks.paced.enqueue_many([(str(path),)] * 30)
    wait_until(lambda: scheduled() == 29)
    assert len(lines(path)) == 1
    control.set_rate("tests.tasks.paced", "50/s")
    wait_until(lambda: len(lines(path)) == 30)
    control.set_rate("tests.tasks.paced", "1/h")
    time.sleep(2.1)  # as long as a worker may go without looking
    tasks.paced.enqueue_many([(str(path),)] * 30)
    wait_until(lambda: scheduled() == 30)
    control.set_rate("tests.tasks.paced", "none")
    wait_until(lambda: len(lines(path)) == 60)


def test_the_default_rate_gives_each_task_one_of_its_own(start_worker, tmp_path):
    path = tmp_path / "journal"
    start(start_worker, 1, TASK_DEFAULT_RATE_LIMIT="10/s")
    for number in range(8):
        tasks.journal.delay(str(path), number)
        tasks.noop.delay()
    wait_until(lambda: Job.objects.finished().count() == 16)
    begun = sorted(Job.objects.values_list("started_at", flat=True))
    assert (begun[-1] - begun[0]).total_seconds() > 0.5
    gaps = [(after - before).total_seconds() for before, after in pairwise(begun)]
    assert sum(gap < 0.08 for gap in gaps) >= 3  # of one rate for both no two would begin so soon after each other


def test_a_worker_that_stops_leaves_the_line_to_others(start_worker, tmp_path):
    path = tmp_path / "paced"
    control.set_rate("tests.tasks.paced", "20/s")
    first = start_worker("-c", "1")
    tasks.paced.enqueue_many([(str(path),)] * 40)
    wait_until(lambda: len(lines(path)) >= 10)
    first.stop()
    start_worker("-c", "1")
    wait_until(lambda: len(lines(path)) == 40)
    assert most_within(1.0, sorted(map(float, lines(path)))) <= 21
