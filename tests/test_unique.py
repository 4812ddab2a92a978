"""Unique jobs, on each broker: of those with the same key one waits or runs."""

import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.db import OperationalError, connections, transaction

from djtasks import Unique, chain, chord, conf, control, group, publish, send_task, shared_task, signature, states
from djtasks.brokers.base import Loss
from djtasks.message import Outcome
from djtasks.models import Job, Outbox
from djtasks.unique import key_of, unique_of
from tests import tasks
from tests.processes import worker_environment
from tests.waiting import wait_until
from tests.worker.test_rates import lines

pytestmark = [pytest.mark.every_broker, pytest.mark.usefixtures("own_tasks")]

PROCESSES = 50


def declare(**options):
    @shared_task(name="shop.tasks.sync", **options)
    def sync(account, page=1, *more, full=False, **rest):
        pass

    return sync


def claim(broker):
    return broker.claim("default", limit=100, worker="one")


def waiting(broker):
    return [each.id for scheduled in (False, True) for each in broker.peek("default", scheduled=scheduled)]


def end(broker, delivery, state=states.SUCCESS):
    if broker.transactional:
        Job.objects.all().record(delivery.worker, [Outcome(delivery=delivery, state=state, result="1")])
        Job.objects.filter(pk=delivery.id).update(unique_key=None)
    broker.ack([delivery])


def record(broker, delivery):
    write = partial(Job.objects.all().record, "one") if broker.transactional else Job.objects.all().store
    assert write([Outcome(delivery=delivery, state=states.SUCCESS, result="1")]) == {delivery.id}


def test_a_second_one_is_the_first_while_that_waits_or_runs_and_another_after_its_end(broker):
    sync = declare(unique=True)
    first = sync.delay(7)
    assert sync.delay(7) == first
    assert sync.delay(8) != first
    (delivery, _other) = claim(broker)
    assert sync.delay(7) == first
    end(broker, delivery)
    assert sync.delay(7) != first


@pytest.mark.parametrize("outbox", [False, True])
def test_who_has_seen_the_result_can_send_another_before_the_broker_knows_of_the_end(broker, outbox):
    sync = declare(unique=True)
    first = sync.delay(7)
    (delivery,) = claim(broker)
    record(broker, delivery)
    with transaction.atomic(using=conf.settings.DATABASE) if outbox else nullcontext():
        second = sync.delay(7)
    assert second != first
    assert waiting(broker) == [second.id]
    broker.ack([delivery])
    assert sync.delay(7) == second  # the key is not the first's to let go


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_while_the_database_does_not_answer_who_has_the_key_keeps_it(broker):
    sync = declare(unique=True)
    first = sync.delay(7)

    def fail(*_query):
        raise OperationalError("it is away")

    with connections[conf.settings.DATABASE].execute_wrapper(fail):
        assert sync.delay(7) == first


def test_a_key_kept_for_a_time_is_kept_though_the_broker_does_not_know_of_the_end(broker):
    sync = declare(unique=Unique(for_=60))
    first = sync.delay(7)
    (delivery,) = claim(broker)
    record(broker, delivery)
    assert sync.delay(7) == first
    with transaction.atomic(using=conf.settings.DATABASE):
        assert sync.delay(7) == first


def test_in_bulk_each_gets_the_handle_on_the_one_that_stands_for_it(broker):
    sync = declare(unique=True)
    before = sync.delay(1)
    handles = sync.enqueue_many([(1,), (2,), (2,), (3,)])
    assert handles[0] == before
    assert handles[1] == handles[2]
    assert len({each.id for each in handles}) == 3
    assert sorted(waiting(broker)) == sorted({each.id for each in handles})


def test_a_single_signature_is_sent_as_its_task_would_be(broker):
    sync = declare(unique=True)
    first = sync.delay(7)
    assert sync.s(7).delay() == first
    assert sync.s().delay(7) == first
    assert sync.si(7).apply_async(countdown=60) == first
    assert signature("shop.tasks.sync", (7,)).apply_async() == first
    assert send_task("shop.tasks.sync", [], {"account": 7}) == first
    assert sync.s(8).delay() != first
    assert len(waiting(broker)) == 2


def test_in_a_canvas_each_job_is_sent_and_who_has_the_key_keeps_it(broker):
    sync = declare(unique=True)
    first = sync.delay(7)
    group(sync.s(7), sync.s(7)).delay()
    chain(sync.si(7), sync.si(7)).delay()
    chord([sync.s(7)], sync.si(7)).delay()
    assert len(waiting(broker)) == 1 + 2 + 1 + 1
    assert sync.delay(7) == first


