"""What is done to all jobs that match: in portions, by a job of ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from djtasks import builtin, bulk, states
from djtasks.message import new_id
from djtasks.models import Job
from djtasks.testing import run_jobs
from tests.tasks import add

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MOST_AT_ONCE", 2)


def make(state: str, **columns: Any) -> str:
    ended = {"finished_at": datetime.now(UTC)} if state in states.FINISHED else {}
    return str(
        Job.objects.create(**{"id": new_id(), "task": add.name, "queue": "mail", "state": state, **ended, **columns}).pk
    )


def act(action: str, until: datetime | None = None, **filters: str) -> dict[str, int]:
    found: dict[str, int] = builtin.act_on_all.apply((action, filters, until or datetime.now(UTC)), throw=True).get()
    return found


def count(**columns: Any) -> int:
    return int(Job.objects.filter(**columns).count())


def test_all_that_match_are_retried_and_no_others() -> None:
    for _ in range(5):
        make(states.FAILURE)
    make(states.FAILURE, queue="other"), make(states.SUCCESS)
    assert act("retry", queue="mail", state=states.FAILURE) == {"matched": 5, "done": 5}
    assert (count(state=states.PENDING), count(state=states.FAILURE), count(state=states.SUCCESS)) == (5, 1, 1)


def test_all_that_match_are_cancelled() -> None:
    for _ in range(3):
        make(states.PENDING)
    make(states.SUCCESS)
    assert act("cancel", queue="mail") == {"matched": 3, "done": 3}
    assert count(revoked=True) == 3
    assert act("cancel", queue="mail") == {"matched": 0, "done": 0}, "Twice is as good as once."


def test_only_what_has_ended_is_deleted() -> None:
    for state in (*states.FINISHED, states.PENDING, states.STARTED):
        make(state)
    assert act("delete") == {"matched": 4, "done": 4}
    assert set(Job.objects.values_list("state", flat=True)) == {states.PENDING, states.STARTED}


def test_only_what_runs_is_stopped() -> None:
    make(states.STARTED), make(states.PENDING)
    assert act("stop") == {"matched": 1, "done": 1}
    assert count(revoked=True, state=states.STARTED) == 1


def test_what_matches_only_since_it_was_asked_for_is_left_alone() -> None:
    before = datetime.now(UTC)
    make(states.FAILURE, finished_at=before + timedelta(seconds=1)), make(states.PENDING)
    assert act("retry", before) == act("cancel", before - timedelta(minutes=1)) == {"matched": 0, "done": 0}


def test_a_span_is_counted_from_when_it_was_asked_for() -> None:
    now = datetime.now(UTC)
    make(states.FAILURE, created_at=now - timedelta(hours=3), finished_at=now - timedelta(hours=3))
    assert act("retry", now, enqueued="1h")["done"] == 0
    assert act("retry", now - timedelta(hours=2, minutes=30), enqueued="1h")["done"] == 1


def test_arguments_are_sought_only_for_those_who_might_read_them() -> None:
    make(states.FAILURE, args='["for Ann"]')
    until = datetime.now(UTC)
    for reads, found in ((False, 0), (True, 1)):
        done = builtin.act_on_all.apply(("retry", {"q": "for Ann"}, until, reads), throw=True).get()
        assert done == {"matched": found, "done": found}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_does_it_and_says_how_far_it_is(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        make(states.FAILURE)
    sent = builtin.act_on_all.delay("cancel", {}, datetime.now(UTC) + timedelta(hours=1))
    make(states.PENDING)
    run_jobs()
    assert sent.get(timeout=0) == {"matched": 1, "done": 1}, "It does not cancel itself."
    job = Job.objects.get(pk=sent.id)
    assert job.priority == 100
    assert job.progress() == {"current": 1, "total": 1, "done": 1}
