"""Limits while processes die, stand still and wake: with real workers and real kills."""

import os
import signal
import time

import pytest

from tests import tasks
from tests.waiting import wait_until
from tests.worker.test_places import events, finished, most_at_a_time
from tests.worker.test_rates import lines

pytestmark = pytest.mark.every_broker

LOST_AFTER = 2.0  # seconds, as `start_worker` sets it
MARGIN = 8.0  # some 0.1 s on a quiet machine; 5 s were seen on one whose disk was busy


def begun(path, since=0.0):
    """When jobs have begun, since a time."""
    return [float(when) for word, _number, when in events(path) if word == "begin" and float(when) > since]


def signal_all(worker, number):
    for pid in (worker.pid, *worker.children()):
        os.kill(pid, number)


def test_places_of_a_worker_that_was_killed_are_taken_within_the_time_that_is_promised(start_worker, tmp_path):
    path = tmp_path / "few"
    first = start_worker("-c", "2")
    tasks.few_at_a_time.enqueue_many([(str(path), number, 1.0) for number in range(2)])
    wait_until(lambda: len(begun(path)) == 2)
    start_worker("-c", "2")
    tasks.few_at_a_time.enqueue_many([(str(path), number, 1.0) for number in range(2, 8)])
    wait_until(lambda: len(begun(path)) >= 4)
    killed = time.time()
    first.kill_all()
    wait_until(lambda: finished(8))
    gap = max(later - earlier for earlier, later in zip(begun(path), begun(path)[1:], strict=False))
    print(f"{begun(path, killed)[0] - killed:.2f} s from the kill to the next start, at most {gap:.2f} s between two")
    assert gap < 1.0 + LOST_AFTER + MARGIN


@pytest.mark.every_store
def test_a_zombie_that_wakes_begins_nothing_for_which_others_have_the_place(start_worker, tmp_path):
    path = tmp_path / "few"
    zombie = start_worker("-c", "2")
    tasks.few_at_a_time.enqueue_many([(str(path), number, 0.5) for number in range(12)])
    wait_until(lambda: len(lines(path)) >= 2)
    signal_all(zombie, signal.SIGSTOP)
    stopped = time.time()
    start_worker("-c", "2")
    wait_until(lambda: len(begun(path, stopped)) > 1)
    print(f"others began {begun(path, stopped)[0] - stopped:.2f} s after")
    signal_all(zombie, signal.SIGCONT)
    wait_until(lambda: finished(12), seconds=40)
    cut_off = {each[1] for each in events(path) if each[0] == "begin" and float(each[2]) < stopped}
    # What it was running ends with it; nobody can take that back.
    assert most_at_a_time([each for each in events(path) if each[1] not in cut_off]) <= 2
    assert len(begun(path)) <= 12 + 2