def test_other_tasks_and_plain_jobs_are_not_touched(broker):
    sync = declare(unique=True)

    @shared_task(name="shop.tasks.other", unique=True)
    def other(account):
        pass

    assert len({sync.delay(1).id, other.delay(1).id, tasks.add.delay(1, 2).id, tasks.add.delay(1, 2).id}) == 4


def test_what_was_purged_or_pruned_holds_nothing(broker):
    sync = declare(unique=True)
    first = sync.delay(7)
    control.purge("default")
    second = sync.delay(7)
    assert second != first
    assert waiting(broker) == [second.id]


def test_a_job_that_is_given_back_rescued_or_tried_again_keeps_its_key(broker):
    sync = declare(unique=True)
    first = sync.delay(7)
    (delivery,) = claim(broker)
    broker.release([delivery])
    assert sync.delay(7) == first
    claim(broker)
    broker.rescue([Loss("one")], rescuer="keeper")
    assert sync.delay(7) == first
    (delivery,) = claim(broker)
    broker.reschedule([(delivery, replace(delivery.message, retries=1, countdown=60.0))])
    assert sync.delay(7) == first


def test_for_a_time_another_is_not_sent_even_after_the_end(broker):
    sync = declare(unique=Unique(for_=timedelta(seconds=1.5)))
    began = time.monotonic()
    first = sync.delay(7)
    (delivery,) = claim(broker)
    if broker.transactional:
        Job.objects.all().record("one", [Outcome(delivery=delivery, state=states.SUCCESS, result="1")])
    broker.ack([delivery])
    assert sync.delay(7) == first or time.monotonic() - began > 1.5
    wait_until(lambda: sync.delay(7) != first)
    assert time.monotonic() - began >= 1.5


def test_with_replace_what_waits_gets_the_new_arguments_and_the_new_time(broker):
    sync = declare(unique=Unique(key="account", replace=True))
    first = sync.apply_async((7, 1), countdown=60)
    assert sync.apply_async((7, 2), countdown=120) == first
    (delivery,) = broker.peek("default", scheduled=True)
    assert (delivery.id, delivery.message.args) == (first.id, "[7,2]")
    assert 100 < (delivery.message.eta - datetime.now(UTC)).total_seconds() < 125
    assert sync.delay(7, 3) == first
    (delivery,) = claim(broker)
    assert (delivery.id, delivery.message.args) == (first.id, "[7,3]")


def test_what_runs_is_not_replaced_and_by_default_another_is_sent_once_it_has_begun(broker):
    sync = declare(unique=Unique(key="account", replace=True))
    first = sync.delay(7, 1)
    (delivery,) = claim(broker)
    assert sync.delay(7, 2) == first
    assert delivery.message.uniqueness.until_start
    broker.unlock([delivery.message])
    second = sync.delay(7, 3)
    assert second != first
    end(broker, delivery)
    assert sync.delay(7, 4) == second  # its lock is not the first's to let go


def test_a_cancelled_job_is_not_revived_by_another(broker):
    sync = declare(unique=Unique(replace=True))
    first = sync.apply_async((7,), countdown=60)
    control.revoke(first.id)
    sync.apply_async((7,), countdown=60)
    (delivery,) = claim(broker)
    assert (delivery.id, delivery.revoked) == (first.id, True)


def test_the_same_id_twice_is_no_second_job(broker):
    sync = declare(unique=True)
    first = sync.apply_async((7,), task_id="mine")
    assert sync.apply_async((7,), task_id="mine") == first == "mine"
    assert waiting(broker) == ["mine"]


# Transactions


def test_in_a_transaction_the_second_is_the_first(broker, database):
    sync = declare(unique=True)
    with transaction.atomic(using=database):
        first = sync.delay(7)
        second = sync.delay(7)
    assert second == first
    assert waiting(broker) == [first.id]
    with transaction.atomic(using=database):
        assert sync.delay(7) == first
    assert not Outbox.objects.exists()


def test_what_was_rolled_back_holds_nothing(broker, database):
    sync = declare(unique=True)
    with transaction.atomic(using=database):
        first = sync.delay(7)
        transaction.set_rollback(True, using=database)
    second = sync.delay(7)
    assert second != first
    assert waiting(broker) == [second.id]


def test_delay_on_commit_gives_the_handle_on_the_first(broker, database):
    sync = declare(unique=True)
    first = sync.delay(7)
    handle = sync.delay_on_commit(7)
    assert handle == first


# Declared


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"unique": "yes"}, "unique is True or djtasks.Unique"),
        ({"unique": Unique(key="acount")}, "names no argument. Its arguments: account"),
        ({"unique": Unique(key=5)}, "names arguments, or is a function"),
    ],
)
def test_what_cannot_be_unique_is_an_error_where_the_task_is_declared(options, told):
    with pytest.raises(ValueError, match=told):

        @shared_task(name="shop.tasks.strict", **options)
        def strict(account):
            pass


