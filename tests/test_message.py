"""Messages that others have written: what fits no column is malformed, and becomes a job that has failed."""

import json
from datetime import UTC, datetime

import pytest

from djtasks.brokers import get_broker
from djtasks.exceptions import MalformedMessage
from djtasks.message import MOST_RETRIES, Message, new_id
from djtasks.models import Job
from djtasks.testing import run_jobs
from tests import tasks

FIELDS = [
    {"parent_id": "\0"},
    {"parent_id": "x" * 65},
    {"id": "x" * 65},
    {"eta": "0001-01-01T00:00:00+10:00"},
    {"expires_at": "9999-12-31T23:59:59-10:00"},
    {"root_id": "\ud800"},
    {"group_id": 5},
    {"task": "x" * 256},
    {"task": "\0"},
    {"args": "\0"},
    {"queue": "x" * 129},
    {"sender": "x" * 256},
    {"schedule": {}},
    {"unique_key": "\0"},
    {"priority": 1000},
    {"priority": True},
    {"retries": -1},
    {"retries": 2**31},
    {"countdown": "soon"},
    {"expires_in": -1},
    {"expires_in": 1e300},
    {"eta": ""},
    {"eta": "2026-01-01T00:00:00"},
]


@pytest.mark.parametrize("fields", FIELDS, ids=repr)
def test_a_message_with_a_field_that_fits_no_column_is_malformed(fields):
    text = json.dumps({"id": "1", "task": "any", **fields})
    with pytest.raises(MalformedMessage):
        Message.from_json(text)
    fine = Message(id="1", task="any", parent_id="é", countdown=1, eta=datetime.now(UTC), retries=3)
    assert Message.from_json(fine.to_json()) == fine


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_as_many_retries_as_a_caller_may_name_arrive(database):
    result = tasks.add.apply_async((1, 2), retries=MOST_RETRIES)
    run_jobs()
    assert result.get(timeout=1) == 3
    with pytest.raises(ValueError, match="retries must be a whole number from 0 to"):
        tasks.add.apply_async((1, 2), retries=MOST_RETRIES + 1)


@pytest.mark.parametrize("database", ["redis"], indirect=True)
@pytest.mark.parametrize("fields", [{"parent_id": "\0"}, {"root_id": "x" * 65}, {"task": "\0"}, {"queue": "q" * 129}])
def test_a_message_that_no_row_could_hold_becomes_a_failed_job(database, fields):
    job_id = new_id()
    message = Message(**{"id": job_id, "task": tasks.add.name, **fields})
    get_broker().enqueue([message])
    run_jobs(message.queue)
    job = Job.objects.get(pk=job_id)
    assert (job.state, job.exception) == ("FAILURE", "djtasks.exceptions.MalformedMessage")
