"""What an operator asks of workers while they run: to stop, to renew, grow and shrink, to serve other queues."""

import os

import pytest

from djtasks import control, states
from djtasks.message import new_id
from djtasks.models import Job, Worker
from djtasks.worker import memory
from djtasks.worker.options import WorkerOptions
from djtasks.worker.orders import Orders
from djtasks.worker.slots import LONGEST_QUEUES, Slots
from tests import tasks
from tests.crashes.test_kills import lines
from tests.waiting import wait_until

on_one_database = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
on_both_brokers = pytest.mark.parametrize("database", ["postgresql", "redis"], indirect=True)


def row(worker):
    return Worker.objects.get(pid=worker.pid)


def children(worker):
    """The pids of those that run jobs: the first one born is the keeper."""
    return sorted(worker.children())[1:]


@on_one_database
def test_a_worker_stops_once_what_it_runs_has_ended(start_worker, tmp_path):
    worker = start_worker("-c", "1")
    path = tmp_path / "journal"
    result = tasks.journal.delay(str(path), "x", 1.5)
    wait_until(lambda: lines(path))
    assert control.shutdown() == 1
    assert worker.process.wait(20) == 0
    assert result.state == states.SUCCESS
    assert row(worker).stopped_at


@on_one_database
def test_children_are_replaced_once_what_they_run_has_ended(start_worker, tmp_path):
    worker = start_worker("-c", "2")
    wait_until(lambda: len(children(worker)) == 2)
    before = set(children(worker))
    path = tmp_path / "journal"
    result = tasks.journal.delay(str(path), "x", 1.5)
    wait_until(lambda: lines(path))
    assert control.pool_restart(row(worker).hostname) == 1
    assert result.get(timeout=20) == "x"
    wait_until(lambda: len(children(worker)) == 2 and not before & set(children(worker)))
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    assert Job.objects.get(pk=result.id).token == 1


@on_one_database
def test_a_worker_grows_and_shrinks_and_lets_what_runs_come_to_its_end(start_worker, tmp_path):
    worker = start_worker("-c", "1")
    path = tmp_path / "journal"
    running = tasks.journal.delay(str(path), "long", 4)
    wait_until(lambda: lines(path))
    control.pool_grow(2, row(worker).pk)
    wait_until(lambda: len(children(worker)) == 3 and row(worker).concurrency == 3)
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    control.pool_shrink(100)
    wait_until(lambda: len(children(worker)) == 1 and row(worker).concurrency == 1)
    assert running.get(timeout=20) == "long"
    assert "Of the -97 children that were asked for there will be 1" in worker.output


@on_one_database
def test_with_autoscale_the_most_that_there_may_be_changes(start_worker, tmp_path):
    worker = start_worker("--autoscale", "1,1")
    control.pool_grow(1)
    wait_until(lambda: row(worker).concurrency == 2)
    assert len(children(worker)) == 1
    path = tmp_path / "journal"
    results = [tasks.journal.delay(str(path), number, 4) for number in range(2)]
    wait_until(lambda: len(lines(path)) == 2, 3.9)
    assert [each.get(timeout=20) for each in results] == [0, 1]


@on_both_brokers
def test_a_worker_serves_one_queue_more_and_one_less(start_worker):
    worker = start_worker("-c", "1", "-Q", "a,b")
    assert control.add_consumer("c") == 1
    assert tasks.add.apply_async((1, 2), queue="c").get(timeout=20) == 3
    wait_until(lambda: row(worker).named_queues() == ["a", "b", "c"])  # its row says so at the next beat
    control.cancel_consumer("a")
    wait_until(lambda: row(worker).named_queues() == ["b", "c"])
    tasks.add.apply_async((1, 2), queue="b").get(timeout=20)
    left = tasks.add.apply_async((1, 2), queue="a")
    for _ in range(3):
        assert tasks.add.apply_async((1, 2), queue="c").get(timeout=20) == 3
    control.cancel_consumer("b")
    control.cancel_consumer("c")
    wait_until(lambda: row(worker).serves_none)
    assert left.state == states.PENDING
    control.add_consumer("a")
    assert left.get(timeout=20) == 3


