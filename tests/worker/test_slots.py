"""What a child has begun, as its parent sees it."""

import os

from djtasks.worker.slots import Slots


def test_a_mark_tells_id_and_token_until_it_is_cleared():
    slots = Slots(2)
    assert slots.read(1) is None
    slots.mark(1, "x" * 64, 3)
    started = slots.read(1)
    assert (started.id, started.token) == ("x" * 64, 3)
    assert slots.read(0) is None
    slots.clear(1, failed=True)
    assert slots.read(1) is None


def test_runs_are_counted_over_all_slots():
    slots = Slots(2)
    slots.clear(0)
    slots.clear(1, failed=True)
    assert slots.counts() == (2, 1)


def test_a_mark_made_in_a_child_process_is_seen_by_its_parent_after_its_death():
    slots = Slots(1)
    pid = os.fork()
    if pid == 0:
        slots.mark(0, "job", 1)
        slots.beat()
        os._exit(0)
    os.waitpid(pid, 0)
    assert slots.read(0).id == "job"
    assert slots.beat_age() < 60


def test_without_a_beat_the_age_is_endless():
    assert Slots(1).beat_age() == float("inf")
