"""Rates and concurrency limits, as each broker keeps them."""

import itertools
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import F

from djtasks import control
from djtasks.brokers import get_broker
from djtasks.brokers.base import Loss
from djtasks.message import Outcome
from djtasks.models import Job, Limit, Ticket
from tests.brokers.test_contract import claim, ids, message
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker("redis", "valkey")

FAR = 100.0  # seconds


def send(broker, count=1, **fields):
    sent = [message(**fields) for _ in range(count)]
    broker.enqueue(sent)
    return [each.id for each in sent]


def slots(deliveries):
    return [grant.slot for each in deliveries for grant in each.grants]


def wait_of(delivery):
    """Seconds until its slot."""
    return delivery.grants[0].start - time.monotonic()


# Rates


def test_slots_of_a_rate_are_an_interval_apart_and_the_first_is_now(broker):
    send(broker, 3)
    granted = broker.defer(claim(broker), "k", 2.0, ahead=FAR, most=100)
    first, second, third = slots(granted)
    assert second - first == third - second == 2_000_000
    assert [round(wait_of(each)) for each in granted] == [0, 2, 4]


def test_what_is_denied_is_scheduled_for_its_slot_and_comes_again_in_its_order(broker):
    sent = send(broker, 5)
    granted = broker.defer(claim(broker), "k", 0.1, ahead=0.0, most=100)
    assert ids(granted) == sent[:1]
    assert claim(broker) == []
    assert ids(broker.peek("default", scheduled=True)) == sent[1:]
    again = []
    wait_until(lambda: broker.promote() is None or again.extend(claim(broker)) or len(again) == 4)
    assert ids(again) == sent[1:]
    assert ids(broker.defer(again, "k", 0.1, ahead=1.0, most=100)) == sent[1:]


def test_a_denied_job_says_for_what_it_waits_and_until_when(broker):
    first, second = send(broker, 2)
    broker.defer(claim(broker), "k", 60.0, ahead=0.0, most=100)
    wait = broker.waits([first, second])[second]
    assert (wait.limit, list(broker.waits([first, second]))) == ("rate:k", [second])
    assert abs((wait.until - datetime.now(UTC)).total_seconds() - 60) < 5


def test_a_slot_of_a_rate_is_ready_a_little_before_it_so_that_it_can_be_kept(broker):
    send(broker, 2)
    broker.defer(claim(broker), "k", 2.0, ahead=1.8, most=1)
    wait_until(broker.promote)
    (granted,) = broker.defer(claim(broker), "k", 2.0, ahead=1.8, most=1)
    assert 0 < wait_of(granted) <= 0.9


def test_newcomers_stand_behind_those_that_wait(broker):
    early = send(broker, 3)
    broker.defer(claim(broker), "k", 10.0, ahead=0.0, most=100)
    late = send(broker, 1)
    assert broker.defer(claim(broker, worker="two"), "k", 10.0, ahead=0.0, most=100) == []
    assert ids(broker.peek("default", scheduled=True)) == [*early[1:], *late]


def test_a_job_that_could_not_begin_in_time_gets_the_next_slot_and_not_the_last_of_the_line(broker):
    send(broker, 1)
    (granted,) = broker.defer(claim(broker), "k", 0.05, ahead=0.0, most=100)
    send(broker, 50)
    broker.defer(claim(broker, worker="two"), "k", 0.05, ahead=0.0, most=100)
    (again,) = broker.defer([granted], "k", 0.05, ahead=FAR, most=100)
    assert wait_of(again) < 1.5  # the last one comes after 2.5 s; a database is given the time that it took before
    assert again.grants[0].slot >= granted.grants[0].slot + 50_000


def test_who_gives_a_job_back_leaves_its_slot_to_others(broker):
    send(broker, 1)
    (granted,) = broker.defer(claim(broker), "k", 100.0, ahead=0.0, most=100)
    broker.release([granted])
    assert len(broker.defer(claim(broker, worker="two"), "k", 100.0, ahead=0.0, most=100)) == 1


