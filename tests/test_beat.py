"""Beat, turn by turn: what is due is sent once, whatever else happens."""

import logging
import threading
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connections, transaction

from djtasks import beat as beat_module
from djtasks import encoding, outbox, shared_task, signals, states
from djtasks.beat import Beat
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, Outbox, PeriodicTask, statements
from djtasks.periodic import tick_id
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def now(database):
    return lambda: statements.now(connections[database])


@pytest.fixture(autouse=True)
def no_breather(monkeypatch):
    """A broker that was away in another test is asked again at once."""
    monkeypatch.setattr(outbox._Breather, "until", 0.0)


@pytest.fixture
def shift(monkeypatch):
    """Set the database's clock: `shift(seconds)`, from the true time."""
    shifted = [timedelta(0)]
    now, schedules_due = statements.now, statements.schedules_due

    def at_another_time(connection, moment):
        clock, is_any = schedules_due(connection, moment)
        return clock + shifted[0], is_any

    monkeypatch.setattr(statements, "now", lambda connection: now(connection) + shifted[0])
    monkeypatch.setattr(statements, "schedules_due", at_another_time)

    def shift(seconds):
        shifted[0] = timedelta(seconds=seconds)

    return shift


def make(name="nightly", due=None, **values):
    row = PeriodicTask.objects.create(**{"name": name, "task": "a.task", "schedule": "every hour", **values})
    if due is not None:
        PeriodicTask.objects.filter(pk=row.pk).update(next_run_at=due)
    return read(name)


def read(name="nightly"):
    return PeriodicTask.objects.get(name=name)


def work_off(beat):
    """Let it look once more and do all that is to do at once."""
    beat._next_look = 0.0
    for _ in range(10_000):
        if beat.turn() > 0:
            return
    raise AssertionError("there is no end of work")


def once(beat=None):
    beat = beat or Beat()
    work_off(beat)
    return beat


def sent():
    """What waits in the queues, as (schedule, id)."""
    broker = get_broker()
    pages = [
        broker.peek(queue, offset=offset, limit=500)
        for queue, size in broker.sizes().items()
        for offset in range(0, size.ready, 500)
    ]
    return [(each.message.schedule, each.id) for page in pages for each in page]


def message():
    broker = get_broker()
    (delivery,) = [each for queue in broker.sizes() for each in broker.peek(queue)]
    return delivery.message


# Sending


def test_what_is_due_is_sent_once_with_the_id_of_its_tick(now):
    due = now() - SECOND
    make(due=due)
    beat = once()
    once(beat)
    once()
    assert sent() == [("nightly", tick_id("nightly", due))]
    row = read()
    assert (row.next_run_at, row.total_run_count, row.last_job) == (due + HOUR, 1, tick_id("nightly", due))
    assert now() - timedelta(seconds=10) < row.last_run_at <= now()


def test_a_job_knows_its_schedule_and_for_when_it_is(now):
    due = now() - SECOND
    make(due=due, args="[1]", queue="mail", priority=5)
    once()
    assert (message().queue, message().priority, message().args) == ("mail", 5, "[1]")
    headers = encoding.decode(message().headers)
    assert (headers["periodic_task_name"], headers["scheduled_for"]) == ("nightly", due.isoformat())


def test_what_is_not_due_is_not_sent_before_its_time(now):
    due = now() + 2 * SECOND
    make(due=due)
    beat = Beat()
    work_off(beat)
    assert (sent(), read().next_run_at) == ([], due)
    wait_until(lambda: beat.turn() == 0 and sent(), what="the tick")
    assert due <= now() < due + SECOND


def test_a_disabled_row_is_left_alone(now):
    row = make(due=now() - SECOND)
    row.enabled = False
    row.save()
    once()
    assert sent() == []


def test_late_ticks_are_all_sent_in_their_order(now):
    due = now().replace(microsecond=0) - 9 * SECOND
    make(due=due, schedule="* * * * * *")
    once()
    ids = [job for _, job in sent()]
    assert ids[:9] == [tick_id("nightly", due + number * SECOND) for number in range(9)]
    assert read().total_run_count == len(ids)


def test_of_our_own_housekeeping_the_log_does_not_say_that_it_was_missed(now, caplog):
    caplog.set_level(logging.INFO)
    make(due=now() - 5 * HOUR - 30 * SECOND, task="djtasks.count")
    once()
    assert len(sent()) == 1
    assert "made up for" not in caplog.text


