"""Which jobs filters choose, and how many rows are looked at for it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djtasks import selection, states
from djtasks.conf import settings
from djtasks.message import new_id
from djtasks.models import Job
from djtasks.selection import Selection


@pytest.fixture(autouse=True)
def _a_database(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("database" if "database" in request.fixturenames else "db")


def make(state: str = states.SUCCESS, **columns: Any) -> str:
    now = datetime.now(UTC)
    defaults: dict[str, Any] = {"id": new_id(), "task": "shop.export", "queue": "default", "state": state}
    if state in states.FINISHED:
        defaults |= {"started_at": now - timedelta(seconds=1), "finished_at": now, "seconds": 1.0}
    return str(Job.objects.create(**{**defaults, **columns}).pk)


def chosen(reads_arguments: bool = False, **given: str) -> set[str]:
    found = Selection.read(given, reads_arguments=reads_arguments)
    window = found.window()
    rows = found.matching(window.of(Job.objects.all())).order_by(*window.ordering)
    return set(rows.values_list("pk", flat=True))


def test_what_makes_no_sense_is_no_filter() -> None:
    given = {"longer": "soon", "enqueued": "x", "ended_from": "today", "ended_to": "9999-13-01", "other": "1"}
    assert Selection.read(given).given == {}
    assert Selection.read({"longer": "nan", "state": " FAIL\x00URE "}).given == {"state": "FAILURE"}


def test_run_times_are_compared_of_what_has_ended_and_of_what_runs() -> None:
    make(seconds=1.0)
    now = datetime.now(UTC)
    slow = make(seconds=10.5)
    runs = make(states.STARTED, started_at=now - timedelta(minutes=1))
    make(states.STARTED, started_at=now)
    assert chosen(longer="10") == {slow, runs}
    assert chosen(longer="10.6") == {runs}


def test_ends_lie_between_two_times_of_the_current_zone(settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Seoul"
    early, late = (make(finished_at=datetime(2026, 3, 1, hour, tzinfo=UTC)) for hour in (1, 3))
    assert chosen(ended_from="2026-03-01T09:00", ended_to="2026-03-01T11:00") == {early}
    assert chosen(ended_from="2026-03-01T12:00") == {late}
    assert Selection.read({"ended_from": "2026-03-01T09:00"}).given["ended_from"] == "2026-03-01T00:00:00+00:00"


@pytest.mark.parametrize("state", selection.STATES)
def test_each_state_is_counted_up_to_a_limit(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MOST_COUNTED", 3)
    make(state)
    assert Selection({}).counts()[state] == "1"
    for _ in range(4):
        make(state)
    counts = Selection({}).counts()
    assert re.fullmatch(r"3\+|≈ [1-9][\d,]*", counts.pop(state))  # as the statistics may be of other tests' rows
    assert set(counts.values()) == {"0"}


def test_retries_are_counted_though_more_than_is_counted_is_for_next_year(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MOST_COUNTED", 3)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    for _ in range(7):
        make(states.SCHEDULED, run_at=soon + timedelta(days=365))
    make(states.RETRY, run_at=soon)
    counts = Selection({}).counts()
    assert counts[states.RETRY] == "1+"


@pytest.mark.parametrize(
    ("count", "about", "text"),
    [
        (9_999, 0, "9,999"),
        (10_000, 0, "10,000+"),
        (10_000, 9_000, "10,000+"),
        (10_000, 512_345, "≈ 512,000"),
        (10_000, 4_999_999, "≈ 5,000,000"),
    ],
)
def test_what_is_not_counted_is_estimated_to_three_figures(count: int, about: int, text: str) -> None:
    assert selection.shown(count, about=about) == text


@pytest.mark.parametrize("state", [states.SCHEDULED, states.RETRY])
def test_what_is_for_later_comes_with_what_is_due_last_first(database: str, state: str) -> None:
    times = [datetime.now(UTC) + timedelta(hours=hours) for hours in (2, 3, 1)]
    first, second, third = (make(state, run_at=each) for each in times)
    window = Selection.read({"state": state}).window()
    found = Selection.read({"state": state}).matching().order_by(*window.ordering)
    assert list(found.values_list("pk", flat=True)) == [second, first, third]


def test_states_are_counted_on_each_database(database: str) -> None:
    make(states.FAILURE), make(states.PENDING), make(states.PENDING)
    counts = Selection({}).counts()
    assert (counts[states.FAILURE], counts[states.PENDING], counts[states.SUCCESS]) == ("1", "2", "0")


def test_jobs_are_sought_on_each_database(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, mail = make(queue="mail", args='["Ann"]'), make(queue="mail", args='["Ann"]')
    assert chosen(True, queue="mail", q="Ann", longer="0.5", ended_from="2026-01-01", state="SUCCESS") == {old, mail}
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 1)
    assert chosen(True, queue="mail", q="Ann", enqueued="1h") == {mail}


def test_beside_other_filters_states_are_counted_of_what_these_leave() -> None:
    make(states.FAILURE, queue="mail"), make(states.FAILURE), make(states.SUCCESS, queue="mail")
    counts = Selection.read({"queue": "mail", "state": "FAILURE"}).counts()
    assert (counts[states.FAILURE], counts[states.SUCCESS]) == ("1", "1")


def test_what_no_index_answers_is_sought_among_the_newest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(queue="mail", task="a.rare")
    for _ in range(3):
        make()
    new = make(queue="mail")
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 3)
    assert chosen(queue="mail") == {new}
    assert Selection.read({"queue": "mail"}).window().is_cut
    assert chosen(queue="mail", task="a.rare") == {old}, "Of the task there are few, so all of them are looked at."
    assert not Selection.read({"queue": "mail", "task": "a.rare"}).window().is_cut


@pytest.mark.parametrize(
    "given",
    [{}, {"state": "FAILURE"}, {"state": "SUCCESS"}, {"task": "a"}, {"group_id": "g"}, {"ended_from": "2026-01-01"}],
)
def test_what_an_index_answers_is_not_looked_through(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 1)
    make(), make()
    window = Selection.read(given).window()
    assert not window.is_cut
    assert not window.is_sought


def test_an_id_or_its_beginning_is_found_however_old_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(id="order-17")
    for number in range(5):
        make(task="order-17", id=f"z{number}")
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 2)
    assert chosen(q="order-1") == {old}
    assert chosen(q="order-1", state="FAILURE") == set()


def test_a_text_is_sought_in_arguments_by_those_who_may_read_them() -> None:
    found = make(args='["Ann Smith"]')
    assert chosen(q="Ann Smith") == set()
    assert chosen(q="Ann Smith", reads_arguments=True) == {found}
    umlaut = make(kwargs='{"name":"M\\u00fcller"}')
    assert chosen(q="Müller", reads_arguments=True) == {umlaut}


def test_a_text_is_sought_in_errors_and_only_by_readers_in_their_messages() -> None:
    failed = make(states.FAILURE, exception="shop.OutOfStock", exception_message="Bottles are sold out")
    assert chosen(q="outofstock") == {failed}
    assert chosen(q="bottles") == set()
    assert chosen(q="bottles", reads_arguments=True) == {failed}


def test_what_is_masked_cannot_be_sought() -> None:
    make(kwargs='{"password":"abc-secret"}'), make(args='[{"api_key":"abc-secret"}]')
    make(task="djtasks.mail.send", args='["abc-secret"]')
    assert chosen(q="abc-secret", reads_arguments=True) == set()
    assert chosen(q='"password":"abc', reads_arguments=True) == set()


@pytest.mark.parametrize("database", ["postgresql", "sqlite"], indirect=True)
@pytest.mark.parametrize("given", [{"state": "FAILURE"}, {"state": "FAILURE", "task": "shop.tasks.export"}])
def test_failures_come_by_an_index_in_the_order_of_their_ids(database: str, given: dict[str, str]) -> None:
    connection, found = connections[database], Selection.read(given)
    window = found.window(always=True)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        with CaptureQueriesContext(connection) as said:
            list(found.matching(leads=window.leads).order_by(*window.ordering).values_list("pk")[:50])
        plan = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        cursor.execute(f"{plan} {said.captured_queries[0]['sql']}")
        lines = " ".join(str(row) for row in cursor.fetchall())
    assert "djtasks_job_failed" in lines
    assert "TEMP B-TREE" not in lines
    assert "Sort" not in lines


@pytest.mark.parametrize("reads_arguments", [False, True])
def test_of_a_task_the_newest_are_looked_through_whatever_else_has_run(
    database: str, monkeypatch: pytest.MonkeyPatch, reads_arguments: bool
) -> None:
    old, mail = make(task="a", queue="mail"), make(task="a", queue="mail")
    for _ in range(2):
        make(task="a"), make(task="b", queue="mail")
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 3)
    assert chosen(reads_arguments, task="a", queue="mail") == {mail}
    assert chosen(reads_arguments, task="a", queue="mail", state="SUCCESS", longer="0.5") == {mail}
    counts = Selection.read({"task": "a", "queue": "mail", "state": "FAILURE"}).counts()
    assert (counts["SUCCESS"], counts["FAILURE"]) == ("1+", "–")
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 100)
    assert chosen(reads_arguments, task="a", queue="mail") == {old, mail}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_newest_of_a_task_come_by_its_index(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        make(task="a")
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 2)
    found = Selection.read({"task": "a", "queue": "mail"})
    window = found.window()
    with connections[database].cursor() as cursor:
        cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
    rows = found.matching(window.of(Job.objects.all()), leads=window.leads).order_by(*window.ordering)
    plan = rows[:10].explain()
    assert "djtasks_job_task" in plan
    assert plan.count("Limit") == 2
    assert "Sort" not in plan


def test_all_that_match_are_found_however_many_were_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 1)
    ids = {make(queue="mail") for _ in range(3)}
    assert set(Selection.read({"queue": "mail"}).matching().values_list("pk", flat=True)) == ids


def test_the_databases_alias_is_that_of_the_settings() -> None:
    assert Selection({"queue": "x"}).matching().db == settings.DATABASE
