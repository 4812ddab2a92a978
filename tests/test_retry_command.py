"""`manage.py djtasks retry`: one, many, or all that match."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from djtasks import chain, control, states
from djtasks.message import new_id
from djtasks.models import Job
from djtasks.testing import run_jobs
from tests.canvas.tasks import fail, identity

pytestmark = pytest.mark.every_broker


def retry(*arguments):
    out = StringIO()
    call_command("djtasks", "retry", *arguments, stdout=out)
    return out.getvalue().strip()


def failed(**columns):
    ended = datetime.now(UTC) - timedelta(minutes=1)
    fields = {"task": identity.name, "queue": "default", "state": states.FAILURE, "args": "[1]", "token": 1}
    fields |= {"exception": "ValueError", "finished_at": ended, "started_at": ended}
    return Job.objects.create(**{"id": new_id(), **fields, **columns}).pk


def retried():
    run_jobs()
    return set(Job.objects.filter(state=states.SUCCESS).values_list("pk", flat=True))


def test_jobs_are_retried_by_their_ids(broker):
    first, second, other = failed(), failed(), failed()
    assert retry(first, second) == "2 job(s) will run once more."
    assert retried() == {first, second}
    assert retry("nobody's") == "0 job(s) will run once more. 1 id(s) are of no job that has ended and is kept."
    assert json.loads(retry(other, "--json")) == {"matching": 1, "retried": 1}


def test_all_that_match_the_filters_are_retried(broker):
    wanted = {failed(), failed(exception="shop.errors.ValueError")}
    now = datetime.now(UTC)
    for columns in (
        {"task": "shop.tasks.other"},
        {"queue": "pdf"},
        {"exception": "shop.OtherValueError"},
        {"state": states.REVOKED},
        {"finished_at": now - timedelta(hours=3)},
    ):
        failed(**columns)
    chosen = ("--task", identity.name, "--queue", "default", "--exception", "ValueError", "--since", "2h")
    assert retry(*chosen, "--dry-run") == "2 job(s) would run once more."
    assert json.loads(retry(*chosen, "--no-input", "--json")) == {"matching": 2, "retried": 2}
    assert retried() == wanted


def test_many_are_retried_a_portion_at_a_time_and_none_twice(broker, monkeypatch):
    monkeypatch.setattr(control, "BATCH", 2)
    wanted = [failed() for _ in range(5)]
    portions = control.retry_all(Job.objects.finished())
    assert next(portions) == 2
    Job.objects.filter(pk=wanted[0]).update(state=states.FAILURE, finished_at=datetime.now(UTC))  # again, meanwhile
    late = failed(finished_at=datetime.now(UTC) + timedelta(seconds=60))
    assert list(portions) == [2, 1]
    states_now = dict(Job.objects.values_list("pk", "state"))
    assert [states_now[each] for each in wanted] == [states.FAILURE] + [states.PENDING] * 4
    assert states_now[late] == states.FAILURE


def test_a_limit_takes_the_oldest(broker):
    first, _second = failed(), failed()
    assert retry("--state", "failure", "--limit", "1", "--no-input") == "1 job(s) will run once more."
    assert retried() == {first}


def test_a_chain_that_failed_is_retried_from_the_step_that_did(broker, monkeypatch):
    monkeypatch.setattr(control, "BATCH", 1)
    result = chain(fail.s(1), identity.s(), identity.s()).apply_async()
    run_jobs()
    assert Job.objects.filter(state=states.FAILURE).count() == 3
    assert retry("--state", "FAILURE", "--no-input") == "1 job(s) will run once more."
    assert list(Job.objects.values_list("pk", "state")) == [(result.parent.parent.id, states.PENDING)]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("answer", "done"), [("y", True), ("", False)])
def test_it_asks_with_the_number_before_it_retries_many(database, monkeypatch, answer, done):
    failed()
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    with nullcontext() if done else pytest.raises(CommandError, match=r"^Nothing was retried\.$"):
        retry("--state", "FAILURE")
    assert asked == ["Run 1 job(s) once more, under the same ids and with the same arguments? [y/N] "]
    assert Job.objects.get().is_finished is not done


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Name jobs by their ids"),
        (("x", "--state", "FAILURE"), "Name jobs by their ids"),
        (("--state", "STARTED"), "invalid choice"),
        (("--since", "soon"), "neither a time"),
        (("--since", "2026-13-45"), "neither a time"),
        (("--limit", "0"), "no whole number above 0"),
        (("--state", "FAILURE"), "add --no-input"),
    ],
)
def test_what_cannot_be_done_is_said(database, monkeypatch, arguments, why):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    failed()
    with pytest.raises(CommandError, match=why):
        retry(*arguments)
    assert Job.objects.get().state == states.FAILURE


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("when", ["2026-01-31", "2026-01-31T12:00", "2026-01-31 12:00:00+00:00", "90min", "1 d"])
def test_a_time_is_read_in_many_ways(database, when):
    failed()
    assert retry("--since", when, "--dry-run") == "1 job(s) would run once more."
    assert retry("--until", when, "--dry-run") == "0 job(s) would run once more."
