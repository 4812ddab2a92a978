"""The message of a tick: its id, and what it carries of its schedule."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from djtasks import encoding, shared_task
from djtasks.models import PeriodicTask
from djtasks.periodic import message_of, message_of_tick, tick_id

TICK = datetime(2026, 6, 1, 12, tzinfo=UTC)


def make(**values):
    return PeriodicTask(**{"name": "nightly", "task": "a.task", "schedule": "every hour", **values})


def test_the_id_of_a_tick_is_the_same_whoever_makes_it():
    assert tick_id("nightly", TICK) == tick_id("nightly", TICK) == "019e830e-1a00-7c6f-9250-0f4fe76c8264"


def test_each_tick_and_each_schedule_has_ids_of_its_own():
    ids = {tick_id(name, TICK + timedelta(microseconds=step)) for name in ("a", "b", "é") for step in range(100)}
    assert len(ids) == 300


def test_ids_of_ticks_are_in_their_order_and_say_when_they_were():
    ids = [tick_id("nightly", TICK + timedelta(milliseconds=step)) for step in range(100)]
    assert ids == sorted(ids)
    assert {(UUID(each).version, UUID(each).variant) for each in ids} == {(7, "specified in RFC 4122")}
    assert UUID(ids[0]).int >> 80 == int(TICK.timestamp() * 1000)


def test_a_message_says_which_schedule_sent_it_and_for_when():
    message = message_of_tick(make(headers='{"trace": 1}'), TICK)
    assert (message.id, message.schedule, message.check) == (tick_id("nightly", TICK), "nightly", True)
    assert encoding.decode(message.headers) == {
        "trace": 1,
        "periodic_task_name": "nightly",
        "scheduled_for": TICK.isoformat(),
    }


def test_a_message_carries_what_stands_in_the_row():
    row = make(
        args="[1]", kwargs='{"a": 2}', queue="mail", priority=7, expires=90, options='{"time_limit": 5}', jitter=10
    )
    message = message_of_tick(row, TICK)
    assert (message.args, message.kwargs, message.queue, message.priority) == ("[1]", '{"a":2}', "mail", 7)
    assert message.expires_at == TICK + timedelta(seconds=90)
    assert encoding.decode(message.options) == {"time_limit": 5}
    assert 0 <= message.countdown <= 10


def test_what_the_row_leaves_open_the_task_and_the_settings_say(own_tasks, settings):
    @shared_task(queue="slow", priority=-3)
    def patient(): ...

    settings.DJTASKS = {**settings.DJTASKS, "TASK_DEFAULT_QUEUE": "usual"}
    message = message_of_tick(make(task=patient.name), TICK)
    assert (message.queue, message.priority, message.countdown, message.expires_at) == ("slow", -3, None, None)
    assert message_of_tick(make(), TICK).queue == "usual"
    assert message_of_tick(make(task=patient.name, queue="mail", priority=0), TICK).queue == "mail"


def test_a_route_counts_before_the_task_and_after_the_row(own_tasks, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ROUTES": {"a.*": {"queue": "routed"}}}
    assert message_of_tick(make(), TICK).queue == "routed"


def test_a_job_beside_the_ticks_has_an_id_of_its_own():
    assert message_of(make(), TICK).id != message_of(make(), TICK).id


def test_what_cannot_be_sent_is_an_error():
    with pytest.raises(ValueError, match="priority"):
        message_of_tick(make(priority=1000), TICK)
