"""What is claimed ahead, and what goes back."""

import time

import pytest

from djtasks import Batch, shared_task
from djtasks.brokers.base import Loss
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Delivery, Message, new_id
from djtasks.models import Queue, statements
from djtasks.worker import claims, solitude
from djtasks.worker import consumer as consumer_module
from djtasks.worker.consumer import MOST_AHEAD, Consumer
from djtasks.worker.descriptors import readable
from djtasks.worker.options import WorkerOptions
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker
in_redis = pytest.mark.parametrize("database", ["redis", "valkey"], indirect=True)


def consumer(broker, is_fresh=lambda: True, **options):
    return Consumer(broker, "w.1", WorkerOptions(**{"queues": ("default",), **options}), is_fresh=is_fresh)


def run(ours, seconds=0.0):
    """The next job, run to its end."""
    call = ours.next()
    ours.done(call, seconds)
    return call[0]


def have_run(ours, seconds):
    """Let the consumer know how long jobs take here."""
    ours.done((Delivery(Message(id="x", task="some.task"), "w.1", 1),), seconds)


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
    have_run(ours, 0.0001)
    assert ours.fill() == MOST_AHEAD


def test_long_jobs_are_claimed_one_by_one(broker):
    send(broker, 10)
    ours = consumer(broker)
    have_run(ours, 1.0)
    assert ours.fill() == 1
    assert ours.next() is not None
    assert ours.fill() == 0  # one runs; another would wait behind it


def test_what_was_given_back_without_an_answer_does_not_begin_here(broker, monkeypatch):
    ids = send(broker, 2)
    ours = consumer(broker)
    have_run(ours, 0.0001)
    assert ours.fill() == 2

    def release_and_hang_up(deliveries, **options):
        type(broker).release(broker, deliveries, **options)
        raise BrokerUnavailable("the answer got lost")

    with monkeypatch.context() as patch:
        patch.setattr(broker, "release", release_and_hang_up)
        with pytest.raises(BrokerUnavailable):
            ours.release()
    assert [each.id for each in broker.claim("default", limit=2, worker="other.1")] == ids
    assert (ours.known(), ours.held, ours.is_giving_back) == (set(), 2, True)  # none of them begins here
    ours.release()
    assert (ours.held, ours.is_giving_back) == (0, False)
    ours.stopping = True
    assert ours.next() is None
    assert broker.owners() == {"other.1"}


def test_who_cannot_learn_of_new_queues_goes_on_with_those_that_are_known_and_asks_again_soon(broker, monkeypatch):
    ours = consumer(broker, queues=None)
    assert ours.fill() == 0
    ours.claims._discovered = float("-inf")
    known, new = send(broker, 1) + send(broker, 1, queue="just_made")

    failures = []

    def hang_up():
        time.sleep(1.5 * claims.AGAIN)
        failures.append(time.monotonic())
        raise BrokerUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(broker, "queues", hang_up)
        assert ours.fill() == 1
    assert run(ours).id == known
    assert ours.claims._discovered >= failures[-1] - claims.DISCOVERY + claims.AGAIN
    assert ours.claims.until_discovery <= claims.AGAIN
    wait_until(ours.fill)
    assert run(ours).id == new


def test_who_has_never_learned_of_any_queue_says_why(broker, monkeypatch):
    def hang_up():
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr(broker, "queues", hang_up)
    with pytest.raises(BrokerUnavailable):
        consumer(broker, queues=None).fill()


def test_a_queue_that_nobody_named_is_looked_into_for_a_while_after_it_was_emptied(broker, monkeypatch):
    """What waits there for a limit, or comes now and then, does not wait to be discovered each time."""
    ours = consumer(broker, queues=None)
    send(broker, 1, queue="now_and_then")
    assert ours.fill() == 1
    run(ours)
    ours.claims._discovered = float("-inf")
    assert ours.fill() == 0
    send(broker, 1, queue="now_and_then")
    assert ours.fill() == 1
    run(ours)
    monkeypatch.setattr(claims, "KEPT", 0.0)
    ours.claims._discovered = float("-inf")
    assert ours.fill() == 0
    assert "now_and_then" not in ours.claims.queues


