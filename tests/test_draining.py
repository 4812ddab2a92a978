"""`manage.py djtasks drain`: what it waits for, what it leaves, how it ends; on whatever broker."""

import json
import threading
import time
from io import StringIO
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command

from djtasks import control, draining, shared_task
from djtasks.message import Message, new_id
from djtasks.models import Outbox, PeriodicTask, Worker
from tests import tasks

pytestmark = pytest.mark.every_broker


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(draining, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(draining, "PATIENCE", 0.1)


@pytest.fixture
def live_worker(database):
    """A row that says so; nobody runs."""
    return Worker.objects.create(pk="w" * 32, hostname="w", pid=1, queues="null", pool="solo", concurrency=1)


def message(**fields):
    return Message(**{"id": new_id(), "task": "shop.tasks.export", "queue": "mail", **fields})


def drain(*arguments):
    """The lines that the command prints, and its exit code."""
    out = StringIO()
    try:
        call_command("djtasks", "drain", *arguments, stdout=out, stderr=StringIO())
    except SystemExit as error:
        return out.getvalue().splitlines(), error.code
    return out.getvalue().splitlines(), 0


def test_empty_queues_are_drained_at_once(broker):
    lines, code = drain()
    assert (lines[-1], code) == ("Nothing runs, and nothing is ready.", 0)


def test_one_look_is_enough_if_no_more_is_asked_for(broker, live_worker, monkeypatch):
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: pytest.fail("it was to look once"))
    monkeypatch.setattr(draining, "time", clock)  # not time.sleep: threads of other tests may still use that
    assert drain("--timeout", "0")[1] == 0
    broker.enqueue([message()])
    assert drain("--timeout", "0")[1] == 1


def test_it_waits_until_workers_have_run_all_that_is_ready_and_what_follows(broker, start_worker):
    start_worker("-c", "1")
    ran = [(tasks.add.s(1, 1) | tasks.add.s(1)).delay() for _ in range(10)]
    lines, code = drain("--timeout", "30")
    assert (lines[-1], code) == ("Nothing runs, and nothing is ready.", 0)
    assert [each.state for each in ran] == ["SUCCESS"] * 10


def test_what_is_due_soon_is_waited_for(broker, start_worker):
    start_worker("-c", "1")
    result = tasks.add.apply_async((1, 1), countdown=0.5)
    assert drain("--timeout", "30")[1] == 0
    assert result.state == "SUCCESS"


def test_what_is_scheduled_for_later_stays_and_is_named(broker):
    broker.enqueue([message(countdown=3600), message(countdown=7200)])
    lines, code = drain()
    assert code == 0
    assert lines[-1].startswith("2 job(s) in mail wait for their time, the first for 20")
    assert broker.sizes()["mail"].scheduled == 2


@pytest.mark.parametrize("arguments", [("--scheduled",), ("--ahead", "4000")])
def test_it_waits_for_later_ones_if_asked_to(broker, live_worker, arguments):
    broker.enqueue([message(countdown=3600)])
    lines, code = drain(*arguments, "--timeout", "0.05")
    assert (lines[-1], code) == ("Not empty: mail: 1 scheduled. The time is over.", 1)


def test_what_waits_for_a_place_is_waited_for_whatever_stands_before_it(broker, live_worker):
    broker.enqueue([message(), message(), message(countdown=3600)])
    claimed = broker.claim("mail", limit=2, worker="w.1")
    broker.take_places(claimed, "places:one", 1, most=2)
    (left,) = next(draining.drain()).queues
    assert (left.ready, left.running, left.scheduled, left.is_soon) == (0, 1, 2, True)


def test_what_runs_is_waited_for(broker, live_worker):
    broker.enqueue([message()])
    broker.claim("mail", limit=1, worker="w.1")
    lines, code = drain("--timeout", "0.05")
    assert (lines[-1], code) == ("Not empty: mail: 1 running. The time is over.", 1)


