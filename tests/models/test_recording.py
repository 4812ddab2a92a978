"""Outcomes of jobs whose queue is elsewhere: each becomes a row, and the first terminal one is final."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections

from djtasks import states
from djtasks.message import Delivery, Failure, Message, Outcome
from djtasks.models import Job, recording
from djtasks.models.job import message_of

NEAR = timedelta(seconds=5)
MESSAGE = Message(
    id="x",
    task="some.task",
    args='["é \\u0000"]',
    kwargs='{"a":1}',
    queue="ü",
    priority=7,
    eta=datetime(2040, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    expires_at=datetime(2041, 1, 2, 3, 4, 5, tzinfo=UTC),
    parent_id="p",
    root_id="r",
    group_id="g",
    unique_key="u",
    schedule="nightly",
    sender="ann /orders/",
    headers='{"h":1}',
    options='{"o":1}',
)
CREATED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DELIVERY = Delivery(MESSAGE, "w.1", 3, losses=1, refusals=2, attempts='[{"token":1}]', created_at=CREATED)

pytestmark = pytest.mark.usefixtures("database")


def success(delivery=DELIVERY, result="[1]"):
    return Outcome(delivery=delivery, state=states.SUCCESS, result=result, seconds=2.0)


def failure(delivery=DELIVERY):
    said = Failure("E", "text", "[1]", "trace")
    return Outcome(delivery=delivery, state=states.FAILURE, failure=said, seconds=2.0)


def retry(delivery=DELIVERY, **fields):
    following = replace(delivery.message, retries=delivery.message.retries + 1, eta=None, args="[2]", **fields)
    return Outcome(delivery=delivery, state=states.RETRY, next=following, failure=Failure("E", "not yet"), seconds=2.0)


def begun(delivery=DELIVERY):
    return Outcome(delivery=delivery, state=states.STARTED, seconds=0.5)


def store(*outcomes):
    return Job.objects.all().store(outcomes)


def row(pk="x"):
    return Job.objects.get(pk=pk)


def test_an_outcome_makes_its_row_with_all_that_is_known_of_the_job():
    assert store(success()) == {"x"}
    job = row()
    assert message_of(job) == replace(MESSAGE, unique_key=None)
    assert (job.state, job.result, job.seconds, job.token, job.losses, job.refusals) == ("SUCCESS", "[1]", 2.0, 3, 1, 2)
    assert (job.worker, job.rank, job.created_at) == ("w.1", -7, CREATED)
    assert job.earlier_attempts() == [{"token": 1}]
    now = datetime.now(UTC)
    assert abs(now - job.finished_at) < NEAR
    assert job.finished_at - job.started_at == timedelta(seconds=2)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "outcome", [success(), replace(success(), sent=(("y", "g"),)), failure(), retry(countdown=60.0), begun()]
)
def test_each_database_makes_the_row_that_the_portable_way_makes(outcome, together, monkeypatch):
    other = replace(success(), delivery=replace(DELIVERY, message=replace(MESSAGE, id="other")))
    store(outcome, *([other] if together else []))
    made = Job.objects.filter(pk="x").values().get()
    Job.objects.all().delete()
    connection = connections[Job.objects.db]
    monkeypatch.setattr(type(connection), "vendor", "mysql" if connection.vendor == "mysql" else "sqlite")
    monkeypatch.setattr(recording.statements, "now", lambda connection: datetime.now(UTC))
    store(outcome)
    expected = Job.objects.filter(pk="x").values().get()
    for name in ("started_at", "finished_at", "run_at", "attempts"):
        one, other = made.pop(name), expected.pop(name)
        assert (one is None) == (other is None), name
        if isinstance(one, datetime):
            assert abs(one - other) < NEAR, name
    assert made == expected


def test_a_failure_is_stored_with_its_reason():
    store(failure())
    job = row()
    assert (job.exception, job.exception_message, job.exception_args, job.traceback) == ("E", "text", "[1]", "trace")


def test_a_job_without_a_run_has_no_start():
    store(Outcome(delivery=DELIVERY, state=states.REVOKED, failure=Failure("E", "revoked")))
    assert (row().started_at, row().seconds) == (None, None)
    assert row().finished_at is not None


def test_a_job_that_runs_shows_since_when():
    assert store(begun()) == {"x"}
    job = row()
    assert (job.state, job.finished_at, job.seconds) == ("STARTED", None, None)
    assert abs(datetime.now(UTC) - timedelta(seconds=0.5) - job.started_at) < NEAR
    assert store(success()) == {"x"}
    assert row().state == "SUCCESS"


@pytest.mark.parametrize("second", [success(), failure(), retry(), begun()])
def test_the_first_terminal_outcome_is_final(second):
    store(failure())
    later = replace(second, delivery=replace(second.delivery, token=9))
    assert store(later) == set()
    assert (row().state, row().token) == ("FAILURE", 3)


def test_what_a_later_claim_has_written_stands_against_an_earlier_one():
    store(begun(replace(DELIVERY, token=4, worker="w.2")))
    assert store(success()) == set()
    assert (row().state, row().worker) == ("STARTED", "w.2")
    assert store(success(replace(DELIVERY, token=4, worker="w.2"))) == {"x"}


def test_a_later_try_stands_against_an_earlier_one_whatever_the_tokens():
    store(retry())
    assert store(success(replace(DELIVERY, token=9))) == set()
    assert store(retry(replace(DELIVERY, token=9))) == set()
    assert (row().state, row().retries) == ("RETRY", 1)
    second = replace(DELIVERY, token=4, message=replace(MESSAGE, retries=1))
    assert store(begun(second)) == {"x"}
    assert store(retry(second)) == {"x"}
    assert row().retries == 2


def test_a_retry_stores_the_whole_next_message_and_its_attempt():
    store(begun())
    store(retry(countdown=60.0, priority=-5, queue="other"))
    job = row()
    assert (job.state, job.args, job.retries, job.losses, job.worker) == ("RETRY", "[2]", 1, 0, "")
    assert (job.queue, job.priority, job.rank, job.started_at, job.finished_at) == ("other", -5, 5, None, None)
    assert abs(datetime.now(UTC) + timedelta(seconds=60) - job.run_at) < NEAR
    assert [each.get("ending") for each in job.earlier_attempts()] == [None, "RETRY"]
    assert (job.exception, job.exception_message) == ("E", "not yet")


def test_attempts_that_the_broker_has_forgotten_stay_in_the_row():
    store(retry())
    again = replace(DELIVERY, token=4, attempts="[]", message=replace(MESSAGE, retries=1))
    store(success(again))
    assert len(row().earlier_attempts()) == 2


def test_many_are_stored_at_once_and_only_the_foreign_ones_left_alone():
    deliveries = [replace(DELIVERY, message=replace(MESSAGE, id=f"job-{number}")) for number in range(300)]
    store(failure(deliveries[5]))
    assert store(*(success(each) for each in reversed(deliveries))) == {each.id for each in deliveries} - {"job-5"}
    assert Job.objects.filter(state="SUCCESS").count() == 299


def test_two_who_store_the_same_jobs_at_once_agree_on_who_was_first():
    deliveries = [replace(DELIVERY, message=replace(MESSAGE, id=f"job-{number:03}")) for number in range(100)]
    written, errors = [], []

    def write(worker):
        try:
            written.append(store(*(success(replace(each, worker=worker)) for each in deliveries)))
        except Exception as error:
            errors.append(error)
        finally:
            connections[Job.objects.db].close()

    threads = [threading.Thread(target=write, args=(f"w.{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(len(each) for each in written) == 100
    assert len(set.union(*written)) == 100


def test_what_is_not_ascii_survives():
    store(success(result=json.dumps("ü\u0000")))
    assert json.loads(row().result) == "ü\u0000"
