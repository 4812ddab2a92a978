"""Why a job does not run: each answer, on each broker."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import override_settings

from djtasks import chain, chord, control, group, states
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Message, new_id
from djtasks.models import Job, JobGroup, Queue, Worker
from djtasks.testing import run_jobs
from djtasks.why import why
from tests.canvas.tasks import add, fail, identity, total
from tests.tasks import add as plain
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker


def live_worker(queues=None, tasks=(identity.name, plain.name), **columns):
    text = Worker.queues_as_text(queues, ())
    known = None if tasks is None else json.dumps(tasks)
    fields = {"pk": new_id()[-32:], "hostname": "w@host", "pid": 1, "queues": text, "pool": "solo", "concurrency": 2}
    return Worker.objects.create(**{**fields, "tasks": known, **columns})


def sent(**fields):
    message = Message(**{"id": new_id(), "task": plain.name, "args": "[1,2]", "queue": "mail", **fields})
    get_broker().enqueue([message])
    return message.id


def kinds(job_id):
    return [each.kind for each in why(job_id)]


def text(job_id):
    return " ".join(each.text for each in why(job_id))


def test_a_queue_that_no_live_worker_serves_is_named(broker):
    live_worker(["pdf"])
    live_worker(["mail"], lost_at=datetime.now(UTC))
    live_worker(["mail"], beat_at=datetime.now(UTC) - timedelta(hours=1))
    job_id = sent()
    assert kinds(job_id) == ["unserved"]
    assert text(job_id) == "No live worker serves the queue 'mail'."


def test_a_pause_is_told_with_who_and_when(broker):
    live_worker()
    job_id = sent()
    control.pause("mail", by="ann")
    assert kinds(job_id) == ["paused"]
    assert "The queue 'mail' is paused by ann since 20" in text(job_id)
    control.resume("mail")
    assert kinds(job_id) == ["next"]
    assert Queue.objects.get(name="mail").paused_at is None


def test_what_waits_for_its_time_says_when(broker):
    live_worker()
    job_id = sent(countdown=60)
    assert kinds(job_id) == ["scheduled"]
    assert "It is scheduled for 20" in text(job_id)
    assert "(in 59 s)" in text(job_id) or "(in 1 min)" in text(job_id)


def test_what_is_due_but_was_not_made_ready_says_so(broker):
    job_id = sent(countdown=0.01)
    wait_until(lambda: kinds(job_id) == ["due", "unserved"], what="the job's time")


def test_a_retry_says_which_and_of_how_many(broker):
    live_worker()
    job_id = sent(retries=2, countdown=60)
    assert kinds(job_id) == ["retry"]
    assert "It waits for retry 2 of 3, at 20" in text(job_id)
    other = sent(retries=2, countdown=60, options='{"max_retries":7}')
    assert "2 of 7" in text(other)


def test_what_waits_for_its_slot_of_a_rate_says_when_that_is(broker):
    live_worker()
    first, second = sent(), sent()
    broker.defer(broker.claim("mail", limit=2, worker="w.1"), "shop.tasks.export", 60.0, ahead=0.0, most=2)
    assert kinds(second) == ["rate"]
    assert "It waits for its slot by the rate of 'shop.tasks.export', at 20" in text(second)
    assert "(in 5" in text(second) or "(in 1 min)" in text(second)
    assert "rate" not in kinds(first)


def test_what_waits_for_a_place_says_so(broker):
    live_worker()
    sent()
    (taken,) = broker.take_places(broker.claim("mail", limit=1, worker="w.1"), "shop.tasks.export", 1, most=1)
    job_id = sent()
    broker.take_places(broker.claim("mail", limit=1, worker="w.1"), "shop.tasks.export", 1, most=1)
    assert kinds(job_id) == ["concurrency"]
    assert "It waits for a place: of 'shop.tasks.export' as many run as may at a time." in text(job_id)
    assert "concurrency" not in kinds(taken.id)


def test_a_task_that_no_live_worker_of_the_queue_knows_is_named(broker):
    live_worker(["mail"])
    live_worker(["pdf"], tasks=["shop.tasks.gone"])
    job_id = sent(task="shop.tasks.gone")
    assert kinds(job_id) == ["unknown_task"]
    assert "knows the task 'shop.tasks.gone'" in text(job_id)
    live_worker(["mail"], tasks=None)  # of a release that does not say what it knows
    assert kinds(job_id) == ["next"]


def test_what_was_refused_as_unknown_says_when_it_is_offered_again(broker):
    live_worker()
    job_id = sent(task="100%.gone")
    broker.release(broker.claim("mail", limit=1, worker="w.1"), delay=60.0, count="refusals")
    assert kinds(job_id) == ["unknown_task", "unknown_task"]
    assert "A worker did not know the task '100%.gone'. It is offered again at 20" in text(job_id)


def test_jobs_before_it_are_counted_and_busy_processes_too(broker):
    worker = live_worker()
    first, _second, third, urgent = sent(), sent(), sent(), sent(priority=5)
    assert kinds(urgent) == ["next"]
    assert "3 jobs are before it in the queue 'mail'." in text(third)
    Job.objects.create(pk="runs", task="x", queue="mail", state=states.STARTED, worker=f"{worker.pk}.1")
    assert text(first) == "1 job is before it in the queue 'mail'. Its workers can run 2 jobs at a time, and run 1 now."


def test_what_runs_says_since_when_and_where(broker):
    worker = live_worker()
    job_id = sent()
    (delivery,) = broker.claim("mail", limit=1, worker=f"{worker.pk}.1")
    assert kinds(job_id) == ["claimed"]
    started = datetime.now(UTC) - timedelta(minutes=3)
    row = {"task": plain.name, "queue": "mail", "state": states.STARTED, "worker": f"{worker.pk}.1"}
    Job.objects.update_or_create(pk=delivery.id, defaults={**row, "started_at": started, "token": 1})
    assert kinds(job_id) == ["running"]
    assert f"It runs on w@host ({worker.pk}.1) since 20" in text(job_id)
    assert "(3 min ago)" in text(job_id)
    Worker.objects.update(beat_at=started)
    assert kinds(job_id) == ["worker_silent"]


def test_what_was_cancelled_and_waits_says_so_first(broker):
    job_id = sent()
    broker.pause("mail")
    broker.cancel([job_id])
    assert kinds(job_id)[0] == "revoked"


def test_what_has_expired_says_so_first(broker):
    job_id = sent(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert kinds(job_id) == ["expired", "unserved"]


def test_losses_are_told(broker):
    live_worker()
    job_id = sent()
    broker.release(broker.claim("mail", limit=1, worker="w.1"), count="losses")
    assert kinds(job_id) == ["losses", "next"]
    assert "Its process died once. It ends as failed after 3" in text(job_id)


def test_what_has_ended_says_how(broker):
    fine, failed = identity.delay(1), fail.delay(1)
    run_jobs()
    assert text(fine.id).startswith("It has finished: SUCCESS, 20")
    assert kinds(failed.id) == ["finished"]
    assert "FAILURE (tests.canvas.tasks.Expected)" in text(failed.id)
    revoked = identity.delay(1)
    revoked.revoke()
    run_jobs()
    assert kinds(revoked.id) == ["revoked"]


def test_a_step_after_one_that_failed_never_ran(broker):
    result = chain(fail.s(1), identity.s()).apply_async()
    run_jobs()
    assert kinds(result.id) == ["ended_before"]
    assert result.parent.id in text(result.id)


@pytest.mark.parametrize("later", [2, 30])
def test_a_later_step_waits_for_the_one_whose_turn_it_is(broker, later):
    live_worker()
    result = first = chain(identity.s(1), *(identity.s() for _ in range(later))).apply_async()
    while first.parent is not None:
        first = first.parent
    assert kinds(result.id) == ["chain", "next"]
    assert first.id in text(result.id)


def test_a_far_step_after_a_chord_waits_for_the_group(broker):
    live_worker()
    result = chain(group([identity.s(1), identity.s(2)]), total.s(), *(identity.s() for _ in range(30))).apply_async()
    assert kinds(result.id) == ["group"]


def test_the_body_of_a_chord_says_how_many_are_to_go(broker):
    live_worker()
    result = chord([identity.s(1), identity.s(2), identity.s(3)], total.s()).apply_async()
    JobGroup.objects.update(remaining=2)
    assert kinds(result.id) == ["group"]
    assert text(result.id) == "It waits for the group of 3: 2 to go."


def test_a_body_that_was_sent_and_whose_header_runs_once_more_says_so_too(broker):
    live_worker()
    JobGroup.objects.create(pk="g", size=3, remaining=1)
    job_id = sent(options='{"header":["g",false]}')
    assert kinds(job_id) == ["group", "next"]


def test_an_id_that_nobody_knows_may_be_of_an_open_transaction(broker):
    job_id = new_id()
    assert kinds(job_id) == ["unknown"]
    assert "has not been committed" in text(job_id)


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_what_stands_in_the_outbox_says_that_the_broker_was_away(database, settings, monkeypatch):
    broker = get_broker()

    def enqueue(messages):
        raise BrokerUnavailable("Redis does not answer.")

    monkeypatch.setattr(broker, "enqueue", enqueue)
    with transaction.atomic(using=database):
        one = add.delay(1, 2)
    with transaction.atomic(using=database):
        many = add.enqueue_many([(1, 2), (3, 4)])
    assert kinds(one.id) == kinds(many[1].id) == ["outbox"]
    assert "It is in the outbox since 20" in text(one.id)


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_broker_that_cannot_be_reached_is_the_first_reason(database, settings):
    Job.objects.create(pk="waits", task="x", queue="mail", state=states.RETRY)
    url = "redis://:hidden-word@127.0.0.1:1/0"
    chosen = {**settings.DJTASKS, "BROKER_URL": url, "TEST_BROKER_URL": url, "BROKER_TIMEOUT": 0.2}
    with override_settings(DJTASKS=chosen):
        assert kinds("waits")[0] == "broker_unreachable"
        assert "hidden-word" not in text("waits")


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_row_that_waits_and_that_redis_has_forgotten_says_so(database):
    Job.objects.create(pk="waits", task="x", queue="mail", state=states.RETRY)
    assert kinds("waits") == ["forgotten", "no_worker"]


def test_the_command_prints_the_reasons_a_line_each_and_for_programs(broker):
    job_id = sent(countdown=60)
    out = StringIO()
    call_command("djtasks", "why", job_id, stdout=out)
    assert [line.split(" ")[0] for line in out.getvalue().splitlines()] == ["It", "No"]
    out = StringIO()
    call_command("djtasks", "why", job_id, "--json", stdout=out)
    found = json.loads(out.getvalue())
    assert found["id"] == job_id
    assert [each["kind"] for each in found["reasons"]] == ["scheduled", "unserved"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_id_is_asked_for(database):
    with pytest.raises(CommandError):
        call_command("djtasks", "why")
