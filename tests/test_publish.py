"""The one door in: options, transactions, signals, and what is refused at the caller."""

import json
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum

import pytest
from django.db import models, transaction
from django.utils import timezone

from djtasks import publish, send_task, shared_task, signals
from djtasks.exceptions import MessageTooLarge
from djtasks.message import Message
from djtasks.models import Job
from djtasks.testing import run_jobs
from tests import tasks
from tests.executing import execute

pytestmark = pytest.mark.usefixtures("own_tasks")

SOON = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Undone(Exception):
    pass


def build(**options):
    return publish.build("some.task", (1,), {"x": 2}, options)


def ids():
    return set(Job.objects.values_list("pk", flat=True))


# Transactions


def test_a_job_sent_in_a_transaction_exists_with_its_commit(database):
    with transaction.atomic(using=database):
        result = tasks.add.delay(1, 2)
        assert ids() == {result.id}
    run_jobs()
    assert result.get(timeout=0) == 3


def test_a_job_sent_in_a_transaction_that_rolls_back_was_never_sent(database):
    with suppress(Undone), transaction.atomic(using=database):
        tasks.add.delay(1, 2)
        raise Undone
    assert ids() == set()


def test_a_savepoint_takes_its_own_jobs_with_it_and_no_others(database):
    with transaction.atomic(using=database):
        before = tasks.add.delay(1, 1)
        with suppress(Undone), transaction.atomic(using=database):
            tasks.add.delay(2, 2)
            with transaction.atomic(using=database):
                tasks.add.enqueue_many([(3, 3), (4, 4)])
            raise Undone
        with transaction.atomic(using=database):
            kept = tasks.add.delay(5, 5)
        after = tasks.add.delay(6, 6)
    assert ids() == {before.id, kept.id, after.id}


def test_a_savepoint_that_is_kept_goes_with_the_transaction_around_it(database):
    with suppress(Undone), transaction.atomic(using=database):
        with transaction.atomic(using=database):
            tasks.add.delay(1, 1)
        raise Undone
    assert ids() == set()


def test_delay_on_commit_sends_after_the_commit_and_not_after_a_roll_back(transactional_db):
    with transaction.atomic():
        result = tasks.add.delay_on_commit(1, 2)
        assert ids() == set()
        with pytest.raises(RuntimeError, match="has not committed"):
            result.get(timeout=5)
    assert ids() == {result.id}
    with suppress(Undone), transaction.atomic():
        tasks.add.delay_on_commit(3, 4)
        raise Undone
    assert ids() == {result.id}


def test_delay_on_commit_outside_of_a_transaction_sends_at_once_and_checks_its_arguments(transactional_db):
    with pytest.raises(TypeError, match="missing a required argument"):
        tasks.add.delay_on_commit(1)
    result = tasks.add.delay_on_commit(1, 2)
    assert ids() == {result.id}


# Times


def test_a_countdown_travels_as_a_duration():
    assert build(countdown=2.5).countdown == 2.5
    assert build(countdown=timedelta(minutes=1)).countdown == 60


def test_countdown_eta_and_expires_stand_in_the_row(database):
    countdown = Job.objects.get(pk=tasks.add.apply_async((1, 2), countdown=60, expires=90).id)
    eta = Job.objects.get(pk=tasks.add.apply_async((1, 2), eta=SOON, expires=SOON).id)
    assert (countdown.state, eta.state) == ("SCHEDULED", "SCHEDULED")
    assert abs((countdown.run_at - countdown.created_at).total_seconds() - 60) < 0.01
    assert abs((countdown.expires_at - countdown.created_at).total_seconds() - 90) < 0.01
    assert (eta.run_at, eta.expires_at) == (SOON, SOON)


def test_both_eta_and_countdown_are_refused():
    with pytest.raises(ValueError, match="either eta or countdown, not both"):
        build(eta=SOON, countdown=1)


@pytest.mark.parametrize("name", ["eta", "expires"])
def test_a_naive_time_is_refused_under_use_tz(name):
    with pytest.raises(ValueError, match="is naive, and USE_TZ is True: pass an aware time"):
        build(**{name: datetime(2030, 1, 1)})


