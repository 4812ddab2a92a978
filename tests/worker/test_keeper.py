"""The keeper's own judgement: who is lost."""

from datetime import timedelta
from math import inf

import pytest
from django.db import connections
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from djtasks import control, outbox, states
from djtasks.brokers import get_broker
from djtasks.brokers.base import Loss
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Message, new_id
from djtasks.models import Job, Outbox, Worker
from djtasks.models.fields import utc_now
from djtasks.worker import keeper as keeper_module
from djtasks.worker import ledger as ledger_module
from djtasks.worker import watch as watch_module
from djtasks.worker.keeper import Keeper
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots
from djtasks.worker.watch import Watch
from tests.conftest import empty_redis, wait_until

pytestmark = pytest.mark.every_broker


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        sleep = staticmethod(lambda seconds: None)

    clock = Clock()
    monkeypatch.setattr(keeper_module, "time", clock)
    monkeypatch.setattr(watch_module, "time", clock)
    return clock


def looks(watch, clock, standing, seconds, step=1.0):
    """Look once a `step` for `seconds`; the last answer."""
    found = []
    for _ in range(int(seconds / step)):
        clock.now += step
        found = watch.look(standing)
    return found


def test_one_that_does_not_move_is_lost_after_the_patience(clock):
    watch = Watch(10.0)
    assert looks(watch, clock, {"a": 1}, 10) == []
    assert looks(watch, clock, {"a": 1}, 1) == ["a"]


def test_one_that_moves_is_not(clock):
    watch = Watch(10.0)
    for beat in range(30):
        assert looks(watch, clock, {"a": beat}, 1) == []


def test_a_gap_in_looking_restarts_the_watch(clock):
    watch = Watch(10.0)
    looks(watch, clock, {"a": 1}, 8)
    clock.now += 60.0
    assert watch.look({"a": 1}) == []
    assert looks(watch, clock, {"a": 1}, 9) == []


def test_an_error_restarts_the_watch(clock):
    watch = Watch(10.0)
    looks(watch, clock, {"a": 1}, 9)
    watch.restart()
    assert looks(watch, clock, {"a": 1}, 9) == []


def test_one_that_left_is_forgotten(clock):
    watch = Watch(10.0)
    looks(watch, clock, {"a": 1}, 9)
    watch.look({})
    assert looks(watch, clock, {"a": 1}, 9) == []


@pytest.fixture
def keeper(database):
    return Keeper("w", 0, Slots(1), WorkerOptions(hostname="here"), say=lambda word: None)


def finished_job(days_ago, **fields):
    return Job.objects.create(
        task="some.task",
        queue="default",
        state=fields.pop("state", states.SUCCESS),
        finished_at=utc_now() - timedelta(days=days_ago),
        **fields,
    )


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_keeper_gives_a_slow_database_as_much_time_as_it_has_needed(keeper):
    keeper.turn()
    waiting = keeper._waiting
    waiting._times = 4
    with waiting.asking():
        keeper._next = {}
        keeper._every("something", 1.0, lambda: None)  # nothing has been answered yet
        assert waiting._times == 4


def test_a_keeper_registers_its_worker_and_beats_for_it(keeper):
    keeper.turn()
    worker = Worker.objects.get(pk="w")
    assert (worker.hostname, worker.beat, worker.is_live) == ("here", 1, True)
    assert keeper.slots.beat_age() < 5
    keeper.finish()
    assert not Worker.objects.get(pk="w").is_live


def test_a_keeper_whose_worker_was_declared_lost_says_so(database):
    words = []
    keeper = Keeper("w", 0, Slots(1), WorkerOptions(), say=words.append)
    keeper.turn()
    get_broker().rescue([Loss("w", known=False, beat=1)], rescuer="other")
    keeper._next.clear()
    keeper.turn()
    assert {"lost": "w"} in words


def test_a_keeper_without_work_looks_at_the_tables_by_one_question(keeper):
    keeper.turn()
    with CaptureQueriesContext(connections[settings.DATABASE]) as queries:
        keeper._look()
    assert len([each["sql"] for each in queries if "djtasks_job" in each["sql"]]) == 1
    assert len(queries) == (2 if keeper.broker.transactional else 1)  # with the beats