def test_of_many_queues_that_nobody_named_only_the_last_are_looked_into_once_they_are_empty(broker):
    ours = consumer(broker, queues=None)
    names = [f"made_for_{number}" for number in range(claims.MOST_KEPT + 3)]
    for name in names:
        send(broker, 1, queue=name)
    while ours.fill():
        while ours.held:
            run(ours)
    ours.claims._discovered = float("-inf")
    assert ours.fill() == 0
    assert len(set(names) & set(ours.claims.queues)) == claims.MOST_KEPT
    assert len(ours.claims._emptied) <= len(ours.claims.queues)


def test_who_sleeps_wakes_to_look_for_new_queues(broker, monkeypatch):
    monkeypatch.setattr(claims, "DISCOVERY", 60.0)
    ours = consumer(broker, queues=None)
    ours.fill()
    assert 0 < ours.claims.until_discovery <= claims.DISCOVERY
    assert consumer(broker).claims.until_discovery == float("inf")


def test_a_look_for_new_queues_that_is_due_soon_is_made_with_the_others(broker, monkeypatch):
    monkeypatch.setattr(claims, "DISCOVERY", 60.0)
    ours = consumer(broker, queues=None)
    ours.fill()
    (new,) = send(broker, 1, queue="just_made")
    assert ours.fill() == 0
    ours.claims._discovered -= 60.0 - claims.EARLY
    assert ours.fill() == 1
    assert run(ours).id == new


def test_what_waits_behind_a_long_job_is_given_to_others(broker):
    ids = send(broker, 3)
    ours = consumer(broker, ahead=3)
    ours.fill()
    assert ours.next()[0].id == ids[0]
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
        order.append(run(ours).message.queue)
    assert sorted(order) == ["a", "a", "b", "b"]


def test_strict_queues_are_served_in_their_order(broker):
    send(broker, 2, queue="b")
    send(broker, 2, queue="a")
    ours = consumer(broker, queues=("a", "b"), ahead=1, strict=True)
    order = []
    for _ in range(4):
        ours.fill()
        order.append(run(ours).message.queue)
    assert order == ["a", "a", "b", "b"]


def test_a_job_that_was_lost_before_is_claimed_alone(broker):
    send(broker, 5)
    dangerous = broker.claim("default", limit=1, worker="dead.1")[0]
    broker.rescue([Loss("dead.1", started=((dangerous.id, 1),))], rescuer="k")
    ours = consumer(broker, ahead=5)
    assert ours.fill() == 1
    assert ours.next()[0].id == dangerous.id
    assert broker.sizes()["default"].running == 1


def test_a_job_that_was_lost_before_is_left_while_others_are_held(broker):
    send(broker, 1)
    (dangerous,) = broker.claim("default", limit=1, worker="dead.1")
    broker.rescue([Loss("dead.1", started=((dangerous.id, 1),))], rescuer="k")
    send(broker, 1, priority=9)
    ours = consumer(broker, ahead=5)
    assert ours.fill() == 1
    (first,) = call = ours.next()
    assert first.message.priority == 9
    assert ours.fill() == 0
    ours.done(call, 0.0)
    assert ours.fill() == 1
    assert ours.next()[0].id == dangerous.id


def test_a_task_that_was_refused_is_not_claimed_for_a_while(broker):
    send(broker, 1)
    ours = consumer(broker)
    ours.refuse("some.task", 60.0)
    assert ours.fill() == 0
    ours.refuse("some.task", -1.0)
    ours.claims._refused.clear()
    assert ours.fill() == 1


def test_a_worker_of_all_queues_leaves_out_the_excluded(broker):
    send(broker, 1, queue="wanted")
    send(broker, 1, queue="secret")
    ours = consumer(broker, queues=None, excluded=("secret",), ahead=5)
    assert ours.fill() == 1
    assert ours.next()[0].message.queue == "wanted"


# Several at a time


def test_who_runs_several_at_a_time_claims_one_for_each_free_place(broker):
    send(broker, 20)
    ours = consumer(broker, runs=5)
    assert ours.fill() == 5
    running = [ours.next() for _ in range(3)]
    assert ours.held == 2
    assert not ours.has_room
    ours.done(running[0], 0.1)
    have_run(ours, 1.0)
    assert ours.fill() == 1  # three places are free, and two jobs are held
    assert ours.fill() == 0


