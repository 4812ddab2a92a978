"""The row of a job: its querysets, its attempts, and running it once more."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djtasks import control
from djtasks.exceptions import MalformedMessage
from djtasks.execution import Execution
from djtasks.message import Delivery, Failure, Message, Outcome, new_id
from djtasks.models import Job, JobGroup
from djtasks.models.attempts import MOST_KEPT, with_attempt
from djtasks.models.fields import utc_now
from djtasks.models.job import message_of
from djtasks.testing import run_jobs
from djtasks.worker.ledger import Ledger
from tests import tasks

NOW = datetime.now(UTC)
EVERY_STATE = ("PENDING", "SCHEDULED", "RETRY", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "REVOKED", "IGNORED")


def row(job_id, state="PENDING", **fields):
    return Job.objects.create(id=job_id, task="some.task", queue="default", state=state, **fields)


def ids(queryset):
    return [job.pk for job in queryset]


# Querysets


@pytest.fixture
def one_of_each(database):
    for state in EVERY_STATE:
        row(state, state, run_at=NOW + timedelta(hours=1))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("name", "index"), [("scheduled", "djtasks_job_later"), ("running", "djtasks_job_running")])
def test_sqlite_finds_what_is_scheduled_or_runs_by_an_index(database, name, index):
    connection = connections[database]
    with CaptureQueriesContext(connection) as said, connection.cursor() as cursor:
        list(getattr(Job.objects, name)().values_list("worker"))
        statement = said.captured_queries[0]["sql"]
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
        assert index in " ".join(str(line) for line in cursor.fetchall())


def test_the_querysets_speak_the_states(one_of_each):
    assert set(ids(Job.objects.ready())) == {"PENDING"}
    assert set(ids(Job.objects.scheduled())) == {"SCHEDULED", "RETRY"}
    assert set(ids(Job.objects.waiting())) == {"PENDING", "SCHEDULED", "RETRY"}
    assert set(ids(Job.objects.running())) == {"RECEIVED", "STARTED"}
    assert set(ids(Job.objects.finished())) == {"SUCCESS", "FAILURE", "REVOKED", "IGNORED"}
    assert ids(Job.objects.due()) == []
    assert set(ids(Job.objects.due(NOW + timedelta(hours=2)))) == {"SCHEDULED", "RETRY"}


def test_a_row_knows_whether_it_has_ended(one_of_each):
    assert {job.pk for job in Job.objects.all() if job.is_finished} == {"SUCCESS", "FAILURE", "REVOKED", "IGNORED"}


def test_the_word_of_the_task_shows_only_while_it_runs(one_of_each):
    Job.objects.update(custom_state="PROGRESS")
    shown = {job.pk: job.shown_state for job in Job.objects.all()}
    assert {state for state, word in shown.items() if word == "PROGRESS"} == {"RECEIVED", "STARTED"}


def test_ready_jobs_come_by_priority_and_then_by_age(database):
    for job_id, rank, order_key in (("late", 0, 3), ("early", 0, 1), ("first", -5, 9), ("last", 5, 0)):
        row(job_id, rank=rank, order_key=order_key)
    assert ids(Job.objects.ready()) == ["first", "early", "late", "last"]


def test_scheduled_jobs_come_by_their_time(database):
    for hours in (3, 1, 2):
        row(str(hours), "SCHEDULED", run_at=NOW + timedelta(hours=hours))
    assert ids(Job.objects.scheduled()) == ["1", "2", "3"]


def test_expired_are_jobs_that_ended_long_ago_and_that_no_unfinished_group_needs(database):
    JobGroup.objects.create(id="open", size=2, remaining=1)
    JobGroup.objects.create(id="closed", size=2, remaining=0)
    JobGroup.objects.create(id="just closed", size=2, remaining=0, finished_at=NOW)
    old = NOW - timedelta(days=8)
    row("old", "SUCCESS", finished_at=old)
    row("old too", "FAILURE", finished_at=old, group_id="closed")
    row("needed", "SUCCESS", finished_at=old, group_id="open")
    row("still to be read", "SUCCESS", finished_at=old, group_id="just closed")
    row("new", "SUCCESS", finished_at=NOW)
    row("runs", "STARTED", started_at=old)
    row("waits", created_at=old)
    try:
        assert set(ids(Job.objects.expired(7 * 86400))) == {"old", "old too"}
    finally:
        JobGroup.objects.all().delete()


def test_every_query_names_its_database(database):
    assert Job.objects.all().db == database
    assert Job.objects.using("default").db == "default"


# Attempts


def test_a_job_that_has_not_begun_has_no_attempts(database):
    assert row("x").all_attempts() == []


def test_each_retry_leaves_an_attempt_and_the_last_run_is_one_too(database, tmp_path):
    tasks.succeed_at.delay(str(tmp_path / "tries"), 3)
    run_jobs()
    job = Job.objects.get()
    attempts = job.all_attempts()
    assert [each["ending"] for each in attempts] == ["RETRY", "RETRY", "SUCCESS"]
    assert [each["token"] for each in attempts] == [1, 2, 3] == [*range(1, job.token + 1)]
    assert [each["error"] for each in attempts] == [None] * 3
    starts = [datetime.fromisoformat(each["start"]) for each in attempts]
    # Counted back from the database's clock, so that two that are a moment apart may change places.
    assert all(abs(utc_now() - each) < timedelta(seconds=60) for each in starts)
    assert all(each["seconds"] >= 0 and each["worker"] for each in attempts)


def test_an_attempt_tells_its_error(database, broker):
    row("x", "RECEIVED", worker="one", token=1)
    (job,) = Job.objects.all()
    failure = Failure("KeyError", "k" * 5000)
    message = message_of(job)
    delivery = _delivery(job)
    outcome = Outcome(
        delivery=delivery, state="RETRY", next=_again(message, countdown=60), failure=failure, seconds=1.0
    )
    assert Job.objects.record_retry(outcome, NOW)
    job.refresh_from_db()
    (attempt,) = job.earlier_attempts()
    assert attempt["error"] == "KeyError: " + "k" * 990
    assert (job.state, job.exception, job.retries) == ("RETRY", "KeyError", 1)
    assert job.run_at == NOW + timedelta(seconds=60)


def test_a_retry_of_a_job_that_another_holds_by_now_changes_nothing(database):
    row("x", "RECEIVED", worker="two", token=2)
    (job,) = Job.objects.all()
    delivery = _delivery(job, worker="one", token=1)
    assert not Job.objects.record_retry(Outcome(delivery=delivery, state="RETRY", next=_again(message_of(job))), NOW)
    job.refresh_from_db()
    assert (job.state, job.worker, job.retries) == ("RECEIVED", "two", 0)


def test_only_the_newest_attempts_are_kept():
    attempts = None
    for number in range(50):
        attempts = with_attempt(attempts, {"token": number})
    kept = Job(attempts=attempts).earlier_attempts()
    assert [each["token"] for each in kept] == list(range(50 - MOST_KEPT, 50))


def test_attempts_that_cannot_be_read_are_malformed_and_replaced_by_new_ones():
    with pytest.raises(MalformedMessage, match="attempts of job x"):
        Job(id="x", attempts="no json").earlier_attempts()
    assert with_attempt("no json", {"token": 1}) == '[{"token":1}]'


# Running it once more


def test_a_finished_job_runs_once_more_under_its_id_and_keeps_its_attempts(database):
    result = tasks.fail.delay("first")
    run_jobs()
    before = Job.objects.get()
    assert control.retry(result.id) == 1
    waiting = Job.objects.get()
    assert (waiting.pk, waiting.state, waiting.token) == (before.pk, "PENDING", before.token)
    assert (waiting.exception, waiting.traceback, waiting.finished_at, waiting.result) == ("", None, None, None)
    assert [each["error"] for each in waiting.all_attempts()] == ["ValueError: ('first', 42)"]
    assert run_jobs() == 1
    after = Job.objects.get()
    assert (after.state, after.token) == ("FAILURE", 2)
    assert [each["ending"] for each in after.all_attempts()] == ["FAILURE", "FAILURE"]


def test_running_once_more_resets_what_counts_runs(database):
    row(
        "x", "REVOKED", retries=3, losses=2, refusals=4, revoked=True, rank=-1000, priority=5, acked_early=True,
        expires_at=NOW - timedelta(days=1), run_at=NOW, custom_state="PROGRESS", meta="1", worker="one", token=7,
    )  # fmt: skip
    assert control.retry(["x", "no such job"]) == 1
    job = Job.objects.get()
    assert (job.retries, job.losses, job.refusals, job.revoked, job.rank, job.acked_early) == (
        0,
        0,
        0,
        False,
        -5,
        False,
    )
    assert (job.expires_at, job.run_at, job.custom_state, job.meta, job.worker, job.token) == (
        None, None, None, None, "", 7,
    )  # fmt: skip


@pytest.mark.parametrize("state", ["PENDING", "SCHEDULED", "RETRY", "RECEIVED", "STARTED"])
def test_a_job_that_has_not_ended_is_not_run_once_more(database, state):
    row("x", state)
    assert control.retry("x") == 0
    assert Job.objects.get().state == state


# What an operator asks


def test_control_revokes_by_ids_and_by_handles(database):
    first, second, third = (tasks.add.delay(1, 2) for _ in range(3))
    assert control.revoke(first) == 1
    assert control.revoke([second, third.id, "no such job"]) == 2
    run_jobs()
    assert {each.state for each in (first, second, third)} == {"REVOKED"}


def test_control_pauses_and_purges_queues(database):
    result = tasks.add.delay(1, 2)
    control.pause("default")
    assert run_jobs() == 0
    control.resume("default")
    assert run_jobs() == 1
    assert result.ready()
    tasks.add.delay(1, 2)
    assert control.purge("default") == 1


@pytest.mark.every_broker
def test_a_purge_takes_the_rows_of_what_waits_with_it_and_no_others(broker, tmp_path):
    ended = tasks.add.delay(1, 2)
    retried = tasks.succeed_at.delay(str(tmp_path / "tries"), 2)
    for delivery in broker.claim("default", limit=9, worker="w.1"):
        ledger = Ledger(broker, "w.1")
        ledger.record(Execution(delivery).run())
        ledger.commit()
    assert retried.state == "RETRY"
    elsewhere = tasks.add.apply_async((1, 2), queue="other")
    tasks.add.delay(1, 2)
    assert control.purge("default") == 2
    assert set(Job.objects.values_list("pk", flat=True)) - {elsewhere.id} == {ended.id}
    assert [each.id for each in broker.peek("other")] == [elsewhere.id]
    assert set(broker.sizes()) == {"other"}


# The row itself


def test_a_row_shows_task_and_id():
    assert str(Job(id="x", task="some.task")) == "some.task[x]"


def test_arguments_are_read_without_the_database(database):
    reference = '[{"$":"model","v":["auth.group",1,null]}]'
    assert repr(Job(args=reference, kwargs='{"a":1}').arguments()) == "([<auth.group pk=1>], {'a': 1})"
    with pytest.raises(MalformedMessage):
        Job(args="no json").arguments()


def test_the_message_of_a_row_is_the_one_that_was_sent(broker):
    sent = Message(id=new_id(), task="some.task", args="[1]", queue="q", priority=3, parent_id="p", headers='{"h":1}')
    broker.enqueue([sent])
    assert message_of(Job.objects.get()) == sent


def test_permissions_are_there_from_the_first_migration():
    assert dict(Job._meta.permissions).keys() == {"retry_job", "revoke_job", "send_task", "view_job_arguments"}


def _delivery(job, worker=None, token=None):
    return Delivery(message_of(job), worker or job.worker, token or job.token)


def _again(message, **fields):
    return replace(message, retries=message.retries + 1, **fields)
