"""A step that follows at once: leased, with the outcome of the one before, by who has run that, without a detour."""

import time
from dataclasses import replace

import pytest

from djtasks import control, outbox, states
from djtasks.brokers.base import Loss
from djtasks.message import Message, Outcome, new_id
from djtasks.models import Job, Outbox
from djtasks.worker import claims as claims_module
from djtasks.worker import consumer as consumer_module
from djtasks.worker import ledger as ledger_module
from djtasks.worker.consumer import Consumer
from djtasks.worker.keeper import Keeper
from djtasks.worker.ledger import Ledger
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker("redis", "valkey")
in_redis = pytest.mark.parametrize("database", ["redis", "valkey"], indirect=True)
TASK = "tests.tasks.noop"


class Hands:
    """What runs and what stores, joined as in a child."""

    def __init__(self, broker, **options):
        self.broker = broker
        self.calls = {}
        self.ledger = Ledger(
            broker,
            "w.1",
            wants=lambda messages: self.consumer.wants(messages),
            take=lambda deliveries: self.consumer.take(deliveries),
        )
        self.consumer = Consumer(broker, "w.1", WorkerOptions(**{"queues": ("default",), "ahead": 9, **options}))

    def begin(self, **fields):
        """Claim and begin a job that stands alone in its queue."""
        self.broker.enqueue([Message(id=new_id(), task=TASK, **fields)])
        self.consumer.fill()
        return self.next()

    def next(self):
        call = self.consumer.next()
        self.calls[call[0].id] = call
        return call[0]

    def done(self, delivery):
        self.consumer.done(self.calls.pop(delivery.id), 0.001)

    def end(self, delivery, *following, **fields):
        outcome = Outcome(delivery=delivery, state=states.SUCCESS, result="1", seconds=0.0, follow_ups=following)
        self.done(delivery)
        self.ledger.record(replace(outcome, **fields))
        self.ledger.commit()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A slow machine makes no difference to what is tested here."""
    monkeypatch.setattr(claims_module, "SATED", 60.0)
    monkeypatch.setattr(ledger_module, "MARK_AFTER", 60.0)


@pytest.fixture
def hands(broker):
    return Hands(broker)


def step(**fields):
    return Message(**{"id": new_id(), "task": TASK, **fields})


def row(message):
    return Job.objects.get(pk=message.id)


def test_the_next_step_is_leased_with_the_outcome_of_the_one_before(hands):
    following = step(args="[1]", options='{"chain":[]}')
    hands.end(hands.begin(), following)
    delivery = hands.next()
    assert (delivery.message, delivery.worker, delivery.token) == (following, "w.1", 1)
    assert (row(following).state, row(following).worker, row(following).token) == (states.RECEIVED, "w.1", 1)
    assert hands.broker.claim("default", limit=9, worker="w.2") == []


def test_a_row_of_steps_ends_like_others(hands):
    delivery, steps = hands.begin(), [step() for _ in range(5)]
    for following in steps:
        hands.end(delivery, following)
        delivery = hands.next()
    hands.end(delivery)
    assert set(Job.objects.values_list("state", "result", "token")) == {(states.SUCCESS, "1", 1)}
    assert Job.objects.count() == 6
    assert (hands.broker.sizes(), hands.broker.owners(), Outbox.objects.count()) == ({}, set(), 0)


def test_several_steps_that_end_together_have_theirs_leased_together(hands, broker):
    broker.enqueue([step() for _ in range(3)])
    hands.consumer.fill()
    steps = [step() for _ in range(3)]
    for following in steps:
        delivery = hands.next()
        hands.done(delivery)
        hands.ledger.record(Outcome(delivery=delivery, state=states.SUCCESS, result="1", follow_ups=(following,)))
    hands.ledger.commit()
    assert {hands.next().id for _ in steps} == {each.id for each in steps}


def waits(hands, following):
    """Whether it waits in its queue, not here."""
    return hands.consumer.held == 0 and [each.id for each in hands.broker.peek(following.queue)] == [following.id]


def test_who_finds_others_in_the_queue_sends_the_step_after_them(broker):
    hands = Hands(broker, ahead=1)
    delivery, following = hands.begin(), step()
    (other,) = [step()]
    broker.enqueue([other])
    hands.end(delivery, following)
    assert [each.id for each in broker.peek("default")] == [other.id, following.id]


def test_after_a_moment_the_queue_is_asked_again(hands, monkeypatch):
    delivery, following = hands.begin(), step()
    monkeypatch.setattr(claims_module, "SATED", 0.0)
    hands.end(delivery, following)
    assert waits(hands, following)


@pytest.mark.parametrize(
    "fields",
    [{"expires_in": 60.0}, {"queue": "other"}, {"task": "nobody.knows"}, {"unique_key": "u"}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_to_be_judged_elsewhere_goes_by_its_queue(hands, fields):
    following = step(**fields)
    hands.end(hands.begin(), following)
    assert waits(hands, following)


def test_what_is_to_come_later_waits_for_its_time(hands):
    following = step(countdown=60.0)
    hands.end(hands.begin(), following)
    assert [each.id for each in hands.broker.peek("default", scheduled=True)] == [following.id]


def test_members_of_a_group_are_for_all_workers(hands):
    members = [step(), step()]
    hands.end(hands.begin(), *members)
    assert {each.id for each in hands.broker.claim("default", limit=9, worker="w.2")} == {each.id for each in members}


def test_a_worker_that_is_to_stop_leaves_the_step_to_others(hands):
    delivery, following = hands.begin(), step()
    hands.consumer.stopping = True
    hands.end(delivery, following)
    assert waits(hands, following)


def test_a_run_that_was_replaced_hands_nothing_over(hands):
    first = hands.begin()
    second, following = step(), step()
    hands.end(first, second)
    held = hands.next()
    Job.objects.filter(pk=second.id).update(worker="w.2", token=2)
    hands.end(held, following)
    assert not Job.objects.filter(pk=following.id).exists()
    assert (hands.consumer.held, row(second).state) == (0, states.RECEIVED)


def test_an_id_that_is_taken_is_left_as_it_is(hands):
    first, second, taken = hands.begin(), step(), step()
    hands.end(first, second)
    Job.objects.create(id=taken.id, task=TASK, queue="elsewhere", state=states.SUCCESS, result="7")
    hands.end(hands.next(), taken)
    assert (row(second).state, row(taken).result, hands.consumer.held) == (states.SUCCESS, "7", 0)


def test_a_step_that_an_earlier_run_may_have_sent_and_that_waits_in_its_queue_is_given_out_once(hands, broker):
    first, following = hands.begin(), step()
    broker.enqueue([following])
    hands.end(first, replace(following, check=True))
    assert hands.consumer.held == 0
    assert waits(hands, following)


def test_after_a_commit_whose_answer_got_lost_the_step_runs_once(hands, monkeypatch):
    delivery, following = hands.begin(), step()
    outcome = Outcome(delivery=delivery, state=states.SUCCESS, result="1", follow_ups=(following,))
    hands.end(delivery, following)
    hands.next()
    hands.ledger.record(outcome)
    hands.ledger.commit()
    assert hands.consumer.held == 0
    assert Job.objects.count() == 2


def test_a_step_that_was_handed_over_can_be_given_back(hands):
    following = step()
    hands.end(hands.begin(), following)
    hands.ledger.tell_leases()
    hands.consumer.release()
    (delivery,) = hands.broker.claim("default", limit=9, worker="w.2")
    assert (delivery.id, delivery.token) == (following.id, 2)


def test_a_step_that_was_handed_over_can_be_tried_again(hands):
    first, following = hands.begin(), step()
    hands.end(first, following)
    delivery = hands.next()
    again = replace(delivery.message, retries=1, countdown=0.0)
    hands.end(delivery, state=states.RETRY, next=again, result=None)
    hands.broker.promote()
    (delivery,) = hands.broker.claim("default", limit=9, worker="w.2")
    assert (delivery.id, delivery.token, delivery.message.retries) == (following.id, 2, 1)


def test_what_a_process_had_been_handed_when_it_died_goes_back_to_the_queue(hands, broker):
    following = step()
    hands.end(hands.begin(), following)
    keeper = Keeper("w", 1, Slots(1), WorkerOptions(), say=lambda word: None)
    keeper._losses.append(Loss("w.1"))
    wait_until(lambda: keeper.turn() or waits_alone(broker, following), what="the step to wait again")
    (delivery,) = broker.claim("default", limit=9, worker="w.2")
    assert delivery.id == following.id


def waits_alone(broker, message):
    return [each.id for each in broker.peek("default")] == [message.id]


@in_redis
def test_the_broker_hears_of_it_once_it_runs_for_a_moment(hands, broker, monkeypatch):
    following = step()
    hands.end(hands.begin(), following)
    assert broker.known([following.id]) == set()
    monkeypatch.setattr(ledger_module, "MARK_AFTER", 0.0)
    hands.ledger.commit()
    assert broker.known([following.id]) == {following.id}
    assert (broker.owners(), broker.sizes()["default"].running) == ({"w.1"}, 1)
    hands.end(hands.next())
    assert (broker.sizes(), broker.owners()) == ({}, set())


@in_redis
def test_one_that_is_acknowledged_before_it_runs_goes_by_the_queue_that_has_to_know_it(hands, broker):
    following = step(task="tests.tasks.journal_early_ack")
    hands.end(hands.begin(), following)
    assert waits(hands, following)
    (delivery,) = broker.claim("default", limit=9, worker="w.1")
    assert broker.start([delivery]) == [following.id]


@in_redis
def test_one_that_was_revoked_before_it_came_goes_by_the_queue_and_ends_as_revoked(hands, broker):
    following = step()
    control.revoke(following.id)
    hands.end(hands.begin(), following)
    (delivery,) = broker.claim("default", limit=9, worker="w.2")
    assert (delivery.id, delivery.revoked) == (following.id, True)


@in_redis
def test_one_that_is_revoked_before_the_broker_hears_of_it_is_revoked_when_it_comes_back(hands, broker):
    following = step()
    hands.end(hands.begin(), following)
    control.revoke(following.id)
    hands.ledger.tell_leases()
    hands.consumer.release()
    (delivery,) = broker.claim("default", limit=9, worker="w.2")
    assert (delivery.id, delivery.revoked) == (following.id, True)


def test_steps_cost_one_statement_each_where_there_is_one_for_that(hands, database, django_assert_num_queries):
    if database not in ("postgresql", "mariadb"):
        pytest.skip("no such statement")
    hands.end(hands.begin(), step())
    delivery = hands.next()
    for _ in range(2):
        with django_assert_num_queries(1, using=database):
            hands.end(delivery, step())
        delivery = hands.next()


def test_what_goes_by_the_door_is_what_others_may_take(hands, monkeypatch):
    sent = []
    real = outbox.send
    monkeypatch.setattr(outbox, "send", lambda batch, **how: (sent.extend(batch), real(batch, **how)))
    first, following = hands.begin(), step()
    hands.end(first, following)
    hands.end(hands.next(), step(), step())
    assert len(sent) == 2


def test_jobs_that_come_meanwhile_are_looked_for_again_soon(broker, monkeypatch):
    monkeypatch.setattr(claims_module, "SATED", 0.01)
    hands = Hands(broker)
    hands.begin()
    broker.enqueue([step()])
    deadline = time.monotonic() + 5
    while not hands.consumer.fill() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert hands.consumer.held == 1


def test_steps_that_take_long_together_are_handed_over_all_the_way(broker, monkeypatch):
    hands = Hands(broker)
    delivery = hands.begin()
    monkeypatch.setattr(consumer_module, "SATISFIED", 0.0)
    for _ in range(3):
        hands.consumer.fill()  # finds nothing, as before
        following = step()
        hands.end(delivery, following)
        delivery = hands.next()
        assert delivery.id == following.id


def test_a_queue_that_is_paused_meanwhile_gets_the_step(broker, monkeypatch):
    hands = Hands(broker)
    delivery, following = hands.begin(), step()
    monkeypatch.setattr(consumer_module, "SATISFIED", 0.0)
    broker.pause("default")
    hands.consumer.fill()
    hands.end(delivery, following)
    assert waits(hands, following)


@in_redis
def test_a_long_row_of_short_steps_is_nothing_that_the_broker_hears_of(broker, monkeypatch):
    hands = Hands(broker)
    delivery, steps = hands.begin(), [step() for _ in range(4)]
    monkeypatch.setattr(ledger_module, "MARK_AFTER", 0.3)
    told = []
    real = broker.lease
    monkeypatch.setattr(broker, "lease", lambda deliveries: (told.extend(deliveries), real(deliveries)))
    for following in steps:
        hands.end(delivery, following)
        delivery = hands.next()
        time.sleep(0.1)
    assert told == []
