"""Schedules in the admin."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djtasks import registry, states
from djtasks.admin import periodic_task, schedule_runs
from djtasks.admin.schedule_list import BY_STATUS
from djtasks.admin.schedule_runs import SHOWN, recent_runs, wakefulness
from djtasks.conf import settings as our_settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import new_id
from djtasks.models import Job, PeriodicTask, Worker

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/staff/djtasks/periodictask/"
JOBS = "/staff/djtasks/job/"
ATTACK = "<script>alert(1)</script>"
HOUR = timedelta(hours=1)
WORKER = {"hostname": "web-1", "pid": 1, "queues": "null", "pool": "solo", "concurrency": 1}


def make(name: str = "nightly", **columns: Any) -> PeriodicTask:
    return PeriodicTask.objects.create(**{"name": name, "task": "shop.tasks.export", "schedule": "@daily", **columns})


def read(name: str = "nightly") -> PeriodicTask:
    return PeriodicTask.objects.get(name=name)


def page(client: Client, row: PeriodicTask) -> str:
    response = client.get(f"{LIST}{row.pk}/change/")
    assert response.status_code == 200
    return str(response.text)


def listed(client: Client, **query: str) -> list[str]:
    response = client.get(LIST, query)
    assert response.status_code == 200
    return [row.name for row in response.context["cl"].result_list]


def texts_of(html: str, name: str, field: str) -> str:
    """The text in a column of the row of that schedule in the list."""
    row = next(each for each in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if f">{name}" in each)
    (cell,) = re.findall(rf'<t[dh] class="field-{field}[^"]*">(.*?)</t[dh]>', row, re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", cell))).strip()


def form_data(**values: Any) -> dict[str, Any]:
    """What a browser sends of the form."""
    return {
        "name": "nightly",
        "task": "shop.tasks.export",
        "enabled": "on",
        "schedule": "@daily",
        "args": "[]",
        "kwargs": "{}",
        "headers": "{}",
        "jitter": "0",
        "overlap": "on",
        "catch_up": "once",
        **values,
    }


def errors_of(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200
    return dict(response.context["adminform"].form.errors)


def preview(client: Client, **query: Any) -> str:
    response = client.get(f"{LIST}preview/", query)
    assert response.status_code == 200
    return unescape(response.text)


def act(client: Client, action: str, *rows: PeriodicTask, **more: str) -> Any:
    data = {"action": action, "_selected_action": [row.pk for row in rows], **more}
    return client.post(LIST, data, follow=True)


@pytest.fixture
def beat() -> Worker:
    """A worker whose beat is awake."""
    return Worker.objects.create(id="w1", scheduler_at=datetime.now(UTC), **WORKER)


# The list


def test_a_row_tells_what_runs_when_and_where_it_stands(root: Client) -> None:
    make(task="shop.tasks.export", schedule="30 9 * * 1-5", timezone="Europe/Berlin")
    html = root.get(LIST).text
    assert texts_of(html, "nightly", "shown_name") == "nightly export"
    assert 'title="shop.tasks.export"' in html
    assert texts_of(html, "nightly", "shown_schedule") == "at 09:30 on weekdays, Europe/Berlin"
    assert texts_of(html, "nightly", "shown_source") == "database"
    assert texts_of(html, "nightly", "total_run_count") == "0"


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("every 90 seconds", "every 90 seconds"),
        ("at 2040-01-01T10:00:00+00:00", "once at 2040-01-01 10:00 UTC"),
        ("0 0 * * *", "at 00:00 every day, Asia/Seoul"),
        ("nonsense", "nonsense"),
    ],
)
def test_the_zone_stands_where_it_matters(root: Client, schedule: str, words: str) -> None:
    make(schedule=schedule, timezone="Asia/Seoul")
    assert texts_of(root.get(LIST).text, "nightly", "shown_schedule") == words


def test_the_next_run_is_told_exactly_and_how_soon_it_is(root: Client) -> None:
    row = make(schedule="every 3 hours")
    told = texts_of(root.get(LIST).text, "nightly", "next_run")
    assert told == f"in 2 h {timezone.localtime(row.next_run_at):%Y-%m-%d %H:%M:%S} CET"


def test_a_run_that_has_not_come_is_marked_as_late(root: Client) -> None:
    make()
    PeriodicTask.objects.update(next_run_at=datetime.now(UTC) - timedelta(minutes=3, seconds=1))
    assert texts_of(root.get(LIST).text, "nightly", "next_run").startswith("late 3 min ago")


def test_the_last_run_leads_to_its_job_and_tells_its_state(root: Client, make_job: Any) -> None:
    job = make_job(states.FAILURE, periodic_task="nightly")
    make(last_run_at=datetime.now(UTC) - HOUR, last_job=job.pk)
    html = root.get(LIST).text
    assert texts_of(html, "nightly", "last_runs") == "1 h ago FAILURE"
    assert f'href="{JOBS}{job.pk}/change/"' in html


def test_a_last_job_that_is_older_than_the_recent_ones_is_found_too(root: Client, make_job: Any) -> None:
    job = make_job(states.FAILURE, periodic_task="nightly")
    for _ in range(SHOWN):
        make_job(states.SUCCESS, periodic_task="nightly")
    make(last_run_at=datetime.now(UTC), last_job=job.pk)
    assert texts_of(root.get(LIST).text, "nightly", "last_runs") == "just now FAILURE"


def test_a_last_job_without_a_row_has_no_state_and_no_link(root: Client) -> None:
    make(last_run_at=datetime.now(UTC) - HOUR, last_job=new_id())
    html = root.get(LIST).text
    assert texts_of(html, "nightly", "last_runs") == "1 h ago"
    assert f"{JOBS}0" not in html


def test_the_recent_outcomes_are_dots_that_end_with_the_newest(root: Client, make_job: Any) -> None:
    for state in (states.SUCCESS, states.SUCCESS, states.FAILURE):
        make_job(state, periodic_task="nightly")
    make_job(states.REVOKED, periodic_task="other")
    make(last_run_at=datetime.now(UTC))
    html = root.get(LIST).text
    assert re.findall(r'djtasks-dot djtasks-(\w+)" title="(\w+) ·', html) == [
        ("success", "SUCCESS"),
        ("success", "SUCCESS"),
        ("failure", "FAILURE"),
    ]
    assert 'aria-label="The last runs: 2 SUCCESS, 1 FAILURE"' in html
    assert f'href="{JOBS}?periodic_task=nightly"' in html


def test_marks_tell_what_does_not_run_and_why(root: Client) -> None:
    make("bad", schedule="61 * * * *")
    make("off", enabled=False)
    make("over", end_at=datetime(2020, 1, 1, tzinfo=UTC))
    make("away", source="settings", gone=True)
    make("fine")
    html = root.get(LIST).text
    assert "minute: 61 is out of range" in texts_of(html, "bad", "shown_name")
    marks = {name: texts_of(html, name, "shown_name") for name in ("off", "over", "away", "fine")}
    assert marks == {
        "off": "off disabled export",
        "over": "over ended export",
        "away": "away gone from the code export",
        "fine": "fine export",
    }


def test_filters_and_search_narrow_the_list(root: Client) -> None:
    make("bad", schedule="nonsense", task="a.b")
    make("off", enabled=False, source="settings")
    make("over", end_at=datetime(2020, 1, 1, tzinfo=UTC), source="task")
    make("away", source="settings", gone=True)
    make("fine")
    found = {status: listed(root, status=status) for status in BY_STATUS}
    expected = {"broken": ["bad"], "gone": ["away"], "disabled": ["off"], "live": ["fine"], "ended": ["over"]}
    assert found == expected
    assert listed(root, status="nonsense") == []
    assert listed(root, source="settings") == ["away", "off"]
    assert listed(root, task="a.b") == ["bad"]
    assert listed(root, q="FIN") == ["fine"]
    assert listed(root, q="a.b") == ["bad"]


def test_the_filter_by_status_means_what_a_row_says_of_itself(database: str) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    kinds: list[dict[str, Any]] = [{}, {"enabled": False}, {"gone": True}, {"schedule": "nonsense"}, {"end_at": past}]
    for number, (one, other) in enumerate((one, other) for one in kinds for other in kinds):
        make(f"s{number}", **one | other)
    rows = list(PeriodicTask.objects.all())
    for status, condition in BY_STATUS.items():
        expected = {row.name for row in rows if row.status == status}
        assert expected
        assert set(PeriodicTask.objects.filter(condition).values_list("name", flat=True)) == expected


def test_the_list_cannot_be_searched_by_what_may_not_be_seen(log_in: Any) -> None:
    make(kwargs='{"password": "abc"}')
    for lookup in ("kwargs__contains", "args__startswith", "headers__contains"):
        assert log_in("view_periodictask", name=lookup).get(LIST, {lookup: "a"}).status_code == 400


def test_the_number_of_queries_does_not_grow_with_the_rows(root: Client, make_job: Any, beat: Worker) -> None:
    def add(count: int) -> None:
        for number in range(count):
            name = f"s{count}-{number}"
            jobs = [make_job(states.SUCCESS, periodic_task=name) for _ in range(3)]
            make(name, last_run_at=datetime.now(UTC), last_job=jobs[-1].pk)

    def queries() -> int:
        with CaptureQueriesContext(connections[our_settings.DATABASE]) as captured:
            assert root.get(LIST).status_code == 200
        return len(captured)

    add(2)
    few = queries()
    add(30)
    assert queries() == few <= 9


# Their runs


def test_the_newest_runs_of_each_are_read_by_one_statement(database: str, make_job: Any) -> None:
    ids: dict[str, list[str]] = {name: [] for name in ("a", "b'; --", "none")}
    for number in range(SHOWN + 3):
        ids["a"].append(make_job(states.SUCCESS, periodic_task="a").pk)
        if number < 2:
            ids["b'; --"].append(make_job(states.STARTED, periodic_task="b'; --").pk)
    with CaptureQueriesContext(connections[database]) as captured:
        found = {name: [job.pk for job in runs] for name, runs in recent_runs(list(ids)).items()}
    assert len(captured) == 1
    assert found == {name: sorted(each, reverse=True)[:SHOWN] for name, each in ids.items()}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_runs_are_found_by_their_index(database: str) -> None:
    with connections[database].cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {schedule_runs._OF_ONE} UNION ALL {schedule_runs._OF_ONE}", ["a", "b"])
        plan = [row[-1] for row in cursor.fetchall()]
    assert len([line for line in plan if "USING INDEX djtasks_job_schedule (periodic_task=?)" in line]) == 2
    assert not [line for line in plan if line.startswith("SCAN djtasks_job") or "TEMP B-TREE" in line]


def test_no_schedules_need_no_statement(database: str) -> None:
    with CaptureQueriesContext(connections[database]) as captured:
        assert recent_runs([]) == {}
    assert len(captured) == 0


# Whether beat is awake


def test_an_awake_beat_is_told_quietly(root: Client, beat: Worker) -> None:
    html = root.get(LIST).text
    assert "Beat last woke" in html
    assert "It is on board of 1 worker." in html
    assert "Nobody sends what is due" not in html


def test_a_beat_that_is_not_there_is_told_with_what_to_do(root: Client) -> None:
    def notice() -> str:
        html = root.get(LIST).text
        assert "Nobody sends what is due" in html
        assert "manage.py runworker</code>" in html
        assert "manage.py runbeat</code>" in html
        return html

    html = notice()
    assert "No worker runs." in html
    assert "No beat has ever woken here." in html
    Worker.objects.create(id="w1", **WORKER)
    assert "The one worker that runs has no beat on board" in notice()
    Worker.objects.update(scheduler_at=datetime.now(UTC) - HOUR)
    html = notice()
    assert "Beat has fallen silent" in html
    assert "1 h ago" in html


@pytest.mark.parametrize("end", ["stopped_at", "lost_at"])
def test_the_beat_of_a_worker_that_has_ended_is_not_awake(database: str, end: str) -> None:
    now = datetime.now(UTC)
    Worker.objects.create(id="w1", scheduler_at=now, **{end: now}, **WORKER)
    told = wakefulness()
    assert (told.awake, told.workers, told.beats) == (False, 0, 0)
    assert told.woke_at == now
    Worker.objects.create(id="w2", scheduler_at=now - timedelta(seconds=1), **WORKER)
    assert wakefulness().awake
    assert wakefulness().woke_at == now - timedelta(seconds=1)


def test_the_page_of_a_live_schedule_warns_too_if_nobody_is_awake(root: Client) -> None:
    assert "Nobody sends what is due" in page(root, make())
    assert "Nobody sends what is due" not in page(root, make("off", enabled=False))


# The page of one


def test_the_page_tells_the_next_five_runs_in_the_zone_of_the_schedule(root: Client) -> None:
    row = make(schedule="0 0,12 * * *", timezone="Asia/Seoul")
    html = page(root, row)
    runs = [f"{each:%a %Y-%m-%d %H:%M:%S} KST" for each in row.upcoming(5)]
    assert re.findall(r'<ol class="djtasks-ticks">.*?</ol>', html, re.DOTALL)
    assert re.findall(r"<time datetime=[^>]*>(\w+ [\d: -]+ KST)</time>", html) == runs
    assert "at 00:00 and 12:00 every day, Asia/Seoul" in html


def test_the_page_lists_recent_runs_and_leads_to_all(root: Client, make_job: Any) -> None:
    one = make_job(states.FAILURE, periodic_task="nightly")
    make_job(states.SUCCESS, periodic_task="other")
    html = page(root, make(last_run_at=datetime.now(UTC)))
    assert f'href="{JOBS}{one.pk}/change/"' in html
    assert "1 min 0 s" in html
    assert html.count("djtasks-failure") == 1
    address = f"{JOBS}?periodic_task=nightly"
    assert f'href="{address}"' in html
    assert [job.pk for job in root.get(address).context["cl"].result_list] == [one.pk]


def test_nothing_leads_to_jobs_for_those_who_may_not_see_them(log_in: Any, make_job: Any) -> None:
    job = make_job(states.FAILURE, periodic_task="nightly")
    row = make(last_run_at=datetime.now(UTC), last_job=job.pk)
    client = log_in("view_periodictask")
    for html in (page(client, row), client.get(LIST).text):
        assert "FAILURE" in html
        assert JOBS not in html


def test_the_page_of_a_broken_one_says_why(root: Client) -> None:
    html = page(root, make(schedule="61 * * * *"))
    assert "It cannot run" in html
    assert "minute: 61 is out of range" in html


def test_a_task_that_is_not_known_here_is_remarked(root: Client, own_tasks: None) -> None:
    row = make(task="nobody.knows.it")
    assert "No task of the name “nobody.knows.it” is known" in page(root, row)
    PeriodicTask.objects.update(task=registry.names()[0])
    assert "No task of the name" not in page(root, row)


def test_names_and_texts_are_escaped(root: Client) -> None:
    row = make(ATTACK, task=ATTACK, schedule=ATTACK, args=json.dumps([ATTACK]), timezone=ATTACK)
    of_code = make(f"{ATTACK}2", source="settings", kwargs=json.dumps({ATTACK: ATTACK}), task=ATTACK)
    for html in (root.get(LIST).text, page(root, row), page(root, of_code)):
        assert "<script>alert" not in html
    for html in (
        root.get(f"{LIST}preview/", {"schedule": ATTACK, "task": ATTACK}).text,
        root.get(f"{LIST}preview/", {"schedule": "@daily", "timezone": ATTACK}).text,
    ):
        assert "<script>alert" not in html
        assert "&lt;script&gt;" in html


def test_a_job_leads_to_the_schedule_that_sent_it_and_names_its_tick(log_in: Any, make_job: Any) -> None:
    row = make()
    job = make_job(periodic_task="nightly", headers='{"scheduled_for": "2026-03-01T10:00:00+00:00"}')
    address = f"{JOBS}{job.pk}/change/"
    html = log_in("view_job", "view_periodictask").get(address).text
    assert f'<a href="{LIST}{row.pk}/change/">nightly</a>' in html
    assert "2026-03-01 11:00:00 CET" in html
    html = log_in("view_job", name="bob").get(address).text
    assert LIST not in html
    assert "nightly" in html


@pytest.mark.parametrize("headers", ["{}", "[]", "no JSON", '{"scheduled_for": 7}', '{"scheduled_for": "x"}', "null"])
def test_a_job_of_a_schedule_without_its_tick_has_a_page(root: Client, make_job: Any, headers: str) -> None:
    job = make_job(periodic_task="gone", headers=headers)
    html = root.get(f"{JOBS}{job.pk}/change/").text
    assert "gone" in html
    assert "Scheduled for" not in html


# The form


def test_a_schedule_is_added(root: Client) -> None:
    data = form_data(
        schedule="30 9 * * mon-fri", timezone="Asia/Seoul", args='[1, "two"]', kwargs='{"a": 1}', queue="mail",
        priority="5", max_runs="3", expires="60", misfire_grace="", start_at_0="2030-01-01", start_at_1="12:00:00",
    )  # fmt: skip
    assert root.post(f"{LIST}add/", data).status_code == 302
    row = read()
    assert (row.schedule, row.timezone, row.queue, row.priority) == ("30 9 * * 1-5", "Asia/Seoul", "mail", 5)
    assert row.arguments() == ([1, "two"], {"a": 1})
    assert (row.max_runs, row.expires, row.misfire_grace) == (3, 60.0, None)
    assert row.start_at == datetime(2030, 1, 1, 11, tzinfo=UTC)
    assert (row.source, row.status) == ("admin", "live")
    assert row.next_run_at == datetime(2030, 1, 2, 0, 30, tzinfo=UTC)


def test_arguments_that_are_left_empty_are_none(root: Client) -> None:
    assert root.post(f"{LIST}add/", form_data(args="", kwargs=" ", headers="")).status_code == 302
    assert (read().args, read().kwargs, read().headers) == ("[]", "{}", "{}")


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("schedule", "61 * * * *", "minute: 61 is out of range"),
        ("schedule", "", "This field is required."),
        ("timezone", "Europe/Berln", "Did you mean Europe/Berlin?"),
        ("args", "[1", "This is no JSON"),
        ("args", '{"a": 1}', "Write a JSON list"),
        ("kwargs", "[1]", "Write a JSON object"),
        ("headers", "7", "Write a JSON object"),
        ("priority", "101", "from -100 to 100"),
        ("max_runs", "0", "above 0"),
        ("expires", "0", "more than 0"),
        ("jitter", "-1", "0 or more"),
        ("catch_up", "never", "Select a valid choice."),
    ],
)
def test_what_is_wrong_is_told_at_its_field(root: Client, field: str, value: str, text: str) -> None:
    errors = errors_of(root.post(f"{LIST}add/", form_data(**{field: value})))
    assert list(errors) == [field]
    assert text in " ".join(errors[field])
    assert not PeriodicTask.objects.exists()


def test_an_end_before_the_start_and_a_name_that_is_taken_are_refused(root: Client) -> None:
    make()
    days = {"start_at_0": "2030-01-02", "start_at_1": "00:00", "end_at_0": "2030-01-01", "end_at_1": "00:00"}
    errors = errors_of(root.post(f"{LIST}add/", form_data(**days)))
    assert errors["end_at"] == ["The end lies before the start."]
    assert "already exists" in errors["name"][0]


def test_what_was_refused_is_not_taken_for_what_stands(root: Client) -> None:
    row = make()
    response = root.post(f"{LIST}{row.pk}/change/", form_data(name="other", schedule="61 * * * *"))
    assert "<h1>nightly</h1>" in response.text
    assert 'value="61 * * * *"' in response.text


@pytest.mark.parametrize("use_tz", [True, False])
def test_saving_the_form_as_it_is_changes_nothing(root: Client, settings: Any, use_tz: bool) -> None:
    settings.USE_TZ = use_tz
    start = datetime(2020, 7, 1, 10, 30, 7, tzinfo=UTC)
    row = make(schedule="every 7 hours", start_at=start, end_at=datetime(2040, 1, 1, tzinfo=UTC), expires=1.5)
    before = PeriodicTask.objects.values().get()
    form = root.get(f"{LIST}{row.pk}/change/").context["adminform"].form
    data: dict[str, Any] = {}
    for bound in form:
        parts = bound.subwidgets[0].data.get("subwidgets") or [bound.subwidgets[0].data]
        for part in parts:
            if part.get("type") != "checkbox":
                value = bound.value() if bound.name == "catch_up" else part["value"]
                data[part["name"]] = "" if value is None else value
            elif bound.value():
                data[part["name"]] = "on"
    assert data["start_at_1"] == "12:30:07"
    assert root.post(f"{LIST}{row.pk}/change/", data).status_code == 302
    assert PeriodicTask.objects.values().get() == before


def test_tasks_and_zones_are_suggested_and_others_are_welcome(root: Client) -> None:
    html = root.get(f"{LIST}add/").text
    tasks = re.findall(r'<datalist id="id_task_suggestions">(.*?)</datalist>', html, re.DOTALL)[0]
    assert all(f'<option value="{name}">' in tasks for name in registry.names())
    assert 'list="id_task_suggestions"' in html
    zones = re.findall(r'<datalist id="id_timezone_suggestions">(.*?)</datalist>', html, re.DOTALL)[0]
    assert all(f'<option value="{zone}">' in zones for zone in ("Europe/Berlin", "Australia/Lord_Howe", "UTC"))
    assert root.post(f"{LIST}add/", form_data(task="warehouse.tasks.unknown_here")).status_code == 302


def test_the_form_teaches_by_examples_that_hold(root: Client) -> None:
    html = root.get(f"{LIST}add/").text
    examples = [unescape(each) for each in re.findall(r'data-djtasks-example="([^"]+)"', html)]
    assert len(examples) >= 6
    for text in examples:
        assert 'class="djtasks-problem"' not in preview(root, schedule=text)


# What stands in the code


@pytest.mark.parametrize(("source", "where"), [("settings", "BEAT_SCHEDULE"), ("task", "@shared_task(schedule=…)")])
def test_of_what_stands_in_the_code_only_enabled_can_be_changed(root: Client, source: str, where: str) -> None:
    row = make(source=source)
    response = root.get(f"{LIST}{row.pk}/change/")
    assert list(response.context["adminform"].form.fields) == ["enabled"]
    assert where in response.text
    data = form_data(name="other", schedule="* * * * *", task="other")
    del data["enabled"]
    assert root.post(f"{LIST}{row.pk}/change/", data).status_code == 302
    row.refresh_from_db()
    assert (row.name, row.schedule, row.task, row.enabled) == ("nightly", "0 0 * * *", "shop.tasks.export", False)


def test_what_stands_in_the_code_is_not_deleted_and_is_told_why(root: Client) -> None:
    row = make(source="settings")
    assert f"{LIST}{row.pk}/delete/" not in page(root, row)
    for response in (
        root.get(f"{LIST}{row.pk}/delete/", follow=True),
        root.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}, follow=True),
    ):
        assert "Not deleted: nightly. What stands in the code would come back" in response.text
    assert read()


def test_of_many_only_those_are_deleted_that_do_not_come_back(root: Client) -> None:
    staying, gone, own = make("a", source="task"), make("b", source="task", gone=True), make("c")
    asked = act(root, "delete_selected", staying, gone, own)
    assert "Not deleted: a. What stands in the code would come back" in asked.text
    act(root, "delete_selected", staying, gone, own, post="yes")
    assert listed(root) == ["a"]
    assert "would come back" in act(root, "delete_selected", staying, post="yes").text
    assert listed(root) == ["a"]


def test_what_is_gone_from_the_code_may_be_deleted(root: Client) -> None:
    row = make(source="settings", gone=True)
    assert "gone from there" in page(root, row)
    assert root.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not PeriodicTask.objects.exists()


def test_arguments_that_cannot_be_edited_are_masked_and_shown_to_those_who_may_see_them(log_in: Any) -> None:
    columns = {"args": '["visible"]', "kwargs": '{"password": "s3cret"}', "headers": '{"token": "s3cret"}'}
    rows = [make(**columns), make("of-code", source="settings", **columns)]
    blind = log_in("view_periodictask")
    sighted = log_in("view_periodictask", "view_job_arguments", name="bob")
    editor = log_in("change_periodictask", name="cy")
    for row in rows:
        assert "visible" not in page(blind, row)
        assert "Can view the arguments" in page(blind, row)
        html = page(sighted, row)
        assert "visible" in html
        assert "s3cret" not in html
    assert "visible" in page(editor, rows[0])
    assert "visible" not in page(editor, rows[1])


# The preview


def test_the_preview_says_what_is_typed_and_when_it_would_run(root: Client) -> None:
    html = preview(root, schedule="30 9 * * mon-fri", timezone="Europe/Berlin")
    assert "at 09:30 on weekdays, Europe/Berlin" in html
    days = re.findall(r">(\w{3}) \d{4}-\d\d-\d\d 09:30:00 CES?T<", html)
    assert len(days) == 5
    assert set(days) == {"Mon", "Tue", "Wed", "Thu", "Fri"}


def test_the_preview_has_the_errors_of_the_form(root: Client) -> None:
    query = {"schedule": "61 * * * *", "timezone": "Europe/Berln", "max_runs": "0"}
    html = preview(root, **query)
    for texts in errors_of(root.post(f"{LIST}add/", form_data(**query))).values():
        assert all(text in html for text in texts)


def test_the_preview_minds_beginning_end_and_number_of_runs(root: Client) -> None:
    begin = preview(root, schedule="@daily", start_at_0="2040-01-01", start_at_1="00:00:00", max_runs="2")
    assert re.findall(r">\w+ (2040-\d\d-\d\d)", begin) == ["2040-01-01", "2040-01-02"]
    assert "There is no run to come" in preview(root, schedule="@daily", end_at_0="2020-01-01", end_at_1="00:00:00")
    once = preview(root, schedule="@daily", one_off="on")
    assert once.count("<li>") == 1


def test_an_interval_that_is_not_changed_goes_on_as_it_does(root: Client) -> None:
    row = make(schedule="every 100 days", enabled=True)
    PeriodicTask.objects.update(next_run_at=datetime.now(UTC) + 3 * HOUR)
    query = {"row": str(row.pk), "timezone": ""}
    assert "in 2 h" in preview(root, schedule="every 100 days", **query)
    assert "in 2 h" not in preview(root, schedule="every 101 days", **query)


def test_the_preview_tells_what_a_disabled_row_would_do_and_stores_nothing(root: Client) -> None:
    row = make(enabled=False)
    before = PeriodicTask.objects.values().get()
    assert preview(root, schedule="@hourly", row=str(row.pk)).count("<li>") == 5
    assert PeriodicTask.objects.values().get() == before


def test_of_nothing_there_is_no_preview(root: Client) -> None:
    assert preview(root, schedule=" ").strip() == ""
    assert preview(root).strip() == ""
    assert "No task of the name “x.y” is known" in preview(root, task="x.y")


@pytest.mark.parametrize("row", ["x", "999", "\x00", "9" * 50])
def test_a_preview_of_a_row_that_is_not_there_is_one_of_a_new_row(root: Client, row: str) -> None:
    assert preview(root, schedule="@daily", row=row).count("<li>") == 5


# What may be done


def test_schedules_are_enabled_and_disabled(root: Client) -> None:
    on, off = make("on"), make("off", enabled=False)
    assert "1 schedule was disabled." in act(root, "disable", on, off).text
    assert not read("on").enabled
    assert read("on").next_run_at is None
    assert "2 schedules were enabled." in act(root, "enable", on, off).text
    assert all(row.next_run_at > datetime.now(UTC) for row in PeriodicTask.objects.all())
    assert LogEntry.objects.count() == 3


def test_what_is_gone_is_not_enabled(root: Client) -> None:
    row = make(source="settings", gone=True, enabled=False)
    assert "gone from the code cannot run" in act(root, "enable", row).text
    assert not read().enabled


def test_the_page_switches_one_on_and_off(root: Client) -> None:
    row = make()
    assert f'action="{LIST}{row.pk}/disable/"' in page(root, row)
    root.post(f"{LIST}{row.pk}/disable/")
    assert not read().enabled
    assert f'action="{LIST}{row.pk}/enable/"' in page(root, row)
    root.post(f"{LIST}{row.pk}/enable/")
    assert read().status == "live"


def test_run_now_sends_a_job_and_leaves_the_ticks_alone(root: Client) -> None:
    row = make(args="[7]")
    response = root.post(f"{LIST}{row.pk}/run/", follow=True)
    job = Job.objects.get()
    assert (job.task, job.args, job.periodic_task, job.state) == ("shop.tasks.export", "[7]", "nightly", "PENDING")
    assert "A job of nightly was sent." in response.text
    assert f'href="{JOBS}{job.pk}/change/"' in response.text
    assert read().next_run_at == row.next_run_at
    assert LogEntry.objects.get().object_repr == "nightly"


def test_run_now_takes_many_and_names_those_that_cannot_run(root: Client) -> None:
    rows = [make("a"), make("b", enabled=False), make("bad", schedule="nonsense"), make("away", gone=True)]
    html = act(root, "run_now", *rows).text
    assert set(Job.objects.values_list("periodic_task", flat=True)) == {"a", "b"}
    assert "A job each of a, b was sent." in html
    assert "No job of bad was sent: schedule:" in html
    assert "No job of away was sent: it is gone from the code" in html


def test_run_now_says_so_if_more_were_selected_than_are_run_at_a_time(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic_task, "MOST_AT_ONCE", 2)
    assert "More were selected" not in act(root, "run_now", make("a"), make("b")).text
    html = act(root, "run_now", *PeriodicTask.objects.all(), make("c")).text
    assert "More were selected. Only the first 2 are run at a time." in html
    assert Job.objects.filter(periodic_task="c").count() == 0


def test_run_now_says_so_if_the_broker_does_not_answer(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> str:
        raise BrokerUnavailable("The server does not answer.")

    monkeypatch.setattr(periodic_task.control, "run_schedule", fail)
    html = root.post(f"{LIST}{make().pk}/run/", follow=True).text
    assert "No job of nightly was sent: The server does not answer." in html
    assert not LogEntry.objects.exists()


# Who may do what


@pytest.mark.parametrize(
    ("address", "permissions"),
    [
        ("", ["view_periodictask"]),
        ("{pk}/change/", ["view_periodictask"]),
        ("{pk}/history/", ["view_periodictask"]),
        ("add/", ["add_periodictask"]),
        ("{pk}/delete/", ["delete_periodictask", "view_periodictask"]),
        ("preview/?schedule=@daily", ["add_periodictask"]),
        ("preview/?schedule=@daily&row={pk}", ["change_periodictask"]),
    ],
)
def test_each_page_asks_for_its_permission(log_in: Any, address: str, permissions: list[str]) -> None:
    url = f"{LIST}{address.format(pk=make().pk)}"
    assert Client().get(url).status_code == 302
    others = {"send_task", "run_periodictask", "view_job"}
    assert log_in(*others).get(url).status_code == 403
    assert log_in(*permissions, name="bob").get(url).status_code == 200


@pytest.mark.parametrize("permission", ["view", "run"])
def test_one_may_not_look_at_a_preview_who_may_not_write(log_in: Any, permission: str) -> None:
    client = log_in(f"{permission}_periodictask")
    assert client.get(f"{LIST}preview/", {"schedule": "@daily"}).status_code == 403
    assert client.get(f"{LIST}preview/", {"schedule": "@daily", "row": make().pk}).status_code == 403


@pytest.mark.parametrize(
    ("action", "permission"),
    [("run", "run_periodictask"), ("enable", "change_periodictask"), ("disable", "change_periodictask")],
)
def test_each_action_asks_for_its_permission(log_in: Any, action: str, permission: str) -> None:
    row = make(enabled=action != "enable")
    url = f"{LIST}{row.pk}/{action}/"
    choice = "run_now" if action == "run" else action
    others = {"run_periodictask", "change_periodictask", "send_task", "view_periodictask"} - {permission}
    clients = (Client(), log_in(*others), log_in(permission, "view_periodictask", name="bob"))
    for client in clients[:2]:
        assert client.post(url).status_code in (302, 403)
        act(client, choice, row)
    assert (Job.objects.count(), read().enabled) == (0, row.enabled)
    assert clients[2].get(url).status_code == 405
    assert clients[2].post(url).status_code == 302
    assert (Job.objects.count(), read().enabled) == ((1, True) if action == "run" else (0, action == "enable"))


def test_to_run_without_viewing_is_not_enough(log_in: Any) -> None:
    assert log_in("run_periodictask").post(f"{LIST}{make().pk}/run/").status_code == 403
    assert not Job.objects.exists()


def test_buttons_are_for_those_who_may_press_them(log_in: Any) -> None:
    row = make()
    assert "/run/" not in page(log_in("view_periodictask"), row)
    html = page(log_in("view_periodictask", "run_periodictask", name="bob"), row)
    assert "/run/" in html
    assert "/disable/" not in html


@pytest.mark.parametrize("address", ["{pk}/run/", "{pk}/disable/", "{pk}/change/", "add/", "{pk}/delete/", ""])
def test_a_forged_request_does_nothing(root: Client, address: str) -> None:
    row = make()
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(username="root"))
    data = form_data(name="forged", post="yes", action="run_now", _selected_action=row.pk)
    assert client.post(f"{LIST}{address.format(pk=row.pk)}", data).status_code == 403
    assert PeriodicTask.objects.values_list("name", "enabled").get() == ("nightly", True)
    assert not Job.objects.exists()


@pytest.mark.parametrize("address", ["x/run/", "999/enable/", "%00/run/"])
def test_what_is_not_there_leads_to_the_list(root: Client, address: str) -> None:
    assert root.post(f"{LIST}{address}").status_code in (302, 404)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_the_preview_is_only_looked_at(root: Client, method: str) -> None:
    assert getattr(root, method)(f"{LIST}preview/").status_code == 405