def test_over_all_places_as_much_is_claimed_ahead_as_starts_soon(broker):
    send(broker, 100)
    ours = consumer(broker, runs=4)
    have_run(ours, 0.01)
    assert ours.fill() == 20  # five in each place within 50 ms
    for _ in range(4):
        ours.next()
    time.sleep(0.06)
    assert ours.is_stuck()  # what runs takes longer than anything before: nobody knows for how long


def test_one_long_job_blocks_its_own_place_alone(broker):
    send(broker, 100)
    ours = consumer(broker, runs=2)
    have_run(ours, 0.01)
    ours.fill()
    ours.next()
    time.sleep(0.06)
    assert not ours.is_stuck()
    assert ours.ahead() == 5


def test_long_jobs_are_followed_by_those_for_whose_end_it_is_time(broker):
    send(broker, 100)
    ours = consumer(broker, runs=3)
    have_run(ours, 0.2)
    assert ours.fill() == 3
    for _ in range(3):
        ours.next()
    assert ours.ahead() == 0
    time.sleep(0.16)
    assert ours.ahead() == 3  # they are about to end, by all that is known


@pytest.mark.parametrize(("multiplier", "claimed"), [(1, 4), (3, 12)])
def test_what_is_claimed_ahead_may_be_fixed_by_hand_for_each_place(broker, multiplier, claimed):
    send(broker, 50)
    ours = consumer(broker, runs=4, ahead=multiplier)
    have_run(ours, 0.0001)
    assert ours.fill() == claimed


def test_with_others_beside_only_the_last_loss_makes_a_job_run_alone(broker):
    send(broker, 3)
    (dangerous,) = broker.claim("default", limit=1, worker="dead.1")
    broker.rescue([Loss("dead.1", started=((dangerous.id, 1),))], rescuer="k")
    ours = consumer(broker, runs=4)
    assert ours.fill() == 3  # one loss among several says little
    for delivery in [ours.next() for _ in range(3)]:
        ours.done(delivery, 0.1)


def test_a_job_that_must_run_alone_waits_for_the_others_and_the_others_for_it(broker):
    send(broker, 1)
    for turn in (1, 2):
        (dangerous,) = broker.claim("default", limit=1, worker=f"dead.{turn}")
        broker.rescue([Loss(f"dead.{turn}", started=((dangerous.id, turn),))], rescuer="k")
    (first,) = send(broker, 1, priority=9)
    send(broker, 3)
    ours = consumer(broker, runs=4)
    ours.fill()
    running = [ours.next() for _ in range(ours.held)]
    assert first in {each.id for (each,) in running}
    assert dangerous.id not in {each.id for (each,) in running}
    assert ours.fill() == 0
    for each in running:
        ours.done(each, 0.01)
    assert ours.fill() == 1
    alone = ours.next()
    assert alone[0].id == dangerous.id
    send(broker, 2)
    assert ours.fill() == 0
    ours.done(alone, 0.01)
    assert ours.fill() == 3


def test_it_is_not_waited_for_longer_than_a_while(broker, monkeypatch):
    send(broker, 1)
    for turn in (1, 2):
        (dangerous,) = broker.claim("default", limit=1, worker=f"dead.{turn}")
        broker.rescue([Loss(f"dead.{turn}", started=((dangerous.id, turn),))], rescuer="k")
    send(broker, 1, priority=9)
    ours = consumer(broker, runs=4)
    ours.fill()
    assert ours.next()[0].message.priority == 9  # and goes on for hours
    assert ours.fill() == 0
    monkeypatch.setattr(solitude, "COMPANY", 0.0)
    assert ours.fill() == 1
    assert ours.next()[0].id == dangerous.id


@pytest.fixture
def batch(own_tasks):
    def declare(**options):
        shared_task(name="some.task", batch=Batch(**options))(lambda requests: None)

    return declare