def test_what_a_keeper_has_to_do_at_about_the_same_time_takes_one_turn(keeper, clock):
    """Else an idle worker would wake for each of it."""
    periods = {"often": keeper_module.SCHEDULED_EVERY, "now and then": 1.0, "seldom": 5.0}
    keeper._began = clock.now
    for name, seconds in periods.items():
        keeper._every(name, seconds, lambda: None)
        clock.now += 0.08  # each takes its time at first
    turns, done = 0, []
    end = keeper._began + 10
    while (soonest := min(keeper._next.values())) < end:
        clock.now = soonest + 0.001
        turns += 1
        for name, seconds in periods.items():
            keeper._every(name, seconds, lambda name=name: done.append(name))
    assert (turns, done.count("now and then"), done.count("seldom")) == (39, 9, 1)


def test_a_keeper_rests_until_the_next_scheduled_job_is_due_but_never_long(keeper, clock):
    keeper._began = keeper._worked = clock.now
    turn_until_rested(keeper)
    assert keeper.pause() == keeper_module.SCHEDULED_EVERY

    def rests_until_it_is_due():  # or it was due before the keeper looked, which a busy machine can bring about
        keeper.broker.enqueue([Message(id=new_id(), task="some.task", countdown=0.2)])
        keeper._next["promote"] = 0.0
        keeper.turn()
        return keeper.pause() <= 0.2

    wait_until(rests_until_it_is_due)

    def claimed():
        clock.now += keeper.pause()
        keeper.turn()
        return keeper.broker.claim("default", limit=1, worker="one")

    wait_until(claimed)


def test_a_keeper_of_a_worker_that_has_run_nothing_for_a_while_rests_longer(keeper, clock):
    keeper._began = keeper._worked = clock.now
    turn_until_rested(keeper)
    clock.now += keeper_module.CALM_AFTER
    keeper.turn()
    assert keeper.pause() == keeper_module.CALM_EVERY
    keeper.slots.clear(0)
    keeper.turn()
    assert keeper.pause() <= keeper_module.SCHEDULED_EVERY


def turn_until_rested(keeper):
    """Turn until nothing but looking out for scheduled jobs is due."""
    keeper.turn()
    keeper._next = {name: inf for name in keeper._next if name != "promote"}
    keeper.turn()


def test_leases_that_appear_after_their_childs_death_are_given_back(database, clock):
    """A server may finish a claim whose client was killed meanwhile."""
    slots = Slots(1)
    slots.give(0, "w.1")
    keeper = Keeper("w", 0, slots, WorkerOptions(), say=lambda word: None)
    keeper.turn()
    keeper.broker.enqueue([Message(id="living", task="some.task"), Message(id="late", task="some.task")])
    keeper.broker.claim("default", limit=1, worker="w.1")
    keeper.broker.claim("default", limit=1, worker="w.0")
    for _ in range(5):
        clock.now += 1.0
        keeper.turn()
    (again,) = keeper.broker.claim("default", limit=9, worker="two")
    assert (again.id, again.losses) == ("late", 0)


def test_jobs_that_must_not_run_again_are_ended_however_slow_the_store_is(keeper, monkeypatch):
    """The keeper commits what it records itself: it must never wait for room."""
    monkeypatch.setattr(ledger_module, "LONGEST_LAG", -1.0)
    keeper.turn()
    keeper.broker.enqueue([Message(id=f"early {number}", task="some.task") for number in range(3)])
    deliveries = keeper.broker.claim("default", limit=3, worker="gone.1")
    keeper.broker.start(deliveries)
    keeper._losses.append(Loss("gone.1", known=False))
    keeper.turn()
    assert set(Job.objects.values_list("state", "exception")) == {
        (states.FAILURE, "djtasks.exceptions.WorkerLostError")
    }