def test_a_paused_queue_stays_paused_and_ends_it(broker, live_worker):
    broker.enqueue([message()])
    control.pause("mail")
    lines, code = drain()
    assert lines[-1].startswith("Not empty: mail: 1 ready (paused). Nobody would run what is left")
    assert code == 1
    assert broker.is_paused("mail")


def test_a_queue_that_no_worker_serves_ends_it(broker):
    broker.enqueue([message()])
    lines, code = drain()
    assert lines[-1].startswith("Not empty: mail: 1 ready (no live worker serves it).")
    assert code == 1


def test_only_the_queues_that_are_named_are_looked_at(broker, live_worker):
    broker.enqueue([message(), message(queue="slow")])
    assert drain("--queue", "other")[1] == 0
    lines, code = drain("-Q", "slow", "--timeout", "0.05")
    assert (lines[-1], code) == ("Not empty: slow: 1 ready. The time is over.", 1)


def test_schedules_rest_and_the_command_that_wakes_them_is_printed(broker):
    for name, enabled in (("nightly", True), ("a b", True), ("old", False)):
        PeriodicTask.objects.create(name=name, task="t", schedule="3600", enabled=enabled)
    lines, _ = drain()
    assert lines[:2] == [
        "2 schedule(s) disabled. To enable them again:",
        "  manage.py djtasks schedule enable 'a b' nightly",
    ]
    assert not PeriodicTask.objects.filter(enabled=True).exists()
    call_command("djtasks", "schedule", "enable", "a b", "nightly", stdout=StringIO())
    assert set(PeriodicTask.objects.filter(enabled=True).values_list("name", flat=True)) == {"a b", "nightly"}


def test_schedules_of_other_queues_and_those_that_are_to_be_kept_run_on(broker, own_tasks):
    shared_task(name="by.task", queue="mail")(lambda: None)
    PeriodicTask.objects.create(name="by queue", task="t", schedule="3600", queue="mail")
    PeriodicTask.objects.create(name="by task", task="by.task", schedule="3600")
    PeriodicTask.objects.create(name="elsewhere", task="t", schedule="3600", queue="slow")
    PeriodicTask.objects.create(name="broken", task="t", schedule="3600", args="[", queue="mail")
    drain("--keep-schedules")
    assert PeriodicTask.objects.filter(enabled=True).count() == 4
    drain("--queue", "mail")
    assert set(PeriodicTask.objects.filter(enabled=True).values_list("name", flat=True)) == {"broken", "elsewhere"}


def test_what_waits_in_the_outbox_is_waited_for(broker):
    Outbox.objects.create(id="1", message="[]")
    lines, code = drain("--timeout", "0.05")
    assert (lines[-1], code) == ("Not empty: 1 row(s) of the outbox wait for the broker. The time is over.", 1)


def test_it_is_printed_for_programs_too(broker, live_worker):
    broker.enqueue([message(), message(queue="later", countdown=3600)])
    PeriodicTask.objects.create(name="nightly", task="t", schedule="3600")
    lines, code = drain("--json", "--timeout", "0.05")
    told = json.loads("\n".join(lines))
    assert code == 1
    assert (told["ending"], told["unsent"], told["disabled_schedules"]) == ("timeout", 0, ["nightly"])
    later, mail = told["queues"]
    assert (mail["queue"], mail["ready"], mail["is_soon"]) == ("mail", 1, False)
    assert (later["scheduled"], later["is_soon"], bool(later["due_at"])) == (1, False, True)


def test_a_job_that_comes_while_it_looks_is_waited_for(broker, live_worker):
    looks = draining.drain(timeout=0.3)
    assert next(looks).is_drained
    broker.enqueue([message()])
    assert [each.ending for each in looks][-1] == "timeout"


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon"])
def test_what_is_no_time_is_refused(broker, seconds):
    with pytest.raises(Exception, match="is no number of seconds"):
        drain("--timeout", seconds)


def test_who_interrupts_it_is_told_what_stays(broker, live_worker, monkeypatch):
    sleep = time.sleep

    def interrupt(seconds):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(draining.time, "sleep", interrupt)
    with pytest.raises(CommandError, match="What was disabled stays so"):
        drain()