@on_one_database
def test_of_all_queues_one_is_left_to_others_also_by_children_that_are_born_later(start_worker):
    worker = start_worker("-c", "1")
    control.cancel_consumer("mail")
    wait_until(lambda: row(worker).excluded_queues() == ["mail"])
    control.pool_restart()
    left = tasks.add.apply_async((1, 2), queue="mail")
    assert tasks.add.apply_async((1, 2), queue="other").get(timeout=20) == 3
    assert left.state == states.PENDING
    control.add_consumer("mail")
    assert left.get(timeout=20) == 3


@on_one_database
def test_a_worker_of_one_process_serves_other_queues_and_stops_but_has_no_children_to_renew(start_worker):
    worker = start_worker("-P", "solo", "-Q", "a")
    control.add_consumer("b")
    assert tasks.add.apply_async((1, 2), queue="b").get(timeout=20) == 3
    assert control.pool_restart() == control.pool_grow() == control.pool_shrink() == 0
    wait_until(lambda: row(worker).named_queues() == ["a", "b"])
    control.shutdown()
    assert worker.process.wait(20) == 0


@on_one_database
def test_only_those_are_told_that_are_meant(database):
    common = {"pid": 1, "queues": "null", "pool": "prefork", "concurrency": 1}
    for pk, name in (("1", "a@x"), ("2", "b@x"), ("3", "b@x")):
        Worker.objects.create(pk=pk, hostname=name, **common)
    Worker.objects.create(pk="4", hostname="b@x", lost_at=Worker.objects.get(pk="1").beat_at, **common)
    assert control.pool_grow(2, destination=["b@x"]) == 2
    assert control.shutdown(destination="1") == 1
    assert control.shutdown(destination="nobody") == 0
    assert list(Worker.objects.exclude(command=None).values_list("pk", flat=True).order_by("pk")) == ["1", "2", "3"]


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2", 1001])
def test_a_number_of_children_that_makes_no_sense_is_refused_at_the_caller(wrong):
    with pytest.raises(ValueError, match="n must be a whole number from 1 to 1000"):
        control.pool_grow(wrong)


def test_an_order_that_is_told_twice_counts_once(caplog):
    done = []
    orders = Orders({"pool_grow": done.append})
    word = {"order": "pool_grow", "id": new_id(), "count": 1}
    orders.take(word)
    orders.take(word)
    orders.take({**word, "id": new_id()})
    orders.take({"order": "dance", "id": new_id()})
    assert len(done) == 2
    assert "which this worker cannot do" in caplog.text


def test_children_hear_of_the_queues_once_and_never_of_half_of_them():
    slots = Slots(1)
    assert slots.changed_queues(0) is None
    slots.tell_queues(("a", "日本"), ())
    assert slots.changed_queues(0) == (1, ["a", "日本"], [])
    assert slots.changed_queues(1) is None
    slots.tell_queues(None, ("b",))
    assert slots.changed_queues(1) == (2, None, ["b"])
    with pytest.raises(ValueError, match="are the most"):
        slots.tell_queues(["x" * LONGEST_QUEUES], ())
    assert slots.changed_queues(1) == (2, None, ["b"])


def test_what_is_served_changes_by_one_queue():
    named = WorkerOptions(queues=("a", "b", "c"), excluded=("b",))
    assert named.with_queue("d").queues == ("a", "c", "d")
    assert named.with_queue("b").queues == ("a", "c", "b")
    assert named.without_queue("a").queues == ("c",)
    everything = WorkerOptions(excluded=("b",))
    assert everything.with_queue("b") == WorkerOptions()
    assert everything.with_queue("a") == everything
    assert everything.without_queue("a").excluded == ("b", "a")


def test_the_memory_of_a_process_is_told_with_that_of_its_children():
    assert 1000 < memory.taken_by(os.getpid()) < 10_000_000
    assert memory.taken_by(2**22 + 1) is None