def test_what_was_missed_is_run_once_and_the_log_says_so(now, caplog):
    make(due=now() - 5 * HOUR - 30 * SECOND)
    once()
    assert len(sent()) == 1
    assert "1 made up for, 5 left out" in caplog.text
    assert now() < read().next_run_at <= now() + HOUR


def test_thousands_that_are_due_at_once_are_all_sent(now):
    due = now() - SECOND
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"{number}", task="a.task", schedule="@yearly") for number in range(1200)
    )
    PeriodicTask.objects.update(next_run_at=due)
    once()
    assert {name for name, _ in sent()} == {f"{number}" for number in range(1200)}
    assert len(sent()) == 1200


def test_several_beats_send_each_tick_once(now, database):
    due = now().replace(microsecond=0) + 2 * SECOND
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"{number}", task="a.task", schedule="* * * * * *") for number in range(20)
    )
    PeriodicTask.objects.update(next_run_at=due)
    running = [Beat() for _ in range(4)]
    for beat in running:
        beat.start()
    try:
        wait_until(lambda: now() > due + 4.5 * SECOND, what="four seconds")
    finally:
        for beat in running:
            beat.stop()
    wait_until(lambda: not Outbox.objects.exists(), what="the last message to be sent")
    ids = [job for _, job in sent()]
    assert len(ids) == len(set(ids))
    for number in range(20):
        row = read(f"{number}")
        count = (row.next_run_at - due) // SECOND
        assert count >= 4
        assert {tick_id(row.name, due + each * SECOND) for each in range(count)} <= set(ids)
    assert len(ids) == sum(read(f"{number}").total_run_count for number in range(20))


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "redis"], indirect=True)  # SQLite has one writer
def test_a_tick_that_another_beat_is_sending_is_passed_over(now, database):
    make(due=now() - SECOND)
    make("other", due=now() - SECOND)
    with transaction.atomic(using=database):
        PeriodicTask.objects.select_for_update().get(name="nightly")
        thread = threading.Thread(target=lambda: (once(), connections.close_all()))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert [name for name, _ in sent()] == ["other"]


def test_an_edit_that_comes_between_the_look_and_the_tick_counts(now):
    due = now() + SECOND
    row = make(due=due, args="[1]")
    beat = once()
    row.args = "[2]"
    row.save()
    beat._next_look = time.monotonic() + 100
    wait_until(lambda: now() > due, what="the tick")
    beat.turn()
    assert sent() == []  # what was made ready does not count any more
    once(beat)
    assert message().args == "[2]"


def test_a_row_that_is_deleted_between_the_look_and_the_tick_is_not_sent(now):
    due = now() + SECOND
    make(due=due)
    beat = once()
    PeriodicTask.objects.all().delete()
    wait_until(lambda: now() > due, what="the tick")
    once(beat)
    assert sent() == []


