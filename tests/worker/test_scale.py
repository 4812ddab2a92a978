"""The number of children where it follows the work."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from djtasks import control
from djtasks.exceptions import ImproperlyConfigured
from djtasks.models import Job, Worker
from djtasks.worker import scale as scale_module
from djtasks.worker.scale import IDLE, Scale, bounds
from djtasks.worker.slots import Slots
from tests import tasks
from tests.processes import worker_environment
from tests.waiting import wait_until


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(scale_module, "time", clock)
    return clock


@pytest.fixture
def slots():
    slots = Slots(8)
    for index in range(8):
        slots.mark(index, f"job{index}", 1)
    return slots


def after(clock, seconds, scale, children):
    clock.now += seconds
    return scale.missing(children)


def test_it_grows_to_twice_as_many_up_to_the_most_while_jobs_wait_and_all_work(clock, slots):
    scale = Scale(slots, 1, 6)
    assert after(clock, 1, scale, [0]) == 0
    scale.is_waiting = True
    assert after(clock, 1, scale, [0]) == 1
    assert after(clock, 0.1, scale, [0, 1]) == 0  # it has just looked
    assert after(clock, 1, scale, [0, 1]) == 2
    assert after(clock, 1, scale, [0, 1, 2, 3]) == 2
    assert after(clock, 1, scale, [0, 1, 2, 3, 4, 5]) == 0


def test_while_one_has_nothing_to_do_it_does_not_grow(clock, slots):
    scale = Scale(slots, 1, 6)
    scale.is_waiting = True
    scale.missing([0, 1])
    slots.clear(1)
    assert after(clock, 1, scale, [0, 1]) == 2  # it has ended a job since the last look
    assert after(clock, 1, scale, [0, 1]) == 0


def test_it_shrinks_one_by_one_to_the_least_once_one_has_idled(clock, slots):
    scale = Scale(slots, 2, 6)
    scale.missing([0, 1, 2])
    for index in (1, 2):
        slots.clear(index)
    assert after(clock, 1, scale, [0, 1, 2]) == 0
    assert after(clock, IDLE - 1, scale, [0, 1, 2]) == 0
    assert after(clock, 2, scale, [0, 1, 2]) == -1
    assert scale.idlest([0, 1, 2]) in (1, 2)
    assert after(clock, 2, scale, [0, 1]) == 0


def test_fewer_than_the_least_are_made_up_for(clock, slots):
    assert Scale(slots, 3, 6).missing([0]) == 2


def test_the_bounds_stand_in_celerys_order():
    assert bounds("10,3") == (10, 3)
    assert bounds("10") == (10, 1)
    for wrong in ("3,10", "0,0", "x", "10,0", "1,2,3", ""):
        with pytest.raises(ImproperlyConfigured, match="MAX,MIN"):
            bounds(wrong)


IMPATIENT = """
import django
django.setup()
from django.core.management import call_command
from djtasks.worker import scale
scale.IDLE = 1.0
call_command("runworker", "--autoscale", "4,1", "--no-beat")
"""


@pytest.mark.parametrize("database", ["postgresql", "redis"], indirect=True)
def test_a_worker_grows_with_its_work_and_shrinks_after_it(database, settings):
    control.pause("paused")
    tasks.sleep.apply_async((0,), queue="paused")
    chosen = {**settings.DJTASKS, "WORKER_HEARTBEAT": 0.2, "WORKER_LOST_AFTER": 2.0}
    worker = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT], env=worker_environment(chosen), stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: Worker.objects.filter(pid=worker.pid, beat__gt=0).exists())
        time.sleep(1.2)  # the paused queue is no reason to grow
        assert len(processes(worker.pid)) == 2
        tasks.sleep.enqueue_many([(0.4,)] * 30)
        wait_until(lambda: len(processes(worker.pid)) == 5)
        wait_until(lambda: Job.objects.finished().count() == 30)
        wait_until(lambda: len(processes(worker.pid)) == 2)
        assert set(Job.objects.finished().values_list("losses", "token")) == {(0, 1)}
        assert tasks.process.delay().get(timeout=20) in processes(worker.pid)
        worker.terminate()
        assert worker.wait(20) == 0
    finally:
        worker.kill()
        worker.wait(10)
        control.resume("paused")


def processes(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("arguments", [["--autoscale", "1,5"], ["--autoscale", "5,1", "-P", "threads"]])
def test_what_makes_no_sense_is_refused_with_a_sentence(start_worker, arguments):
    worker = start_worker(*arguments, wait=False)
    assert worker.process.wait(20) == 1
    assert "CommandError: --autoscale" in worker.output


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_banner_tells_the_bounds(start_worker):
    worker = start_worker("--autoscale", "3,2")
    assert "concurrency: 2 to 3 (prefork)" in worker.output
    assert len(worker.children()) == 3
