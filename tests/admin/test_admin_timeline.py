"""Where a job's time went."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from djtasks import states
from djtasks.admin.timeline import WIDTH, timeline
from djtasks.models import Job

START = datetime.now(UTC) - timedelta(hours=1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def job(state: str, **columns: Any) -> Job:
    return Job(id="j", task="a.b", queue="q", state=state, created_at=START, **columns)


def attempt(start: float, seconds: float, ending: str) -> dict[str, Any]:
    return {"token": 1, "start": at(start).isoformat(), "seconds": seconds, "ending": ending}


def told(row: Job) -> list[tuple[str, str, float]]:
    """Each span's look, label and whole seconds."""
    return [(each.look, each.label, round((each.end - each.start).total_seconds())) for each in timeline(row).spans]


def test_a_job_waits_and_runs() -> None:
    row = job(states.SUCCESS, started_at=at(3), seconds=60.0, finished_at=at(63), token=1)
    assert told(row) == [("waiting", "In the queue", 3), ("success", "Run", 60)]


def test_a_scheduled_job_waits_for_its_time_first() -> None:
    row = job(states.FAILURE, run_at=at(600), started_at=at(605), seconds=1.0, finished_at=at(606), token=1)
    assert told(row) == [("scheduled", "Until it was due", 600), ("waiting", "In the queue", 5), ("failure", "Run", 1)]


def test_each_try_and_what_lies_between_is_told() -> None:
    attempts = json.dumps([attempt(2, 1, states.RETRY), attempt(10, 2, states.RETRY)])
    row = job(states.SUCCESS, attempts=attempts, run_at=at(20), started_at=at(21), seconds=4.0, finished_at=at(25))
    assert told(row) == [
        ("waiting", "In the queue", 2), ("failure", "Run 1", 1),
        ("retry", "Until its next try", 7), ("failure", "Run 2", 2),
        ("retry", "Until its next try", 8), ("waiting", "In the queue", 1), ("success", "Run 3", 4),
    ]  # fmt: skip


def test_what_runs_or_waits_goes_on() -> None:
    runs = timeline(job(states.STARTED, started_at=at(5), token=1)).spans
    assert [(each.label, each.goes_on) for each in runs] == [("In the queue", False), ("Run", True)]
    assert runs[-1].length.endswith(" …")
    waits = timeline(job(states.PENDING)).spans
    assert [(each.label, each.goes_on) for each in waits] == [("In the queue", True)]
    due = timeline(job(states.SCHEDULED, run_at=at(2 * 3600))).spans
    assert [(each.label, each.goes_on) for each in due] == [("Until it was due", True)]
    late = timeline(job(states.PENDING, run_at=at(60))).spans
    assert [(each.label, each.goes_on) for each in late] == [("Until it was due", False), ("In the queue", True)]


def test_a_job_that_waits_for_its_next_try_tells_of_the_last() -> None:
    row = job(states.RETRY, attempts=json.dumps([attempt(1, 1, states.RETRY)]), run_at=at(2 * 3600))
    assert [look for look, _label, _seconds in told(row)] == ["waiting", "failure", "retry"]


def test_a_job_that_was_retried_by_hand_rested_in_between() -> None:
    row = job(states.SUCCESS, attempts=json.dumps([attempt(1, 1, states.FAILURE)]), started_at=at(100), seconds=1.0)
    assert told(row)[2] == ("ignored", "Between its runs", 98)


def test_a_job_that_never_ran_only_waited() -> None:
    assert told(job(states.REVOKED, finished_at=at(9))) == [("waiting", "In the queue", 9)]


def test_the_bar_is_filled_and_no_span_too_short_to_be_seen() -> None:
    spans = timeline(job(states.SUCCESS, started_at=at(3000), seconds=0.01, finished_at=at(3000.01))).spans
    assert spans[1].width >= 7
    assert spans[-1].x + spans[-1].width == pytest.approx(WIDTH, abs=0.1)
    assert spans[0].x == 0


@pytest.mark.parametrize(
    "attempts", ["{", "[1]", '[{"start":"soon"}]', '[{"start":"2026-01-01","seconds":"x"}]', "[[]]"]
)
def test_attempts_that_nobody_can_read_are_left_out(attempts: str) -> None:
    row = job(states.FAILURE, attempts=attempts, started_at=at(1), seconds=1.0, finished_at=at(2))
    assert [label for _look, label, _seconds in told(row)][:1] == ["In the queue"]


def test_a_clock_that_was_put_back_breaks_nothing() -> None:
    row = job(states.SUCCESS, started_at=at(-5), seconds=1.0, finished_at=at(-4))
    assert told(row) == [("success", "Run", 1)]