def test_what_was_cancelled_or_purged_leaves_no_gap_in_the_line(broker):
    sent = send(broker, 100)
    broker.defer(claim(broker), "k", 1.0, ahead=0.0, most=100)
    control.revoke(sent[50:])
    assert ids(claim(broker)) == sent[50:]
    send(broker, 1)
    broker.defer(claim(broker, worker="two"), "k", 1.0, ahead=0.0, most=100)
    assert broker.purge("default") == 50
    send(broker, 1)
    (granted,) = broker.defer(claim(broker), "k", 1.0, ahead=FAR, most=100)
    assert wait_of(granted) <= 1.0


def test_a_cancelled_job_comes_at_once_although_it_waits_for_a_slot(broker):
    _first, second = send(broker, 2)
    broker.defer(claim(broker), "k", 100.0, ahead=0.0, most=100)
    broker.cancel([second])
    (delivery,) = claim(broker)
    assert (delivery.id, delivery.revoked) == (second, True)
    assert broker.waits([second]) == {}


def test_a_job_that_is_cancelled_while_it_is_denied_a_slot_comes_at_once(broker):
    _first, second, third = send(broker, 3)
    claimed = claim(broker)
    broker.cancel([second])  # its worker does not know yet
    broker.defer(claimed, "k", 100.0, ahead=0.0, most=100)
    broker.promote()
    assert [(each.id, each.revoked) for each in claim(broker)] == [(second, True)]
    assert set(broker.waits([second, third])) == {third}


def test_a_job_that_is_cancelled_while_it_is_denied_a_place_comes_at_once(broker):
    first, second, third = send(broker, 3)
    claimed = claim(broker)
    broker.cancel([second])
    (taken,) = broker.take_places(claimed, "k", 1, most=1)
    broker.promote()
    (delivery,) = claim(broker)
    assert (taken.id, delivery.id, delivery.revoked) == (first, second, True)
    end(broker, [taken, delivery])
    assert ids(claim(broker)) == [third]


def test_another_rate_calls_back_those_that_wait_in_their_old_order(broker):
    sent = send(broker, 4)
    broker.defer(claim(broker), "k", 100.0, ahead=0.0, most=100)
    assert broker.recall("rate:k") == 3
    again = claim(broker)
    assert ids(again) == sent[1:]
    assert [round(wait_of(each)) for each in broker.defer(again, "k", 1.0, ahead=FAR, most=100)] == [1, 2, 3]


def test_a_rate_that_was_changed_in_the_code_calls_back_those_that_wait(broker):
    sent = send(broker, 4)
    broker.defer(claim(broker), "k", 100.0, ahead=0.0, most=100)
    newcomers = send(broker, 1)
    granted = broker.defer(claim(broker), "k", 1.0, ahead=FAR, most=100)
    again = [*claim(broker), *granted]
    assert sorted(ids(again)) == sorted([*sent[1:], *newcomers])


def put_back(broker, seconds):
    """What is stored of the rate "k" is as if the broker's clock had since been put back by so much."""
    delta = seconds * 1_000_000
    if broker.transactional:
        Limit.objects.filter(pk="k").update(next_slot=F("next_slot") + delta)
        Ticket.objects.filter(limit="rate:k").update(slot=F("slot") + delta)
        Job.objects.scheduled().update(run_at=datetime.now(UTC) + timedelta(seconds=seconds))
        return
    keys, ask = broker.keys, broker.server.ask
    ask("HINCRBY", keys.limit("rate:k"), "last", delta)
    for key in (keys.line("rate:k"), keys.scheduled("default")):
        for job_id in ask("ZRANGE", key, 0, -1):
            ask("ZINCRBY", key, delta, job_id)