def test_a_naive_time_is_local_time_without_use_tz(settings):
    settings.USE_TZ = False
    message = build(eta=datetime(2030, 7, 1, 12), expires=datetime(2030, 1, 1, 12))
    assert message.eta == datetime(2030, 7, 1, 10, tzinfo=UTC)
    assert message.expires_at == datetime(2030, 1, 1, 11, tzinfo=UTC)


def test_an_aware_time_is_itself_without_use_tz(settings):
    settings.USE_TZ = False
    assert build(eta=SOON).eta == SOON


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 5}, "eta must be a datetime, not 5; for a number of seconds there is countdown"),
        ({"countdown": "5"}, "countdown must be a number of seconds or a timedelta, not '5'"),
        ({"countdown": True}, "countdown must be a number of seconds"),
        ({"countdown": float("nan")}, "countdown must be at most 100 years"),
        ({"countdown": float("inf")}, "countdown must be at most 100 years"),
        ({"expires": timedelta(days=50_000)}, "expires must be at most 100 years"),
        ({"expires": "tomorrow"}, "expires must be a number of seconds"),
    ],
    ids=str,
)
def test_a_time_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_time_of_the_past_means_now(database):
    for options in ({"countdown": -5}, {"eta": timezone.now() - timedelta(days=1)}):
        assert Job.objects.get(pk=tasks.add.apply_async((1, 2), **options).id).state == "PENDING"


# Priorities, queues, names


@pytest.mark.parametrize("priority", [-100, 0, 9, 100])
def test_a_priority_is_a_whole_number_from_minus_to_plus_a_hundred(priority):
    assert build(priority=priority).priority == priority


@pytest.mark.parametrize("priority", [-101, 101, 1.5, "5", True])
def test_another_priority_is_refused(priority):
    with pytest.raises(ValueError, match="priority must be a whole number from -100 to 100"):
        build(priority=priority)


def test_a_queue_name_may_be_of_any_script(database):
    result = tasks.add.apply_async((1, 2), queue="Größe 图 #1")
    run_jobs("Größe 图 #1")
    assert (result.get(timeout=0), result.queue) == (3, "Größe 图 #1")


@pytest.mark.parametrize("queue", ["", "x" * 129, "a\nb", "a\0b", 5])
def test_a_queue_name_that_no_row_could_hold_is_refused(queue):
    if queue == "":
        assert build(queue=queue).queue == "default"
        return
    with pytest.raises(ValueError, match="queue must be 1 to 128 printable characters"):
        build(queue=queue)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\0b", None])
def test_a_task_name_that_no_row_could_hold_is_refused(name):
    with pytest.raises(ValueError, match="The task name must be 1 to 255 printable characters"):
        send_task(name)


class Urgency(IntEnum):
    HIGH = 9


class Lane(str, Enum):  # noqa: UP042 - as older code has it; its own str() is not its value
    MAIL = "mail"


class Choice(models.TextChoices):
    MAIL = "mail"


@pytest.mark.parametrize("lane", [Lane.MAIL, Choice.MAIL])
def test_members_of_enums_stand_for_their_values(database, lane):
    tasks.add.enqueue_many([(1, 2), (3, 4)], queue=lane, priority=Urgency.HIGH)
    tasks.add.apply_async((1, 2), queue=lane, priority=Urgency.HIGH, task_id=lane)
    assert set(Job.objects.values_list("queue", "priority", "rank")) == {("mail", 9, -9)}
    assert Job.objects.filter(pk="mail").exists()


# Ids


def test_an_id_is_a_uuid_of_version_7_unless_one_is_given():
    first, second = build(), build()
    assert uuid.UUID(first.id).version == 7
    assert first.id < second.id
    assert not first.check


@pytest.mark.parametrize("task_id", ["x", "order-17", "A" * 64, "with space", uuid.UUID(int=7), 5])
def test_an_own_id_is_up_to_64_ascii_characters(task_id):
    message = build(task_id=task_id)
    assert message.id == str(task_id)
    assert message.check


