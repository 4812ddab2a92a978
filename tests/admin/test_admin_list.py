"""The list of jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.db import connections
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djtasks import registry, shared_task, states
from djtasks.admin import JobAdmin, listing
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
    assert len(many) == len(few) <= 9
    assert "web-1" in html
    on_jobs = [query["sql"] for query in many if "djtasks_job" in query["sql"]]
    assert on_jobs
    assert [sql for sql in on_jobs if "LIMIT" not in sql] == []
    assert not any(f'"{column}"' in sql or f"`{column}`" in sql for sql in on_jobs for column in BIG)


def test_the_count_ends_at_a_limit_and_says_so(root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LONGEST_LIST", 5)
    for _ in range(8):
        make_job()
    response = root.get(LIST)
    assert response.context["cl"].result_count == 5
    assert "These are the newest 5." in response.text
    assert "These are the newest" not in root.get(LIST, {"state": states.FAILURE}).text


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
    workers = root.get("/staff/djtasks/worker/").text
    assert all(word in workers for word in ("web-1", ">live<", ">lost<", ">stopped<", "/staff/djtasks/job/?worker=w1"))
    assert workers.count("just now") >= 3
    assert "mail, pdf" in root.get("/staff/djtasks/worker/").text
    assert root.get("/staff/djtasks/worker/w1/change/").status_code == 200


@pytest.mark.parametrize("page", ["worker/"])
def test_workers_are_only_looked_at(root: Client, page: str) -> None:
    Worker.objects.create(id="x", hostname="web-1", pid=1, queues="null", pool="solo", concurrency=1)
    base = f"/staff/djtasks/{page}"
    assert root.get(f"{base}add/").status_code == 403
    assert root.post(f"{base}x/change/", {"hostname": "y"}).status_code == 403
    assert root.post(f"{base}x/delete/", {"post": "yes"}).status_code == 403