@pytest.mark.parametrize("options", [{"until": "end"}, {"for_": -1}, {"for_": "1h"}, {"replace": 1}])
def test_options_of_unique_that_cannot_be_are_errors(options):
    with pytest.raises(ValueError, match=r"Unique\("):
        Unique(**options)


@pytest.mark.parametrize(
    ("key", "one", "other", "same"),
    [
        (None, ((7,), {}), ((), {"account": 7}), True),
        (None, ((7,), {}), ((7, 1), {"full": False}), True),
        (None, ((7,), {}), ((7, 2), {}), False),
        (None, ((7,), {"b": 1, "a": 2}), ((7,), {"a": 2, "b": 1}), True),
        ("account", ((7, 1), {}), ((7, 2), {"full": True}), True),
        (["account", "full"], ((7, 1), {}), ((7, 2), {"full": True}), False),
        (lambda account, *rest, **more: account % 2, ((7,), {}), ((9,), {}), True),
        (None, ((1,), {}), (("1",), {}), False),
    ],
)
def test_calls_are_the_same_whatever_way_they_are_written(key, one, other, same):
    task = declare(unique=Unique(key=key))
    unique = unique_of(task)
    assert (key_of(task, unique, *one) == key_of(task, unique, *other)) is same


def test_a_key_is_short_whatever_the_name_and_tells_the_task():
    @shared_task(name="shop." + "x" * 240, unique=True)
    def long():
        pass

    message = publish.build(long.name, (), {}, {}, long)
    assert message.unique_key.startswith("shop.xxx")
    assert len(message.unique_key) <= 128


# Real processes

SEND = """
import django
django.setup()
import os, sys, time
from tests import tasks
start = time.time() + 0.5
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        try:
            time.sleep(max(0.0, start - time.time()))
            os.write(1, f"{tasks.only_one.delay(sys.argv[2]).id}\\n".encode())
        finally:
            os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


def test_many_processes_send_it_at_once_and_there_is_one(broker, settings, tmp_path):
    command = [sys.executable, "-c", SEND, str(PROCESSES), str(tmp_path / "one")]
    environment = worker_environment(dict(settings.DJTASKS))
    sent = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    told = sent.stdout.split()
    assert (len(told), len(set(told))) == (PROCESSES, 1), sent.stderr
    assert waiting(broker) == told[:1]


def test_every_way_to_end_lets_another_be_sent(start_worker, tmp_path):
    path = tmp_path / "ways"
    start_worker("-c", "1")
    for way in ("return", "fail", "retry", "ignore", "reject"):
        first = tasks.only_one.delay(str(path), way)
        wait_until(lambda: Job.objects.finished().filter(pk=first.id).exists())  # noqa: B023
        second = tasks.only_one.apply_async((str(path), way), countdown=60)
        assert second != first
        control.revoke(second.id)
        wait_until(lambda: Job.objects.filter(pk=second.id, state=states.REVOKED).exists())  # noqa: B023
        third = tasks.only_one.apply_async((str(path), way), countdown=0.01, expires=0.001)
        assert third not in (first, second)
        wait_until(lambda: Job.objects.filter(pk=third.id, state=states.REVOKED).exists())  # noqa: B023
    assert not Job.objects.exclude(unique_key=None).exists()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_canvas_runs_to_its_end_whoever_has_the_key_of_its_jobs(start_worker, tmp_path):
    path = str(tmp_path / "ways")
    holder = tasks.only_one.apply_async((path, "return"), countdown=60)
    start_worker("-c", "1")
    step = tasks.only_one.si(path, "return")
    assert chain(tasks.add.si(1, 1), step, tasks.add.si(1, 2)).delay().get(timeout=20) == 3
    assert chord([step, step], tasks.add.si(2, 2)).delay().get(timeout=20) == 4
    assert len(lines(tmp_path / "ways")) == 3
    assert tasks.only_one.delay(path, "return") == holder


def test_until_its_start_lets_one_wait_while_one_runs(start_worker, tmp_path):
    path = tmp_path / "latest"
    start_worker("-c", "1")
    first = tasks.only_latest.delay(str(path), 1, 0.5)
    wait_until(lambda: len(lines(path)) == 1)
    second = tasks.only_latest.delay(str(path), 2, 0.0)
    assert tasks.only_latest.delay(str(path), 3, 0.0) == second != first
    wait_until(lambda: Job.objects.finished().count() == 2)
    assert lines(path) == ["1", "3"]
