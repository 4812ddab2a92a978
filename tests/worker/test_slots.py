"""What a child has begun, as its parent sees it."""

import os

from djtasks.worker.slots import Slots


def test_a_mark_tells_id_and_token_until_it_is_cleared():
    slots = Slots(2)
    assert slots.running(1) == {}
    slots.mark(1, "x" * 64, 3)
    started = slots.running(1)[0]
    assert (started.id, started.token) == ("x" * 64, 3)
    assert slots.running(0) == {}
    slots.clear(1, failed=True)
    assert slots.running(1) == {}


def test_the_jobs_of_one_call_stand_in_one_place():
    slots = Slots(1, 2, width=3)
    for member, job_id in enumerate(("a", "b", "c")):
        slots.mark(0, job_id, 1, place=1, member=member)
    slots.mark(0, "x", 1, place=0)
    assert {each.id: each.place for each in slots.running(0).values()} == {"a": 1, "b": 1, "c": 1, "x": 0}
    assert slots.busy(0) == 2
    slots.clear(0, place=1, ended=3, failed=1)
    assert [each.id for each in slots.running(0).values()] == ["x"]
    assert slots.counts(0) == (3, 1)
    slots.give(0, "another")
    assert slots.running(0) == {}


def test_where_very_many_calls_run_at_a_time_each_takes_fewer_jobs():
    assert [Slots(1, runs, width=1000).width for runs in (1, 100, 500, 10_000)] == [1000, 1000, 200, 10]


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
    assert slots.running(0)[0].id == "job"
    assert slots.beat_age() < 60


def test_without_a_beat_the_age_is_endless():
    assert Slots(1).beat_age() == float("inf")