def test_a_row_that_cannot_be_rescued_holds_up_no_other(keeper, monkeypatch):
    keeper.turn()
    keeper.broker.enqueue([Message(id="a", task="some.task"), Message(id="b", task="some.task")])
    keeper.broker.claim("default", limit=1, worker="gone.1")
    keeper.broker.claim("default", limit=1, worker="gone.2")
    real = keeper.broker.rescue

    def rescue(losses, *, rescuer):
        if losses[0].worker == "gone.1":
            raise TypeError("a broken row")
        return real(losses, rescuer=rescuer)

    monkeypatch.setattr(keeper.broker, "rescue", rescue)
    monkeypatch.setattr(keeper_module, "STUMBLE_PAUSE", 0.0)
    keeper._losses += [Loss("gone.1"), Loss("gone.2")]
    keeper.turn()
    keeper.turn()
    assert [each.id for each in keeper.broker.claim("default", limit=9, worker="two")] == ["b"]


def test_leases_without_a_living_worker_go_back_after_the_patience(keeper, monkeypatch, clock):
    keeper.turn()
    keeper.broker.enqueue([Message(id="orphan", task="some.task")])
    keeper.broker.claim("default", limit=1, worker="gone.1")
    for _ in range(10):
        clock.now += 1.0
        keeper.turn()
    assert keeper.broker.peek("default") == []
    clock.now += 1.0
    keeper.turn()
    clock.now += 1.0
    keeper.turn()
    assert [(each.id, each.losses) for each in keeper.broker.peek("default")] == [("orphan", 1)]


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_worker_that_never_gets_to_the_broker_is_lost_after_the_patience(keeper, clock):
    Worker.objects.create(pk="other", hostname="other", pid=1, queues="null", pool="prefork", concurrency=1)
    for _ in range(12):
        clock.now += 1.0
        keeper.turn()
    assert not Worker.objects.get(pk="other").is_live
    assert Worker.objects.get(pk="w").is_live


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_worker_signs_off_even_if_the_broker_is_away(keeper, monkeypatch):
    keeper.turn()

    def refuse():
        raise BrokerUnavailable("nobody there")

    monkeypatch.setattr(keeper.broker, "owners", refuse)
    keeper.finish()
    assert not Worker.objects.get(pk="w").is_live


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_what_waits_by_its_row_is_sent_to_a_broker_that_knows_nothing_of_it_a_batch_a_turn(keeper, monkeypatch):
    """So it is after a flush, and when a site changes from the database to Redis."""
    monkeypatch.setattr(keeper_module, "BATCH", 2)
    for number in range(5):
        Job.objects.create(id=f"row {number}", task="some.task", queue="default", priority=3, args="[1]", token=number)
    Job.objects.create(id="done", task="some.task", queue="default", state=states.SUCCESS)
    keeper.turn()
    assert len(keeper.broker.peek("default")) == 2
    for _ in range(3):
        keeper.turn()
    assert [(each.id, each.message.check, each.token) for each in keeper.broker.peek("default")] == [
        (f"row {number}", True, number) for number in range(5)
    ]
    assert not keeper.broker.has_forgotten()


# What Redis does not take, or does not know


in_redis = pytest.mark.parametrize("database", ["redis"], indirect=True)


def turns(keeper, clock, seconds):
    for _ in range(seconds):
        clock.now += 1.0
        keeper.turn()


def beat_of(worker):
    return Worker.objects.get(pk=worker).beat


def is_full(messages):
    raise BrokerUnavailable("OOM command not allowed")


def waiting_row(pk, **columns):
    return Job.objects.create(id=pk, task="some.task", queue="default", **columns)


def written(pk, **columns):
    return Outbox.objects.create(id=pk, message=Message(id=pk, task="some.task").to_json(), **columns)


@in_redis
@pytest.mark.parametrize("leave", [written, waiting_row])
def test_a_broker_that_takes_no_new_jobs_does_not_stop_the_watch(keeper, clock, monkeypatch, leave):
    broker = keeper.broker
    broker.enqueue([Message(id="leased", task="some.task")])
    broker.claim("default", limit=1, worker="gone.1")
    broker.beat(["gone"])
    leave("unsent")
    with monkeypatch.context() as patch:
        patch.setattr(broker, "enqueue", is_full)
        turns(keeper, clock, 14)
        assert [(each.id, each.losses) for each in broker.peek("default")] == [("leased", 1)]
        before = beat_of("w")
        turns(keeper, clock, 4)
        assert beat_of("w") > before
    turns(keeper, clock, 7)
    assert [each.id for each in broker.peek("default")] == ["leased", "unsent"]
    assert not Outbox.objects.exists()