@pytest.mark.parametrize("task_id", ["", "A" * 65, "ü", "a\nb", " a", "a ", "a\0"])
def test_another_id_is_refused(task_id):
    with pytest.raises(ValueError, match="task_id must be 1 to 64 printable ASCII characters"):
        build(task_id=task_id)


def test_a_taken_id_sends_nothing_more_even_after_its_job_has_ended(database):
    first = tasks.add.apply_async((1, 2), task_id="order-17")
    tasks.add.apply_async((5, 5), task_id="order-17")
    run_jobs()
    again = tasks.add.apply_async((7, 7), task_id="order-17")
    assert run_jobs() == 0
    assert (first.get(timeout=0), again.get(timeout=0)) == (3, 3)


# Options


@pytest.mark.parametrize(
    ("name", "hint"), [("contdown", "'countdown'"), ("que", "'queue'"), ("taskid", "'task_id'"), ("zzz", None)]
)
def test_an_unknown_option_is_a_type_error_that_names_the_nearest(name, hint):
    expected = f"There is no option '{name}' of a job." + (f" Did you mean {hint}?" if hint else "")
    for call in (tasks.add.apply_async, tasks.add.apply):
        with pytest.raises(TypeError) as caught:
            call((1, 2), **{name: 3})
        assert str(caught.value) == expected
    with pytest.raises(TypeError, match=f"no option '{name}'"):
        send_task("some.task", **{name: 3})
    with pytest.raises(TypeError, match=f"no option '{name}'"):
        tasks.add.enqueue_many([(1, 2)], **{name: 3})


def test_options_of_celery_that_mean_nothing_here_are_taken():
    harmless = {
        "add_to_parent": False,
        "compression": "zlib",
        "connection": None,
        "exchange": "x",
        "group_id": "g",
        "link": None,
        "link_error": [],
        "producer": None,
        "retry": True,
        "retry_policy": {"max_retries": 3},
        "routing_key": "x",
        "serializer": "json",
        "throw": False,
        "using": None,
    }
    assert build(**harmless).options == "{}"


@pytest.mark.parametrize("name", ["link", "link_error"])
@pytest.mark.parametrize("callback", ["something", 42, {"no": "task"}])
def test_a_callback_that_is_no_signature_is_refused(name, callback):
    with pytest.raises(TypeError, match="This is no signature"):
        build(**{name: [callback]})


def test_callbacks_travel_as_signatures_without_what_is_empty():
    options = json.loads(build(link=tasks.add.s(1), link_error=[tasks.noop, tasks.noop.si()]).options)
    assert options == {
        "link": [{"task": "tests.tasks.add", "args": [1]}],
        "link_error": [{"task": "tests.tasks.noop"}, {"task": "tests.tasks.noop", "immutable": True}],
    }


def test_an_option_of_none_is_none_given():
    names = ("countdown", "eta", "expires", "queue", "priority", "task_id", "headers", "time_limit", "ignore_result")
    message = build(**dict.fromkeys(names))
    assert (message.queue, message.priority, message.headers, message.options) == ("default", 0, "{}", "{}")


def test_headers_and_limits_travel(database):
    seen = []

    @shared_task(bind=True)
    def look(self):
        request = self.request
        seen.append((request.headers, request.time_limit, request.soft_time_limit, request.shadow))

    look.apply_async(headers={"tenant": 5, "at": SOON}, time_limit=9, soft_time_limit=8, shadow="shown")
    run_jobs()
    assert seen == [({"tenant": 5, "at": SOON}, 9, 8, "shown")]


def test_parent_and_root_can_be_said():
    message = build(parent_id="p", root_id="r")
    assert (message.parent_id, message.root_id) == ("p", "r")


def test_what_a_job_sends_has_it_as_parent_also_through_a_direct_call():
    sent = []

    @shared_task
    def helper():
        sent.append(build())

    @shared_task
    def job():
        sent.append(build())
        helper()

    execution = execute(job, root_id="the root")
    assert [(each.parent_id, each.root_id) for each in sent] == [(execution.message.id, "the root")] * 2


# Sizes