def test_when_the_clock_was_put_back_a_rate_goes_on_and_calls_those_that_wait_for_the_old_time(broker):
    sent = send(broker, 4)
    broker.defer(claim(broker), "k", 1.0, ahead=0.0, most=100)
    put_back(broker, 3600)
    newcomers = send(broker, 1)
    granted = broker.defer(claim(broker), "k", 1.0, ahead=FAR, most=100)
    assert ids(granted) == newcomers
    assert [round(wait_of(each)) for each in granted] == [1]
    granted = broker.defer(claim(broker), "k", 1.0, ahead=FAR, most=100)
    assert ids(granted) == sent[1:]
    assert [round(wait_of(each)) for each in granted] == [2, 3, 4]


def test_a_slot_that_was_left_by_another_clock_holds_up_nobody(broker):
    (first,) = send(broker, 1)
    (held,) = broker.defer(claim(broker), "k", 1.0, ahead=FAR, most=100)
    broker.release([held])
    put_back(broker, 3600)
    second, third = send(broker, 2)
    broker.hasten([first])
    granted = broker.defer(claim(broker), "k", 1.0, ahead=FAR, most=100)
    assert sorted(ids(granted)) == sorted([first, second, third])
    assert max(map(wait_of, granted)) < 4


def test_when_the_clock_was_put_forward_what_waits_comes_at_the_rate(broker):
    sent = send(broker, 4)
    broker.defer(claim(broker), "k", 1.0, ahead=0.0, most=100)
    put_back(broker, -3600)
    wait_until(lambda: broker.promote() is not None and len(broker.peek("default")) == 3)
    granted = broker.defer(claim(broker), "k", 1.0, ahead=FAR, most=100)
    assert ids(granted) == sent[1:]
    assert [round(wait_of(each)) for each in granted] == [0, 1, 2]


def test_slots_given_at_once_by_many_are_an_interval_apart(broker, database):
    send(broker, 60)
    found, lock = [], threading.Lock()

    def work(name):
        for _ in range(3):
            granted = get_broker().defer(claim(get_broker(), limit=5, worker=name), "k", 0.5, ahead=FAR, most=100)
            with lock:
                found.extend(slots(granted))
        get_broker().close()

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.sort()
    assert len(found) == 60
    assert min(later - earlier for earlier, later in itertools.pairwise(found)) >= 500_000


# Places


def test_no_more_hold_places_than_there_are_and_the_others_wait_without_a_time(broker):
    sent = send(broker, 5)
    taken = broker.take_places(claim(broker), "k", 2, most=10)
    assert ids(taken) == sent[:2]
    assert broker.promote() == 0
    assert claim(broker) == []
    waits = broker.waits(sent)
    assert sorted(waits) == sorted(sent[2:])
    assert {(each.limit, each.until) for each in waits.values()} == {("concurrency:k", None)}


def test_each_job_that_ends_calls_the_next_one_in_order(broker):
    sent = send(broker, 5)
    taken = broker.take_places(claim(broker), "k", 2, most=10)
    order = []
    while taken:
        end(broker, taken[:1])
        order.append(taken.pop(0).id)
        taken += broker.take_places(claim(broker), "k", 2, most=10)
    assert order == sent


def end(broker, deliveries):
    if broker.transactional:
        for each in deliveries:
            Job.objects.all().record(each.worker, [Outcome(delivery=each, state="SUCCESS", result="1")])
    broker.ack(deliveries)


def test_what_waits_for_a_place_goes_by_priority_first(broker):
    send(broker, 1)
    (taken,) = broker.take_places(claim(broker), "k", 1, most=1)
    (low,), (high,) = send(broker, 1, priority=-5), send(broker, 1, priority=5)
    assert broker.take_places(claim(broker), "k", 1, most=1) == []
    end(broker, [taken])
    assert ids(claim(broker)) == [high]
    assert low in broker.waits([low, high])


def test_who_gives_a_job_back_frees_its_place_for_that_job(broker):
    first, second = send(broker, 2)
    (taken,) = broker.take_places(claim(broker), "k", 1, most=1)
    broker.release([taken])
    (again,) = broker.take_places(claim(broker, worker="two"), "k", 1, most=1)
    assert again.id == first
    end(broker, [again])
    assert ids(claim(broker)) == [second]


