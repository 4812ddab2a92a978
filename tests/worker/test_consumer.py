"""What is claimed ahead, and what goes back."""

import time

import pytest

from djtasks.brokers.base import Loss
from djtasks.message import Message, new_id
from djtasks.worker.consumer import MOST_AHEAD, Consumer
from djtasks.worker.options import WorkerOptions

pytestmark = pytest.mark.every_broker


def consumer(broker, is_fresh=lambda: True, **options):
    return Consumer(broker, "w.1", WorkerOptions(**{"queues": ("default",), **options}), is_fresh=is_fresh)


def send(broker, count, **fields):
    messages = [Message(id=new_id(), task="some.task", **fields) for _ in range(count)]
    broker.enqueue(messages)
    return [each.id for each in messages]


def test_at_first_one_job_is_claimed(broker):
    send(broker, 10)
    assert consumer(broker).fill() == 1


def test_the_shorter_the_jobs_the_more_are_claimed_ahead(broker):
    send(broker, MOST_AHEAD + 10)
    ours = consumer(broker)
    ours.done(0.0001)
    assert ours.fill() == MOST_AHEAD


def test_long_jobs_are_claimed_one_by_one(broker):
    send(broker, 10)
    ours = consumer(broker)
    ours.done(1.0)
    assert ours.fill() == 1
    assert ours.next() is not None
    assert ours.fill() == 0  # one runs; another would wait behind it


def test_what_waits_behind_a_long_job_is_given_to_others(broker):
    ids = send(broker, 3)
    ours = consumer(broker, ahead=3)
    ours.fill()
    assert ours.next().id == ids[0]
    deadline = time.monotonic() + 5
    while not ours.is_stuck() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ours.is_stuck()
    ours.release()
    assert [each.id for each in broker.claim("default", limit=9, worker="w.2")] == ids[1:]


def test_a_worker_that_may_be_taken_for_dead_claims_nothing_and_starts_nothing(broker):
    send(broker, 3)
    fresh = [True]
    ours = consumer(broker, is_fresh=lambda: fresh[0], ahead=2)
    ours.fill()
    fresh[0] = False
    assert ours.fill() == 0
    ours.stopping = True
    assert ours.next() is None


def test_queues_take_turns(broker):
    send(broker, 4, queue="a")
    send(broker, 4, queue="b")
    ours = consumer(broker, queues=("a", "b"), ahead=1)
    order = []
    for _ in range(4):
        ours.fill()
        order.append(ours.next().message.queue)
        ours.done(0.0)
    assert sorted(order) == ["a", "a", "b", "b"]


def test_strict_queues_are_served_in_their_order(broker):
    send(broker, 2, queue="b")
    send(broker, 2, queue="a")
    ours = consumer(broker, queues=("a", "b"), ahead=1, strict=True)
    order = []
    for _ in range(4):
        ours.fill()
        order.append(ours.next().message.queue)
        ours.done(0.0)
    assert order == ["a", "a", "b", "b"]


def test_a_job_that_was_lost_before_is_claimed_alone(broker):
    send(broker, 5)
    dangerous = broker.claim("default", limit=1, worker="dead.1")[0]
    broker.rescue([Loss("dead.1", started=(dangerous.id, 1))], rescuer="k")
    ours = consumer(broker, ahead=5)
    assert ours.fill() == 1
    assert ours.next().id == dangerous.id
    assert broker.sizes()["default"].running == 1


def test_a_job_that_was_lost_before_is_left_while_others_are_held(broker):
    send(broker, 1)
    (dangerous,) = broker.claim("default", limit=1, worker="dead.1")
    broker.rescue([Loss("dead.1", started=(dangerous.id, 1))], rescuer="k")
    send(broker, 1, priority=9)
    ours = consumer(broker, ahead=5)
    assert ours.fill() == 1
    first = ours.next()
    assert first.message.priority == 9
    assert ours.fill() == 0
    ours.done(0.0)
    assert ours.fill() == 1
    assert ours.next().id == dangerous.id


def test_a_task_that_was_refused_is_not_claimed_for_a_while(broker):
    send(broker, 1)
    ours = consumer(broker)
    ours.refuse("some.task", 60.0)
    assert ours.fill() == 0
    ours.refuse("some.task", -1.0)
    ours._refused.clear()
    assert ours.fill() == 1


def test_a_worker_of_all_queues_leaves_out_the_excluded(broker):
    send(broker, 1, queue="wanted")
    send(broker, 1, queue="secret")
    ours = consumer(broker, queues=None, excluded=("secret",), ahead=5)
    assert ours.fill() == 1
    assert ours.next().message.queue == "wanted"
