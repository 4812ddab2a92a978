"""The list of jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.db import connections
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djtasks import registry, selection, shared_task, states
from djtasks.admin import JobAdmin
from djtasks.admin.presentation import LOOKS, distance, duration
from djtasks.conf import settings as our_settings
from djtasks.models import Job, Queue, Worker

LIST = "/staff/djtasks/job/"
BIG = ("args", "kwargs", "result", "traceback", "exception_message", "attempts", "meta", "headers", "options")


def listed(client: Client, **query: str) -> list[str]:
    response = client.get(LIST, query)
    assert response.status_code == 200
    return [job.pk for job in response.context["cl"].result_list]


def test_the_newest_come_first(root: Client, make_job: Any) -> None:
    jobs = [make_job() for _ in range(3)]
    assert listed(root) == [job.pk for job in reversed(jobs)]


def test_what_was_cancelled_before_it_came_is_named_by_its_id(root: Client, db: None) -> None:
    Job.objects.create(id="never-seen", task="", queue="", state=states.REVOKED, revoked=True)
    assert ">never-seen<" in root.get(LIST).text


@pytest.mark.parametrize("state", [*states.WAITING, *states.RUNNING, *states.SETTLED])
def test_each_state_has_a_pill_of_its_look(root: Client, make_job: Any, state: str) -> None:
    make_job(state)
    assert f'<span class="djtasks-pill djtasks-{LOOKS[state]}">{state}</span>' in root.get(LIST).text


def test_a_running_job_shows_what_its_task_said_of_itself(root: Client, make_job: Any) -> None:
    make_job(states.STARTED, custom_state="PROGRESS")
    assert '<span class="djtasks-pill djtasks-running">PROGRESS</span>' in root.get(LIST).text


@pytest.mark.parametrize("use_tz", [True, False])
def test_times_are_ages_with_the_exact_time_on_hover(root: Client, make_job: Any, settings: Any, use_tz: bool) -> None:
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "Asia/Seoul"
    moment = datetime.now(UTC) - timedelta(minutes=3)
    job = make_job(created_at=moment)
    timezone.get_default_timezone.cache_clear()
    html = root.get(LIST).text
    shown = moment + timedelta(hours=9)
    assert f'<time datetime="{moment.isoformat()}" title="{shown:%Y-%m-%d %H:%M:%S} KST"' in html
    assert "3 min ago" in html
    assert "3 min ago" in root.get(f"{LIST}{job.pk}/change/").text


def test_distances_go_both_ways() -> None:
    now = datetime.now(UTC)
    assert distance(now) == "just now"
    assert distance(now - timedelta(days=2, hours=1)) == "2 d ago"
    assert distance(now + timedelta(hours=2, minutes=1)) == "in 2 h"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0012, "1.2 ms"), (0.25, "250 ms"), (3.214, "3.21 s"), (245, "4 min 5 s"), (7380, "2 h 3 min")],
)
def test_run_times_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_jobs_are_found_by_their_id_or_its_beginning(root: Client, make_job: Any) -> None:
    for name in ("order-1", "order-10", "order-2", "a%b_c"):
        make_job(id=name)
    assert set(listed(root, q="order-1")) == {"order-1", "order-10"}
    assert listed(root, q="  order-2 ") == ["order-2"]
    assert listed(root, q="a%") == ["a%b_c"]
    assert listed(root, q="rder") == []


def test_jobs_are_found_by_their_task(root: Client, make_job: Any) -> None:
    @shared_task(name="warehouse.stock.count_bottles")
    def count_bottles() -> None: ...

    known, unknown = make_job(task="warehouse.stock.count_bottles"), make_job(task="elsewhere.report")
    try:
        assert listed(root, q="BOTTLE") == [known.pk]
        assert listed(root, q="elsewhere.") == [unknown.pk]
    finally:
        registry.unregister("warehouse.stock.count_bottles")


def test_filters_narrow_the_list(root: Client, make_job: Any) -> None:
    worker = Worker.objects.create(id="w1", hostname="web-1", pid=1, queues="null", pool="solo", concurrency=1)
    one = make_job(
        states.FAILURE,
        task="a.b",
        queue="mail",
        worker="w1.2",
        created_at=datetime.now(UTC) - timedelta(hours=2),
    )
    other = make_job(states.SUCCESS, worker="w10.1")
    for query in ({"state": states.FAILURE}, {"task": "a.b"}, {"queue": "mail"}, {"worker": worker.pk}):
        assert listed(root, **query) == [one.pk]
    assert listed(root, enqueued="1h") == [other.pk]
    assert set(listed(root, enqueued="24h")) == {one.pk, other.pk}
    assert set(listed(root, enqueued="nonsense")) == {one.pk, other.pk}


def test_a_name_that_is_asked_for_is_offered_though_nobody_knows_it(root: Client) -> None:
    html = root.get(LIST, {"task": "gone.task", "queue": "gone-queue"}).text
    assert "gone.task" in html
    assert "gone-queue" in html


def test_queues_come_from_settings_tasks_and_recent_jobs(root: Client, make_job: Any) -> None:
    make_job(queue="from-a-job")
    Queue.objects.create(name="from-a-row")
    html = root.get(LIST).text
    assert "from-a-job" in html
    assert "from-a-row" in html
    assert our_settings.TASK_DEFAULT_QUEUE in html


def test_no_query_reads_the_big_texts_or_grows_with_the_jobs(root: Client, make_job: Any) -> None:
    Worker.objects.create(id="w1", hostname="web-1", pid=1, queues="null", pool="solo", concurrency=1)
    for _ in range(51):
        make_job(states.SUCCESS, worker="w1.1", args="[1]", result="1")
    with CaptureQueriesContext(connections[our_settings.DATABASE]) as few:
        root.get(LIST)
    for number in range(30):
        make_job(states.SUCCESS, worker=f"w1.{number}", task=f"task_{number}")
    with CaptureQueriesContext(connections[our_settings.DATABASE]) as many:
        html = root.get(LIST).text
    assert len(many) == len(few) <= 10
    assert "web-1" in html
    on_jobs = [query["sql"] for query in many if "djtasks_job" in query["sql"]]
    assert on_jobs
    assert [sql for sql in on_jobs if "LIMIT" not in sql] == []
    assert not any(f'"{column}"' in sql or f"`{column}`" in sql for sql in on_jobs for column in BIG)


def pages_of(client: Client, word: str, **query: str) -> list[list[str]]:
    """The ids on each page, as the links lead from one to the next: `word` is "older" or "newer"."""
    found, link = [], f"?{urlencode(query)}"
    while link:
        cl = client.get(f"{LIST}{link}").context["cl"]
        found.append([job.pk for job in cl.result_list])
        link = getattr(cl, word)
    return found


@pytest.mark.parametrize("query", [{}, {"state": "FAILURE"}, {"state": "SUCCESS"}, {"queue": "mail"}], ids=str)
def test_links_lead_through_all_pages_and_back(
    root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    monkeypatch.setattr(JobAdmin, "list_per_page", 3)
    monkeypatch.setattr(selection, "MOST_COUNTED", 4 if "queue" not in query else 100)
    now = datetime.now(UTC)
    columns = {"queue": "mail", "finished_at": now}  # at the same time: the ids decide
    jobs = [make_job(query.get("state", states.SUCCESS), **columns).pk for _ in range(8)][::-1]
    make_job(states.PENDING)
    expected = [jobs[:3], jobs[3:6], jobs[6:]]
    if not query:
        newest = Job.objects.latest("id").pk
        expected = [[newest, *jobs[:2]], jobs[2:5], jobs[5:]]
    assert pages_of(root, "older", **query) == expected
    last = root.get(f"{LIST}?{urlencode({**query, 'before': _place(expected[1][-1], query)})}").context["cl"]
    assert [job.pk for job in last.result_list] == expected[2]
    assert [job.pk for job in root.get(f"{LIST}{last.newer}").context["cl"].result_list] == expected[1]
    first = root.get(f"{LIST}{root.get(f'{LIST}{last.newer}').context['cl'].newer}").context["cl"]
    assert [job.pk for job in first.result_list] == expected[0]
    assert first.newer == ""


def _place(pk: str, query: dict[str, str]) -> str:
    if query.get("state") != "SUCCESS":
        return pk
    return f"{Job.objects.get(pk=pk).finished_at.isoformat()} {pk}"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["before", "after"])
@pytest.mark.parametrize("text", ["x", "2026-01-01 y", "\x00", "9" * 500])
@pytest.mark.parametrize("query", [{}, {"state": "SUCCESS"}, {"queue": "default"}], ids=str)
def test_a_place_that_nobody_knows_breaks_nothing(
    root: Client, make_job: Any, name: str, text: str, query: Any
) -> None:
    make_job(states.SUCCESS)
    assert root.get(LIST, {**query, name: text}).status_code == 200


def test_a_filter_begins_at_the_first_page_again(root: Client, make_job: Any) -> None:
    job = make_job()
    html = root.get(LIST, {"before": job.pk}).text
    assert "before=" not in html.partition('id="changelist-filter"')[2]


def test_each_state_has_its_number_beside_it(root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MOST_COUNTED", 3)
    for _ in range(3):
        make_job(states.FAILURE)
    make_job(states.PENDING, queue="mail")
    html = root.get(LIST).text
    assert 'FAILURE <span class="djtasks-count">3+</span>' in html
    assert 'PENDING <span class="djtasks-count">1</span>' in html
    assert "3+ jobs match" in html
    html = root.get(LIST, {"queue": "mail"}).text
    assert 'FAILURE <span class="djtasks-count">0</span>' in html
    assert 'PENDING <span class="djtasks-count">1</span>' in html


def test_what_was_not_looked_through_is_said(root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_job(queue="mail")
    for _ in range(3):
        make_job()
    assert listed(root, queue="mail") == [old.pk]
    assert "were looked through" not in root.get(LIST, {"queue": "mail"}).text
    monkeypatch.setattr(selection, "LOOKED_THROUGH", 2)
    assert listed(root, queue="mail") == []
    assert (
        "Only the newest 2 that the filters leave were looked through for the rest."
        in root.get(LIST, {"queue": "mail"}).text
    )
    assert "were looked through" not in root.get(LIST, {"state": "FAILURE"}).text


def test_times_and_run_times_are_typed_into_forms_that_keep_the_other_filters(root: Client, make_job: Any) -> None:
    slow, quick = make_job(states.SUCCESS, seconds=100.0), make_job(states.SUCCESS, seconds=0.1)
    assert listed(root, longer="60") == [slow.pk]
    assert set(listed(root, longer="x")) == {slow.pk, quick.pk}
    tomorrow = timezone.localtime() + timedelta(days=1)
    assert listed(root, ended_from=tomorrow.strftime("%Y-%m-%dT%H:%M")) == []
    html = root.get(LIST, {"longer": "2.5", "state": "SUCCESS", "ended_to": "2026-03-01T09:30"}).text
    assert '<input type="hidden" name="state" value="SUCCESS">' in html
    assert 'name="longer" min="0" step="any" value="2.5"' in html
    assert 'name="ended_to" value="2026-03-01T09:30"' in html
    assert timezone.get_current_timezone_name() in html


def test_a_text_is_sought_in_arguments_only_by_those_who_may_read_them(
    root: Client, log_in: Any, make_job: Any
) -> None:
    job = make_job(args='["order 17"]')
    assert listed(root, q="order 17") == [job.pk]
    assert listed(log_in("view_job"), q="order 17") == []


def test_what_may_not_be_seen_may_not_be_searched_either(log_in: Any, make_job: Any) -> None:
    make_job(kwargs='{"password":"abc"}')
    client = log_in("view_job")
    for lookup in ("kwargs__contains", "args__startswith", "traceback__contains", "result", "state__in"):
        assert client.get(LIST, {lookup: "a"}).status_code == 400


def test_no_column_can_be_sorted_by(root: Client, make_job: Any) -> None:
    jobs = [make_job(priority=priority) for priority in (5, 1, 3)]
    assert listed(root, o="4") == [job.pk for job in reversed(jobs)]


def test_relatives_can_be_listed(root: Client, make_job: Any) -> None:
    child = make_job(parent_id="p", group_id="g")
    make_job()
    assert listed(root, parent_id="p") == [child.pk]
    assert listed(root, group_id="g") == [child.pk]


def test_the_queries_name_the_apps_database(settings: Any) -> None:
    settings.DJTASKS = {**getattr(settings, "DJTASKS", {}), "DATABASE": "elsewhere"}
    queryset = JobAdmin(Job, admin.site).get_queryset(RequestFactory().get(LIST))
    assert queryset.db == "elsewhere"


def test_workers_are_listed(root: Client) -> None:
    now = datetime.now(UTC)
    columns = {"pid": 1, "queues": '["mail", "pdf"]', "pool": "solo", "concurrency": 1}
    Worker.objects.create(id="w1", hostname="web-1", **columns)
    Worker.objects.create(id="w2", hostname="web-2", lost_at=now, **columns)
    Worker.objects.create(id="w3", hostname="web-3", stopped_at=now, **columns)
    workers = root.get("/staff/djtasks/worker/?status=all").text
    assert all(word in workers for word in ("web-1", ">live<", ">lost<", ">stopped<"))
    assert workers.count("just now") >= 3
    assert "mail, pdf" in workers
    assert "/staff/djtasks/job/?worker=w1" in root.get("/staff/djtasks/worker/w1/change/").text


@pytest.mark.parametrize("page", ["worker/"])
def test_workers_are_only_looked_at(root: Client, page: str) -> None:
    Worker.objects.create(id="x", hostname="web-1", pid=1, queues="null", pool="solo", concurrency=1)
    base = f"/staff/djtasks/{page}"
    assert root.get(f"{base}add/").status_code == 403
    assert root.post(f"{base}x/change/", {"hostname": "y"}).status_code == 405
    assert root.post(f"{base}x/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Seoul"])
@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-23:59"]
)
@pytest.mark.parametrize("name", ["after", "before", "ended_from", "ended_to"])
def test_a_time_at_the_edge_of_the_calendar_is_none(
    root: Client, make_job: Any, settings: Any, zone: str, moment: str, name: str
) -> None:
    settings.TIME_ZONE = zone
    job = make_job(states.SUCCESS)
    value = f"{moment} x" if name in ("after", "before") else moment
    found = listed(root, state=states.SUCCESS, **{name: value})
    assert found == [job.pk] or name in ("after", "before")