def test_a_message_too_large_is_refused_and_nothing_of_the_batch_is_sent(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "MAX_MESSAGE_BYTES": 1000}
    tasks.raise_text.delay("x" * 900)
    with pytest.raises(MessageTooLarge, match=r"tests\.tasks\.raise_text has 10\d\d bytes; MAX_MESSAGE_BYTES is 1000"):
        tasks.raise_text.enqueue_many([("small",), ("x" * 1000,)])
    assert Job.objects.count() == 1


def test_many_large_messages_are_sent_at_once(database):
    results = tasks.add.enqueue_many([("x" * 2**20, str(number)) for number in range(20)])
    assert Job.objects.count() == len(results) == 20
    run_jobs()
    assert results[-1].get(timeout=0).endswith("xxx19")


def test_what_json_cannot_carry_is_refused_at_the_caller_and_nothing_is_sent(database):
    with pytest.raises(TypeError, match=r"args\[1\] is of type object"):
        tasks.add.delay(1, object())
    assert ids() == set()


def test_a_message_stands_as_json_and_comes_back():
    message = build(eta=SOON, priority=5, headers={"a": 1}, task_id="x")
    assert Message.from_json(message.to_json()) == message
    assert json.loads(message.to_json())["version"] == 1


# Signals


@pytest.fixture
def heard():
    """What the two signals of publishing said: (which, sender, arguments)."""
    said = []
    receivers = [
        (signal, signal.connect(lambda sender, which=which, **named: said.append((which, sender, named))))
        for which, signal in (("before", signals.before_task_publish), ("after", signals.after_task_publish))
    ]
    yield said
    for signal, receiver in receivers:
        signal.disconnect(receiver)


def test_the_signals_tell_of_a_job_before_and_after_it_is_sent(database, heard):
    result = tasks.add.apply_async((1,), {"y": SOON}, queue="q", priority=4, headers={"own": 1})
    (before, sender, told), (after, _, told_after) = heard
    assert (before, after, sender) == ("before", "after", "tests.tasks.add")
    assert json.loads(json.dumps(told["body"]))[0] == [1]
    assert told["headers"].items() >= {"id": result.id, "task": "tests.tasks.add", "own": 1, "retries": 0}.items()
    assert (told["exchange"], told["routing_key"], told["declare"], told["retry_policy"]) == ("", "q", [], None)
    assert told["properties"] == {"correlation_id": result.id, "priority": 4}
    assert told_after["headers"]["id"] == result.id
    assert told_after["routing_key"] == "q"


def test_the_signals_tell_of_each_job_of_a_batch(database, heard):
    tasks.add.enqueue_many([(1, 2), (3, 4)])
    assert [which for which, _, _ in heard] == ["before", "before", "after", "after"]


def test_headers_that_a_receiver_adds_or_changes_travel(database):
    seen = []

    @shared_task(bind=True)
    def look(self):
        seen.append(self.request.headers)

    @signals.before_task_publish.connect
    def add_headers(headers, **named):
        headers["user"] = {"id": 7}
        headers["nested"]["changed"] = True

    try:
        look.apply_async(headers={"nested": {"kept": 1}})
    finally:
        signals.before_task_publish.disconnect(add_headers)
    run_jobs()
    assert seen == [{"nested": {"kept": 1, "changed": True}, "user": {"id": 7}}]


def test_a_receiver_that_raises_stops_no_job(database, caplog):
    @signals.before_task_publish.connect
    def broken(**named):
        raise RuntimeError("receiver")

    try:
        result = tasks.add.delay(1, 2)
    finally:
        signals.before_task_publish.disconnect(broken)
    run_jobs()
    assert result.get(timeout=0) == 3
    assert "receiver" in caplog.text


def test_a_receiver_of_one_task_hears_only_of_that_one(database):
    heard = []
    others = list(signals.after_task_publish.receivers)

    @signals.after_task_publish.connect(sender="tests.tasks.".lower() + "add")
    def listen(sender, **named):
        heard.append(sender)

    try:
        tasks.add.delay(1, 2)
        tasks.noop.delay()
        send_task("".join(["tests.tasks", ".add"]), (1, 2))
    finally:
        signals.after_task_publish.disconnect(listen, sender="tests.tasks.add")
    assert heard == ["tests.tasks.add", "tests.tasks.add"]
    assert signals.after_task_publish.receivers == others