def test_signals_are_sent_around_each_message(now):
    make(due=now() - SECOND)
    told = []

    def before(headers, **kwargs):
        headers["trace"] = "t"

    def after(sender, headers, **kwargs):
        told.append((sender, headers["id"]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        once()
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert encoding.decode(message().headers)["trace"] == "t"
    assert told == [("a.task", sent()[0][1])]


@pytest.mark.parametrize("signal", [signals.beat_init, signals.after_task_publish])
def test_a_receiver_that_asks_for_the_end_does_not_end_beat(now, signal, caplog):
    @signal.connect
    def leave(**kwargs):
        raise SystemExit(3)

    make(schedule="every 0.2 seconds", due=now())
    beat = Beat()
    try:
        beat.start()
        wait_until(lambda: read().total_run_count >= 3, what="three ticks")
    finally:
        beat.stop()
        signal.disconnect(leave)
    assert "asked for the end" in caplog.text


# Rows that are broken


@pytest.fixture
def route(settings):
    """A router of the user's: `route(function)`."""

    def set_router(function):
        settings.DJTASKS = {**settings.DJTASKS, "TASK_ROUTES": [function]}

    return set_router


def test_a_broken_row_says_why_and_the_others_are_sent(now, route, caplog):
    def router(name, *args, **kwargs):
        if name == "bad.task":
            raise KeyError("no such queue")

    route(router)
    for number in range(3):
        make(f"good{number}", due=now() - SECOND)
    make("bad", task="bad.task", due=now() - 2 * SECOND)
    beat = once()
    once(beat)
    assert {name for name, _ in sent()} == {"good0", "good1", "good2"}
    row = read("bad")
    assert (row.status, row.next_run_at) == ("broken", None)
    assert "no such queue" in row.problem
    assert caplog.text.count("Schedule bad is broken") == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_router_that_asks_for_the_end_breaks_its_row_alone(now, route, error):
    def router(*args, **kwargs):
        raise error

    route(router)
    make(due=now() - SECOND)
    once()
    assert read().status == "broken"


def test_the_log_names_the_schedule_for_which_a_router_does_not_come_back(now, route, monkeypatch, caplog):
    may_go = threading.Event()
    route(lambda *args, **kwargs: may_go.wait(60))
    make(due=now() + SECOND)
    beat = Beat()
    monkeypatch.setattr(beat_module, "HELD_UP", 0.2)

    def said():
        beat.say_if_held_up()
        return caplog.text.count("held up: for schedule nightly")

    try:
        beat.start()
        wait_until(said, what="a word in the log")
        assert said() == 1
    finally:
        may_go.set()
        beat.stop()


def test_a_transaction_that_a_router_leaves_open_swallows_no_ticks(now, route, database):
    def begin(*args, **kwargs):
        transaction.set_autocommit(False, using=database)

    route(begin)
    make(due=now() + SECOND)
    beat = Beat()
    try:
        beat.start()
        wait_until(lambda: read().total_run_count, what="the tick")
    finally:
        beat.stop()
    assert len(sent()) == 1


def test_a_router_whose_store_does_not_answer_lets_its_row_wait_and_no_other(now, route):
    answers = []

    def router(name, *args, **kwargs):
        if name == "asking.task" and not answers:
            raise OperationalError("the store of the routes is away")

    route(router)
    make("asking", task="asking.task", due=now() - 2 * SECOND)
    make(due=now() - SECOND)
    beat = once()
    assert [name for name, _ in sent()] == ["nightly"]
    assert read("asking").status == "live"
    answers.append(True)
    once(beat)
    assert {name for name, _ in sent()} == {"nightly", "asking"}


def test_a_message_that_is_too_large_breaks_its_row(now, settings):
    settings.DJTASKS = {**settings.DJTASKS, "MAX_MESSAGE_BYTES": 1000}
    make("large", args=encoding.encode(["x" * 2000]), due=now() - SECOND)
    make(due=now() - SECOND)
    once()
    assert [name for name, _ in sent()] == ["nightly"]
    assert "MessageTooLarge" in read("large").problem


@pytest.mark.parametrize("error", [ValueError("no value for a column"), OverflowError("too large a number")])
def test_of_a_portion_that_the_database_refuses_only_the_poisonous_row_is_broken(now, monkeypatch, error):
    make("poison", queue="poison", due=now() - SECOND)
    make(due=now() - SECOND)
    true = outbox.send

    def send(messages, **options):
        if any(each.queue == "poison" for each in messages):
            raise error
        return true(messages, **options)

    monkeypatch.setattr(outbox, "send", send)
    once()
    assert [name for name, _ in sent()] == ["nightly"]
    assert (read("poison").status, read().status) == ("broken", "live")
    assert read("poison").total_run_count == 0


def test_an_edit_cures_a_broken_row(now, route):
    def router(*args, **kwargs):
        raise KeyError

    route(router)
    make(due=now() - SECOND)
    beat = once()
    route(lambda *args, **kwargs: None)
    row = read()
    row.queue = "other"
    row.save()
    PeriodicTask.objects.update(next_run_at=now() - SECOND)
    once(beat)
    assert [name for name, _ in sent()] == ["nightly"]


def test_a_beat_that_starts_gives_broken_rows_another_chance(now):
    make()
    PeriodicTask.objects.update(problem="a router that is cured by now", next_run_at=None)
    once()
    assert read().status == "live"
    assert read().next_run_at > now()


def test_an_unknown_task_is_no_problem_of_the_row(now):
    make(task="nobody.knows", due=now() - SECOND)
    once()
    assert len(sent()) == 1
    assert read().status == "live"


# Limits


def test_what_runs_only_once_is_disabled_after_it(now):
    make(one_off=True, due=now() - SECOND)
    once()
    assert len(sent()) == 1
    row = read()
    assert (row.enabled, row.next_run_at, row.status) == (False, None, "disabled")


def test_a_row_ends_with_its_last_run(now):
    make(max_runs=3, total_run_count=1, schedule="* * * * * *", due=now().replace(microsecond=0) - 5 * SECOND)
    once()
    assert len(sent()) == 2
    assert (read().status, read().total_run_count) == ("ended", 3)


def test_jitter_puts_a_job_off_and_not_the_next_tick(now):
    due = now() - SECOND
    make(jitter=3600, due=due)
    once()
    broker = get_broker()
    (delivery,) = [each for queue in broker.sizes() for each in broker.peek(queue, scheduled=True)]
    assert due < delivery.message.eta < due + 2 * HOUR
    assert read().next_run_at == due + HOUR


def test_a_job_expires_so_many_seconds_after_its_tick(now):
    due = now() - SECOND
    make(expires=90, due=due)
    once()
    assert message().expires_at == due + 90 * SECOND


# Overlap


def finish(job_id):
    """Let a worker run the job that waits."""
    broker = get_broker()
    (delivery,) = broker.claim("default", limit=1, worker="w.0")
    assert delivery.id == job_id
    Job.objects.filter(pk=job_id).update(state=states.SUCCESS)
    broker.ack([delivery])


def test_a_tick_is_passed_over_while_the_last_job_has_not_ended(now):
    due = now() - SECOND
    make(overlap=False, due=due)
    beat = once()
    PeriodicTask.objects.update(next_run_at=due + SECOND / 2)
    once(beat)
    assert sent() == [("nightly", tick_id("nightly", due))]
    row = read()
    assert (row.next_run_at, row.total_run_count, row.last_job) == (due + SECOND / 2 + HOUR, 1, sent()[0][1])
    finish(row.last_job)
    PeriodicTask.objects.update(next_run_at=due + 3 * SECOND / 4)
    once(beat)
    assert sent() == [("nightly", tick_id("nightly", due + 3 * SECOND / 4))]


def test_a_job_that_runs_counts_as_the_last_one(now):
    make(overlap=False, due=now() - SECOND)
    once()
    (delivery,) = get_broker().claim("default", limit=1, worker="w.0")
    Job.objects.filter(pk=delivery.id).update(state=states.STARTED)
    PeriodicTask.objects.update(next_run_at=now() - SECOND / 2)
    once()
    assert sent() == []
    assert read().total_run_count == 1


def test_a_passed_tick_does_not_use_up_a_row_that_runs_once(now):
    make(overlap=False, one_off=True, due=now() - SECOND)
    once()
    PeriodicTask.objects.update(enabled=True)
    PeriodicTask.objects.update(next_run_at=now() - SECOND)
    once()
    assert len(sent()) == 1
    assert read().status == "live"


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_without_redis_no_more_than_what_may_not_overlap_has_to_wait(now, database, monkeypatch):
    broker = get_broker()
    make(due=now() - SECOND)
    make("alone", overlap=False, last_job="j", due=now() - SECOND)

    def known(ids):
        raise BrokerUnavailable("away")

    monkeypatch.setattr(broker, "known", known)
    beat = once()
    assert [name for name, _ in sent()] == ["nightly"]
    monkeypatch.undo()
    once(beat)
    assert {name for name, _ in sent()} == {"nightly", "alone"}


# Redis


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_without_redis_ticks_go_by_the_outbox(now, database, monkeypatch):
    broker = get_broker()
    make(due=now() - SECOND)

    def enqueue(messages):
        raise BrokerUnavailable("away")

    monkeypatch.setattr(broker, "enqueue", enqueue)
    once()
    monkeypatch.undo()
    assert sent() == []
    assert read().total_run_count == 1
    outbox.resend(outbox.unsent())
    assert sent() == [("nightly", read().last_job)]


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_tick_is_marked_as_one_that_may_have_been_sent_before(now, database):
    make(due=now() - SECOND)
    once()
    assert message().check


# The clock


def test_after_a_leap_of_the_clock_missed_ticks_are_caught_up_with_and_no_more(now, shift):
    make(schedule="* * * * * *")
    beat = once()
    shift(7200)
    once(beat)
    late = read().total_run_count
    assert 15 <= late <= 18
    assert len(sent()) == late


def test_an_interval_goes_on_from_now_if_the_clock_is_set_back(now, shift, caplog):
    shift(7200)
    make(schedule="every 30 seconds")
    beat = once()
    shift(0)
    once(beat)
    assert now() < read().next_run_at <= now() + 30 * SECOND
    assert "The clock was set back: 1 schedule(s)" in caplog.text
    assert sent() == []


def test_a_crontab_waits_if_the_clock_is_set_back_a_little(now, shift):
    shift(7200)
    make(schedule="* * * * *")
    beat = once()
    before = read().next_run_at
    shift(0)
    once(beat)
    assert read().next_run_at == before


def test_a_crontab_does_not_wait_for_hours(now, shift):
    shift(4 * 3600)
    make(schedule="* * * * *")
    beat = once()
    shift(0)
    once(beat)
    assert now() < read().next_run_at <= now() + 60 * SECOND


def test_a_clock_that_was_set_back_while_no_beat_ran_is_noticed(now, shift):
    shift(4 * 3600)
    make(schedule="every 30 seconds", last_run_at=now())
    shift(0)
    once()
    assert now() < read().next_run_at <= now() + 30 * SECOND
    assert read().last_run_at <= now()


def test_a_row_that_cannot_be_read_stops_no_other_if_the_clock_is_set_back(now, shift):
    make("garbage", due=now() - SECOND)
    PeriodicTask.objects.filter(name="garbage")._write(
        read("garbage").pk, schedule="garbage", changed_at=now() + 4 * HOUR
    )
    make(due=now() - SECOND)
    once()
    assert [name for name, _ in sent()] == ["nightly"]
    assert read("garbage").status == "broken"


# Trouble


def test_beat_goes_on_after_the_database_was_away(now, monkeypatch, caplog):
    make(due=now() - SECOND)
    beat = Beat()
    true = statements.schedules_due

    def away(connection, moment):
        raise OperationalError("away")

    monkeypatch.setattr(statements, "schedules_due", away)
    assert 0 <= beat.turn() < 1
    beat.turn()
    assert caplog.text.count("Beat gets no answer") == 1
    monkeypatch.setattr(statements, "schedules_due", true)
    once(beat)
    assert len(sent()) == 1


def test_beat_goes_on_after_an_error_that_nobody_expected(now, monkeypatch, caplog):
    make(due=now() - SECOND)
    beat = Beat()
    monkeypatch.setattr(beat_module, "turn_of", None)
    monkeypatch.setattr(beat, "_make_ready", lambda: 1 / 0)
    work_off(beat)
    assert "Beat stumbled" in caplog.text
    monkeypatch.undo()
    once(beat)
    assert len(sent()) == 1


def test_a_send_whose_transaction_is_rolled_back_is_made_again(now, monkeypatch):
    due = now() - SECOND
    make(due=due)
    beat = Beat()
    true = outbox.send
    failures = [OperationalError("deadlock"), None]

    def send(messages, **options):
        true(messages, **options)
        if failure := failures.pop(0):
            raise failure

    monkeypatch.setattr(outbox, "send", send)
    work_off(beat)
    assert (sent(), read().next_run_at) == ([], due)
    once(beat)
    assert sent() == [("nightly", tick_id("nightly", due))]


def test_beat_says_when_it_last_looked(now):
    beat = Beat()
    assert beat.woke_at is None
    before = now()
    once(beat)
    assert before - SECOND < beat.woke_at <= now() + SECOND


def test_beat_init_is_sent_when_it_starts(database):
    heard = []
    signals.beat_init.connect(lambda sender, **kwargs: heard.append(sender), dispatch_uid="test")
    beat = Beat()
    try:
        beat.start()
        wait_until(lambda: beat.woke_at, what="the first look")
    finally:
        beat.stop()
        signals.beat_init.disconnect(dispatch_uid="test")
    assert heard == [beat]


def test_a_few_thousand_rows_cost_one_query_a_look(now, database, django_assert_max_num_queries):
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"{number}", task="a.task", schedule="@yearly") for number in range(3000)
    )
    beat = once()
    with django_assert_max_num_queries(2, connection=connections[database]):  # one of them asks for the time
        once(beat)


def test_the_log_names_what_is_sent(now, caplog):
    caplog.set_level(logging.INFO, "djtasks.beat")
    make(due=now() - SECOND)
    once()
    assert "Sent the jobs of nightly" in caplog.text


def test_a_task_of_this_site_is_run_like_any_other(now, own_tasks):
    @shared_task
    def add(a, b):
        return a + b

    make(task=add.name, args="[1, 2]", due=now() - SECOND)
    once()
    assert message().task == add.name