def fill_until(ours, condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        ours.fill()
    assert condition()


def test_jobs_of_a_batch_are_claimed_together_past_those_of_other_tasks(broker, batch):
    batch(size=5, wait=60.0)
    first = send(broker, 3)
    broker.enqueue([Message(id="other", task="other.task")])
    rest = send(broker, 3)
    ours = consumer(broker)
    assert ours.fill() == 5  # one, and its company
    assert [each.id for each in ours.next()] == [*first, *rest[:2]]
    assert [each.id for each in broker.peek("default")] == ["other", rest[2]]


def test_a_batch_that_is_not_full_begins_when_its_first_has_waited(broker, batch):
    batch(size=5, wait=0.3)
    ids = send(broker, 2)
    ours = consumer(broker)
    began = time.monotonic()
    fill_until(ours, lambda: ours.held == 2)
    assert (ours.has_room, ours.is_idle) == (True, False)
    ids += send(broker, 1)
    fill_until(ours, lambda: not ours.has_room)
    assert time.monotonic() - began >= 0.3
    assert [each.id for each in ours.next()] == ids
    assert ours.gathers_for is None


def test_what_gathers_takes_no_place_from_others(broker, batch):
    batch(size=5, wait=60.0)
    send(broker, 2)
    ours = consumer(broker)
    ours.fill()
    broker.enqueue([Message(id="other", task="other.task")])
    time.sleep(consumer_module.SATISFIED)
    fill_until(ours, lambda: not ours.has_room)
    assert [each.id for each in ours.next()] == ["other"]
    assert 0 < ours.gathers_for <= 60


def test_what_gathers_is_known_and_given_back(broker, batch):
    batch(size=5, wait=60.0)
    ids = send(broker, 3)
    ours = consumer(broker)
    ours.fill()
    assert ours.known() == set(ids)
    ours.release()
    assert (ours.known(), ours.held) == (set(), 0)
    assert [each.id for each in broker.claim("default", limit=9, worker="w.2")] == ids


def test_the_largest_batch_is_given_back_as_well(broker, batch):
    batch(size=1000, wait=60.0)
    send(broker, 999)
    ours = consumer(broker)
    fill_until(ours, lambda: ours.held == 999)
    ours.release()
    assert broker.sizes()["default"].ready == 999


def test_what_was_revoked_while_it_gathered_is_handed_on_as_revoked(broker, batch):
    batch(size=5, wait=60.0)
    ids = send(broker, 2)
    ours = consumer(broker)
    ours.fill()
    broker.cancel([ids[1]])
    send(broker, 3)
    fill_until(ours, lambda: not ours.has_room)
    assert [each.revoked for each in ours.next()] == [False, True, False, False, False]


def test_a_single_one_that_was_revoked_while_it_waited_for_company_is_so_too(broker, batch):
    batch(size=5, wait=0.1)
    ids = send(broker, 1)
    ours = consumer(broker)
    ours.fill()
    broker.cancel(ids)
    fill_until(ours, lambda: not ours.has_room)
    assert [each.revoked for each in ours.next()] == [True]


def test_who_stops_when_nothing_is_left_waits_for_no_company(broker, batch):
    batch(size=5, wait=60.0)
    ids = send(broker, 3)
    ours = consumer(broker, burst=True)
    ours.fill()
    assert [each.id for each in ours.next()] == ids


def test_what_gathers_begins_when_a_job_comes_that_must_run_alone(broker, batch):
    batch(size=5, wait=60.0)
    ids = send(broker, 2)
    ours = consumer(broker)
    ours.fill()
    broker.enqueue([Message(id="dangerous", task="other.task")])
    (lost,) = broker.claim("default", limit=1, worker="dead.1")
    broker.rescue([Loss("dead.1", started=((lost.id, 1),))], rescuer="k")
    fill_until(ours, lambda: not ours.has_room)
    call = ours.next()
    assert [each.id for each in call] == ids
    ours.done(call, 0.0)
    fill_until(ours, lambda: not ours.has_room)
    assert [each.id for each in ours.next()] == ["dangerous"]


def test_a_job_that_was_lost_before_has_no_company(broker, batch):
    batch(size=5, wait=60.0)
    send(broker, 2)
    for each in broker.claim("default", limit=1, worker="dead.1"):
        broker.rescue([Loss("dead.1", started=((each.id, 1),))], rescuer="k")
        lost = each.id
    ours = consumer(broker)
    ours.fill()
    assert [each.id for each in ours.next()] == [lost]


def test_a_batch_is_no_larger_than_there_are_marks_for_it(broker, batch):
    batch(size=5, wait=60.0)
    send(broker, 4)
    ours = Consumer(broker, "w.1", WorkerOptions(queues=("default",)), most=2)
    ours.fill()
    assert len(ours.next()) == 2


# What comes with a wake-up


def hear(ours, unsettled=0):
    """Listen until something comes, take it, and look for more."""
    store = ours.listen()
    assert readable([store], 5.0)
    ours.hear()
    return ours.fill(unsettled)


@in_redis
def test_a_job_that_came_with_the_wake_up_is_run_and_counted(broker):
    ours = consumer(broker)
    (sent,) = send(broker, 1)
    came = hear(ours)
    assert (came, ours.held, ours.known()) == (1, 1, {sent})
    assert run(ours).id == sent
    broker.ack([Delivery(Message(id=sent, task="some.task"), "w.1", 1)])
    assert broker.sizes() == {}


@in_redis
def test_what_came_with_the_wake_up_is_followed_by_what_else_will_start_soon(broker):
    ours = consumer(broker)
    send(broker, 3)
    have_run(ours, 0.0001)
    assert hear(ours) == 3


@in_redis
def test_who_was_told_with_the_wake_up_that_there_is_nothing_does_not_ask_again(broker, monkeypatch):
    ours = consumer(broker)
    ours.fill()  # from now on the server knows the script
    ours.listen()
    ours.hear()
    looks = []
    monkeypatch.setattr(broker, "claim", lambda *_, **__: looks.append(1) or [])
    assert (ours.fill(), ours.fill()) == (0, 0)
    assert len(looks) == 1


@in_redis
def test_what_came_with_the_wake_up_goes_back_if_we_are_to_stop(broker):
    ours = consumer(broker)
    sent = send(broker, 1)
    store = ours.listen()
    ours.stopping = True
    assert readable([store], 5.0)
    ours.hear()
    ours.release()
    assert [each.id for each in broker.peek("default")] == sent


@in_redis
def test_a_queue_that_gave_less_than_was_wanted_with_the_wake_up_is_known_to_be_empty(broker):
    ours = consumer(broker)
    have_run(ours, 0.0001)
    send(broker, 2)
    hear(ours)
    assert ours.claims.is_emptied("default")


@in_redis
def test_a_queue_that_nobody_named_is_listened_to_as_well(broker):
    ours = consumer(broker, queues=None)
    broker.enqueue([Message(id=new_id(), task="some.task", queue="new")])
    assert hear(ours) == 1


@in_redis
def test_who_must_not_begin_anything_claims_nothing_with_the_wake_up(broker):
    ours = consumer(broker, is_fresh=lambda: False)
    send(broker, 1)
    assert hear(ours) == 0
    assert broker.owners() == set()


# What an operator has set


def test_who_waits_has_looked_what_an_operator_has_set_so_that_no_job_waits_for_that(broker, monkeypatch):
    looks = []
    real = statements.limits_set
    monkeypatch.setattr(statements, "limits_set", lambda connection: looks.append(1) or real(connection))
    monkeypatch.setattr(consumer_module, "READ_IDLE", 0.05)
    ours = consumer(broker)
    ours.fill()
    assert len(looks) == 1
    time.sleep(0.1)
    ours.fill()
    assert len(looks) == 2
    send(broker, 1)
    assert (ours.fill(), len(looks)) == (1, 2)


def test_a_limit_that_is_set_while_nothing_is_to_do_holds_for_the_first_job(broker, own_tasks):
    @shared_task(name="some.task")
    def some_task():
        pass

    ours = consumer(broker)
    ours.fill()
    Queue.objects.create(name="default", max_concurrency=0)
    time.sleep(consumer_module.READ_IDLE)
    ours.fill()
    send(broker, 1)
    ours.fill()
    assert ours.held == 0