@in_redis
def test_what_was_written_long_ago_and_committed_just_now_is_not_sent_twice(keeper, clock):
    row = written("long", created_at=utc_now() - timedelta(hours=1))
    turns(keeper, clock, 5)
    assert keeper.broker.peek("default") == []
    outbox._send_written([outbox._Row(row.pk, [Message.from_json(row.message)])])  # as its own process does
    turns(keeper, clock, 10)
    assert [each.message.check for each in keeper.broker.peek("default")] == [False]


@in_redis
def test_a_long_outbox_is_sent_in_portions_between_the_beats(keeper, clock, settings):
    settings.DJTASKS = {**settings.DJTASKS, "WORKER_HEARTBEAT": 1.0}
    keeper.turn()
    message = Message(id="", task="some.task").to_json()
    Outbox.objects.bulk_create(
        Outbox(id=f"{number:04}", message=message.replace('"id":""', f'"id":"{number:04}"')) for number in range(5000)
    )
    turns(keeper, clock, 6)
    before, left = beat_of("w"), []
    for _ in range(3):
        left.append(Outbox.objects.count())
        turns(keeper, clock, 1)
    assert (left, Outbox.objects.count()) == ([3000, 1000, 0], 0)
    assert beat_of("w") == before + 3
    assert keeper.broker.sizes()["default"].ready == 5000


@in_redis
def test_a_worker_that_beats_in_the_database_alone_is_not_taken_for_dead(keeper, clock):
    """It is one of another broker, as while a site changes from one to the other."""
    Worker.objects.create(pk="other", hostname="other", pid=1, queues="null", pool="prefork", concurrency=1)
    waiting_row("x", state=states.STARTED, worker="other.1", token=1)
    for _ in range(15):
        Worker.objects.filter(pk="other").update(beat=F("beat") + 1)
        turns(keeper, clock, 1)
    assert (Job.objects.get(pk="x").state, Worker.objects.get(pk="other").is_live) == (states.STARTED, True)
    turns(keeper, clock, 13)
    assert (Job.objects.get(pk="x").state, Worker.objects.get(pk="other").is_live) == (states.PENDING, False)
    assert [each.id for each in keeper.broker.peek("default")] == ["x"]


@in_redis
def test_what_a_dead_process_ran_is_sent_later_if_the_broker_has_forgotten_it_and_takes_nothing_now(
    keeper, clock, monkeypatch
):
    monkeypatch.setattr(outbox._Breather, "until", 0.0)
    waiting_row("x", state=states.STARTED, worker="gone.1", token=2, retries=1)
    turns(keeper, clock, 1)
    with monkeypatch.context() as patch:
        patch.setattr(keeper.broker, "enqueue", is_full)
        keeper._losses.append(Loss("gone.1"))
        turns(keeper, clock, 2)
        assert (Job.objects.get(pk="x").state, keeper._losses) == (states.PENDING, [])
    turns(keeper, clock, 7)
    assert [(each.id, each.token, each.message.retries) for each in keeper.broker.peek("default")] == [("x", 2, 1)]


@in_redis
@pytest.mark.parametrize("flush_first", [True, False])
def test_a_job_that_waits_for_its_retry_stays_revoked_though_the_broker_was_flushed(keeper, settings, flush_first):
    waiting_row("x", state=states.RETRY, run_at=utc_now() + timedelta(hours=1), retries=1, token=1)
    keeper.broker.enqueue([Message(id="x", task="some.task", retries=1, countdown=3600, claims=1)])
    acts = [lambda: empty_redis(settings.DJTASKS["BROKER_URL"]), lambda: control.revoke("x")]
    answers = [act() for act in (acts if flush_first else reversed(acts))]
    assert 1 in answers
    keeper.turn()
    (delivery,) = keeper.broker.claim("default", limit=9, worker="w.1")
    assert (delivery.id, delivery.revoked, delivery.token) == ("x", True, 2)