def test_a_retry_frees_its_place(broker):
    _first, second = send(broker, 2)
    (taken,) = broker.take_places(claim(broker), "k", 1, most=1)
    broker.reschedule([(taken, replace(taken.message, retries=1, countdown=60.0))])
    assert ids(claim(broker)) == [second]


def test_newcomers_take_no_place_before_those_that_wait(broker):
    sent = send(broker, 3)
    (taken,) = broker.take_places(claim(broker), "k", 1, most=1)
    newcomers = send(broker)
    claimed = claim(broker, worker="two")
    if broker.transactional:  # its row has ended, and nobody has told the broker yet
        Job.objects.all().record("one", [Outcome(delivery=taken, state="SUCCESS", result="1")])
    assert broker.take_places(claimed, "k", 1, most=1) == []
    broker.ack([taken])
    assert ids(claim(broker)) == [sent[1]]
    assert sorted(broker.waits([*sent, *newcomers])) == sorted([sent[2], *newcomers])


def test_a_worker_that_took_less_than_was_free_leaves_it_to_others_soon(broker):
    sent = send(broker, 4)
    assert ids(broker.take_places(claim(broker), "k", 3, most=1)) == sent[:1]
    assert claim(broker) == []
    wait_until(broker.promote)
    assert ids(broker.take_places(claim(broker, worker="two"), "k", 3, most=5)) == sent[1:3]


def test_the_place_of_a_dead_process_is_found_free(broker):
    first, _second = send(broker, 2)
    broker.take_places(claim(broker), "k", 1, most=1)
    assert broker.fill_places() == 0
    broker.rescue([Loss("one")], rescuer="keeper")
    assert broker.fill_places() == 1
    assert ids(broker.take_places(claim(broker, worker="two"), "k", 1, most=1)) == [first]


def test_a_cancelled_holder_keeps_its_place_until_it_has_ended(broker):
    first, second = send(broker, 2)
    (taken,) = broker.take_places(claim(broker), "k", 1, most=1)
    broker.cancel([first])
    assert broker.fill_places() == 0
    end(broker, [taken])
    assert ids(claim(broker)) == [second]


def test_what_waits_for_a_place_can_be_cancelled_and_purged(broker):
    _first, second, _third = send(broker, 3)
    (taken,) = broker.take_places(claim(broker), "k", 1, most=1)
    broker.cancel([second])
    assert [(each.id, each.revoked) for each in claim(broker)] == [(second, True)]
    assert broker.purge("default") == 1
    (fourth,) = send(broker)
    assert broker.take_places(claim(broker), "k", 1, most=1) == []
    end(broker, [taken])
    assert ids(claim(broker)) == [fourth]


def test_keys_do_not_share_their_limits(broker):
    send(broker, 2)
    one, two = claim(broker)
    assert len(broker.take_places([one], "a", 1, most=1) + broker.take_places([two], "b", 1, most=1)) == 2
    assert (
        len(broker.defer([one], "a", 9.0, ahead=0.0, most=100) + broker.defer([two], "b", 9.0, ahead=0.0, most=100))
        == 2
    )


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_key_of_many_leaves_nothing_in_redis_once_its_jobs_have_ended(broker):
    def run(number):
        send(broker)
        (taken,) = broker.take_places(claim(broker), f"k[{number}]", 1, most=1)
        send(broker)
        assert broker.take_places(claim(broker), f"k[{number}]", 1, most=1) == []
        broker.ack([taken])
        (waited,) = broker.take_places(claim(broker), f"k[{number}]", 1, most=1)
        broker.ack([waited])

    run(0)
    before = broker.count_keys()
    for number in range(1, 20):
        run(number)
    assert broker.count_keys() == before


def test_the_limits_that_are_used_are_told_with_how_they_stand(broker):
    send(broker, 3)
    broker.take_places(broker.defer(claim(broker), "k", 0.001, ahead=1.0, most=100), "k", 1, most=1)
    standing = {each.limit: (each.waiting, each.holding) for each in broker.limits()}
    assert standing == {"concurrency:k": (2, 1), "rate:k": (0, 0)}
