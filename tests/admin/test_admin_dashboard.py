"""The dashboard: the index of the app in the admin, for those who may see jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin import AdminSite, ModelAdmin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path

from djtasks import control, states, statistics
from djtasks.brokers import get_broker
from djtasks.brokers.database.broker import DatabaseBroker
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Message, first_id, new_id
from djtasks.models import Job, PeriodicTask, Worker
from djtasks.models.fields import utc_now
from tests.site import Site

INDEX = "/staff/djtasks/"
FRAGMENT = "/staff/djtasks/job/dashboard/"
MINUTE = timedelta(minutes=1)
STATEMENTS = 30  # of the whole page at most, whatever ran: session and user, figures, tables, Django's own


@pytest.fixture
def enqueue() -> Callable[..., list[str]]:
    def send(count: int = 1, **columns: Any) -> list[str]:
        made = [Message(**{"id": new_id(), "task": "shop.tasks.export", **columns}) for _ in range(count)]
        get_broker().enqueue(made)
        return [each.id for each in made]

    return send


@pytest.fixture
def make_worker() -> Callable[..., Worker]:
    def make(pk: str = "w1", **columns: Any) -> Worker:
        values = {"hostname": f"{pk}@web", "pid": 1, "queues": "null", "pool": "prefork", "concurrency": 4, **columns}
        return Worker.objects.create(id=pk, **values)

    return make


def ended(ago: timedelta, *, count: int = 1, seconds: float = 0.5, waited: float = 2.0, **columns: Any) -> None:
    """Jobs that ended so long ago, and began `seconds` earlier, after they had waited."""
    end = utc_now() - ago
    begun = end - timedelta(seconds=seconds)
    values = {"task": "shop.tasks.export", "queue": "default", "state": states.SUCCESS, **columns}
    Job.objects.bulk_create(
        Job(
            id=f"{first_id(end)}{new_id()[13:]}", seconds=seconds, created_at=begun - timedelta(seconds=waited),
            started_at=begun, finished_at=end, **values,
        )
        for _ in range(count)
    )  # fmt: skip


def text_of(page: str) -> str:
    """What stands on the page, without markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def section(page: str, name: str) -> str:
    """The text of one section or figure of it, by its id."""
    found = re.search(rf'<(section|figure)[^>]* id="djtasks-{name}".*?</\1>', page, re.DOTALL)
    return text_of(found[0]) if found else ""


def figure(page: str, name: str) -> str:
    """One of the figures on top: '3.2/s 120 jobs'."""
    found = re.search(rf'djtasks-figure-{name}"><dt>.*?</dt><dd>(.*?)</dd>', page, re.DOTALL)
    assert found, name
    return text_of(found[1]).strip()


def notices(page: str) -> list[str]:
    """What needs attention, by kind."""
    return re.findall(r'<li class="djtasks-notice-(\w+)', page)


# Who sees it


def test_who_may_see_jobs_sees_it_above_the_list_of_models(log_in: Any) -> None:
    page = log_in("view_job").get(INDEX).text
    assert page.index('id="djtasks-dashboard"') < page.index('href="/staff/djtasks/job/"')


def test_who_may_not_sees_the_plain_index(log_in: Any) -> None:
    client = log_in("view_worker")
    page = client.get(INDEX)
    assert page.status_code == 200
    assert 'id="djtasks-dashboard"' not in page.text
    assert 'href="/staff/djtasks/worker/"' in page.text
    assert client.get(FRAGMENT).status_code == 403


def test_each_part_is_for_those_who_may_see_its_pages(log_in: Any, make_worker: Any, enqueue: Any) -> None:
    make_worker("secret-machine", lost_at=utc_now(), queues='["mail"]')
    make_worker("secret-machine-2", queues='["mail"]')
    PeriodicTask.objects.create(name="secret-schedule", task="a.b", schedule="@daily")
    enqueue(queue="other")
    page = log_in("view_job").get(INDEX).text
    assert "secret" not in page
    assert "djtasks-queues-now" not in page
    assert notices(page) == []
    everything = log_in("view_job", "view_worker", "view_queue", "view_periodictask", name="bob").get(INDEX).text
    assert everything.count("secret-machine") >= 2
    assert "secret-schedule" in everything
    assert set(notices(everything)) == {"lost", "unserved", "no_beat"}


def test_a_site_that_shows_jobs_in_its_own_way_has_the_plain_index(root: Client, settings: Any) -> None:
    site = AdminSite(name="own")
    site.register(Job, ModelAdmin)
    settings.ROOT_URLCONF = type("Urls", (), {"urlpatterns": [path("own/", site.urls)]})
    page = root.get("/own/djtasks/")
    assert page.status_code == 200
    assert 'id="djtasks-dashboard"' not in page.text


def test_a_site_without_the_admin_can_use_templates(tmp_path: Any) -> None:
    site = Site(tmp_path)
    templates = '[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]'
    site.settings(more=f"TEMPLATES = {templates}")
    rendered = "engines['django'].from_string('ok').render()"
    done = site.run("-c", f"import django; django.setup(); from django.template import engines; print({rendered})")
    assert done.stdout.strip() == "ok", done.stderr


# What it tells


def test_figures_at_a_glance_are_those_of_the_window(root: Client, enqueue: Any, make_worker: Any) -> None:
    ended(30 * MINUTE, count=9, waited=30.0, seconds=4.0)
    ended(30 * MINUTE, count=3, waited=30.0, state=states.FAILURE)
    ended(150 * MINUTE, count=100)
    statistics.count()
    enqueue(5)
    enqueue(2, countdown=3600)
    make_worker()
    Job.objects.create(id=new_id(), task="a.b", queue="default", state=states.STARTED, worker="w1.2")
    page = root.get(INDEX, {"window": "1h"}).text
    assert figure(page, "failed") == "3 25 % of what ended"
    assert figure(page, "waiting") == "5 2 scheduled"
    assert figure(page, "busy") == "1 of 4 workers: 1"
    assert figure(page, "p95") == "33 s run time 3.7 s"  # as buckets tell it, to a tenth
    assert figure(page, "out") == "0.2/min 12 jobs"
    assert figure(root.get(INDEX, {"window": "1d"}).text, "out").endswith("112 jobs")


def test_the_oldest_job_is_the_one_that_was_ready_first_whatever_its_priority(root: Client, enqueue: Any) -> None:
    (old,) = enqueue(priority=-5)
    enqueue(3, priority=5)
    Job.objects.filter(pk=old).update(order_key=int((utc_now() - 90 * MINUTE).timestamp() * 1_000_000))
    page = root.get(INDEX).text
    assert figure(page, "oldest") == "1 h ago"
    assert "1 h ago" in section(page, "queues-now")


@pytest.mark.every_broker
@pytest.mark.django_db(databases="__all__")
def test_it_tells_of_every_broker(broker: Any, root: Client, enqueue: Any, make_worker: Any) -> None:
    enqueue(3, queue="mail")
    enqueue(2, queue="mail", countdown=3600)
    ended(10 * MINUTE, count=4)
    statistics.count()
    ended(timedelta(seconds=1), count=2)  # in a minute that has not been counted, whenever this is
    make_worker(queues='["other"]')
    for window in ("10m", "1w"):
        page = root.get(INDEX, {"window": window}).text
        assert figure(page, "waiting") == "3 2 scheduled"
        assert figure(page, "oldest").endswith(("s ago", "just now"))
        assert figure(page, "out").endswith(" 2 jobs" if window == "10m" else " 6 jobs")
        assert "unserved" in notices(page)
        assert "mail 3 2 0" in section(page, "queues-now")


def test_a_window_that_there_is_not_is_the_usual_one(root: Client) -> None:
    for window in ("", "1y", "<script>"):
        page = root.get(INDEX, {"window": window}).text
        assert '<a href="?window=1h" aria-current="true">' in page
        assert page.count('aria-current="true"') == 1


@pytest.mark.parametrize("window", ["10m", "1h", "1d", "1w"])
def test_charts_are_tables_with_a_row_for_each_point(root: Client, window: str) -> None:
    ended(2 * MINUTE, count=2)
    statistics.count()
    page = root.get(INDEX, {"window": window}).text
    rows = {"10m": 10, "1h": 60, "1d": 144, "1w": 168}[window]
    for name in ("throughput", "waits", "runs"):
        table = re.search(rf'id="djtasks-chart-{name}".*?</figure>', page, re.DOTALL)
        assert table
        assert table[0].count('<th scope="row">') == rows
        values = [float(each) for each in re.findall(r'<data value="([^"]*)"', table[0])]
        assert max(values) > 0


def test_values_for_the_script_are_numbers_in_every_language(root: Client, settings: Any) -> None:
    settings.LANGUAGE_CODE = "de"
    ended(2 * MINUTE, count=7, seconds=0.0123)
    page = root.get(INDEX).text
    found = re.findall(r'<data value="([^"]*)"', page)
    assert found
    assert all(float(each) >= 0 for each in found)
    assert f'datetime="{utc_now().year}-' in page


def test_the_newest_depth_is_the_one_of_this_moment(root: Client, enqueue: Any) -> None:
    enqueue(7, queue="mail")
    assert section(root.get(INDEX).text, "chart-depths").split()[-1] == "7"


def test_slow_and_failing_tasks_are_named_the_worst_first(root: Client) -> None:
    for number in range(12):
        ended(10 * MINUTE, task=f"shop.tasks.slow{number:02}", seconds=1.0 + number * 3)
        ended(10 * MINUTE, task=f"shop.tasks.bad{number:02}", state=states.FAILURE, count=number + 1, seconds=0.1)
    statistics.count()
    page = root.get(INDEX).text
    slow = re.findall(r"slow\d\d", section(page, "slowest"))
    assert slow == [f"slow{number:02}" for number in range(11, 3, -1)]
    bad = re.findall(r"bad\d\d", section(page, "failing"))
    assert bad == [f"bad{number:02}" for number in range(11, 3, -1)]
    assert 'href="/staff/djtasks/job/?task=shop.tasks.bad11&amp;state=FAILURE"' in page


def test_queues_workers_and_next_runs_have_their_tables(root: Client, enqueue: Any, make_worker: Any) -> None:
    enqueue(3, queue="mail")
    make_worker(queues='["mail"]')
    soon = utc_now() + 5 * MINUTE
    for name, at in (("later", soon + MINUTE), ("sooner", soon), ("off", soon)):
        PeriodicTask.objects.create(name=name, task="a.b", schedule="@daily", enabled=name != "off")
        PeriodicTask.objects.filter(name=name).update(next_run_at=at)  # which else follows from the schedule
    page = root.get(INDEX).text
    assert "mail 3 0 0" in section(page, "queues-now")
    assert "w1@web 0 of 4 mail" in section(page, "workers-now")
    runs = section(page, "next-runs")
    assert runs.index("sooner") < runs.index("later")
    assert "off" not in runs.split()


def test_the_page_costs_the_same_whatever_ran_and_waits(root: Client, enqueue: Any, make_worker: Any) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert root.get(INDEX, {"window": "1w"}).status_code == 200
        return len(captured)

    make_worker()
    enqueue(1)
    ended(90 * MINUTE)
    statistics.count()
    root.get(INDEX)
    few = statements()
    ended(100 * MINUTE, count=300)
    ended(timedelta(seconds=20), count=300)
    enqueue(300)
    enqueue(300, priority=3)
    for number in range(20):
        ended(80 * MINUTE, task=f"shop.tasks.task{number}", queue="default")
    assert abs(statements() - few) <= 2  # a minute more or less may not be counted yet
    assert few <= STATEMENTS


# What needs attention


def test_nothing_needs_attention_where_all_is_well(root: Client, make_worker: Any, enqueue: Any) -> None:
    make_worker(scheduler_at=utc_now())
    PeriodicTask.objects.create(name="nightly", task="a.b", schedule="@daily", next_run_at=utc_now() + MINUTE)
    enqueue()
    page = root.get(INDEX).text
    assert notices(page) == []
    assert "Needs attention" not in page


def test_jobs_without_any_worker_need_one(root: Client, enqueue: Any) -> None:
    assert notices(root.get(INDEX).text) == ["no_worker"]
    enqueue(2)
    page = root.get(INDEX).text
    assert notices(page) == ["no_worker"]  # and not each queue besides
    assert "No worker lives, and 2 jobs wait." in section(page, "attention")
    assert "manage.py runworker" in section(page, "attention")


def test_a_queue_that_nobody_serves_is_named(root: Client, enqueue: Any, make_worker: Any) -> None:
    make_worker(queues='["default"]')
    enqueue(3, queue="mail")
    page = root.get(INDEX).text
    assert notices(page) == ["unserved"]
    assert "No live worker serves the queue mail, in which 3 jobs wait." in section(page, "attention")
    assert 'href="/staff/djtasks/queue/mail/change/"' in page


def test_a_paused_queue_is_named_once_a_job_waits_in_it(root: Client, enqueue: Any, make_worker: Any) -> None:
    make_worker()
    control.pause("mail")
    assert notices(root.get(INDEX).text) == []
    enqueue(queue="mail")
    page = root.get(INDEX).text
    assert notices(page) == ["paused"]
    assert "The queue mail is paused, and 1 job waits in it." in section(page, "attention")


def test_a_worker_that_was_lost_is_named_for_an_hour(root: Client, make_worker: Any) -> None:
    make_worker("live")
    make_worker("gone", lost_at=utc_now() - 50 * MINUTE)
    make_worker("forgotten", lost_at=utc_now() - 70 * MINUTE)
    page = root.get(INDEX).text
    assert notices(page) == ["lost"]
    assert "gone@web" in section(page, "attention")


def test_schedules_that_cannot_run_and_a_sleeping_beat_are_named(root: Client, make_worker: Any) -> None:
    make_worker()
    PeriodicTask.objects.create(name="torn", task="a.b", schedule="nonsense", problem="x")
    page = root.get(INDEX).text
    assert notices(page) == ["broken_schedule"]
    assert "The schedule torn cannot run: schedule: &#x27;nonsense&#x27; is no" in section(page, "attention")
    PeriodicTask.objects.create(name="nightly", task="a.b", schedule="@daily", next_run_at=utc_now() + MINUTE)
    assert sorted(notices(root.get(INDEX).text)) == ["broken_schedule", "no_beat"]


def test_of_many_of_a_kind_some_are_named(root: Client, enqueue: Any, make_worker: Any) -> None:
    make_worker(queues='["default"]')
    for number in range(9):
        enqueue(queue=f"q{number}")
    page = root.get(INDEX).text
    assert notices(page) == ["unserved"] * 6
    assert "And more of these." in section(page, "attention")


def test_what_the_server_lacks_is_told(root: Client, make_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_worker()
    monkeypatch.setattr(DatabaseBroker, "check", lambda broker: (["Redis has maxmemory-policy x."], ["No file."]))
    page = root.get(INDEX).text
    assert notices(page) == ["policy", "policy"]
    assert "Redis has maxmemory-policy x." in section(page, "attention")


def test_a_broker_that_does_not_answer_leaves_the_figures_of_the_past(
    root: Client, make_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(broker: Any, most: Any = None) -> Any:
        raise BrokerUnavailable("Nobody answers at redis://x.")

    make_worker()
    ended(10 * MINUTE, count=3)
    statistics.count(utc_now() - 5 * MINUTE)
    monkeypatch.setattr(DatabaseBroker, "sizes", fail)
    monkeypatch.setattr(DatabaseBroker, "check", fail)
    answer = root.get(INDEX)
    assert answer.status_code == 200
    assert notices(answer.text)[0] == "broker"
    assert "Nobody answers at redis://x." in section(answer.text, "attention")
    assert figure(answer.text, "waiting").startswith("–")
    assert "They cannot be read now." in section(answer.text, "queues-now")


def test_what_nobody_has_counted_is_told(root: Client, make_worker: Any) -> None:
    make_worker()
    ended(30 * MINUTE)
    page = root.get(INDEX).text
    assert notices(page) == ["uncounted"]
    assert "djtasks.count" in section(page, "attention")


# The fragment


def test_the_fragment_is_the_dashboard_alone_in_the_same_window(root: Client, enqueue: Any) -> None:
    page = root.get(INDEX, {"window": "1d"}).text
    address = re.search(r'data-djtasks-fragment="([^"]*)"', page)
    assert address
    assert address[1] == f"{FRAGMENT}?window=1d"
    enqueue(4)
    fragment = root.get(address[1]).text
    assert fragment.lstrip().startswith('<div id="djtasks-dashboard"')
    assert "<html" not in fragment
    assert figure(fragment, "waiting").startswith("4 ")
    assert '<a href="?window=1d" aria-current="true">' in fragment


def test_the_fragment_leaves_the_charts_as_they_are_if_asked_to(root: Client) -> None:
    fragment = root.get(FRAGMENT, {"charts": "0"}).text
    assert '<section id="djtasks-charts" data-djtasks-kept></section>' in fragment
    assert "djtasks-chart-throughput" not in fragment
    assert "djtasks-figure-in" in fragment


def test_the_fragment_stays_on_its_site(root: Client) -> None:
    page = root.get("/ops/djtasks/").text
    assert 'data-djtasks-fragment="/ops/djtasks/job/dashboard/?window=1h"' in page
    assert '"/staff/' not in root.get("/ops/djtasks/job/dashboard/").text


def test_a_job_may_be_called_dashboard(root: Client, make_job: Any) -> None:
    make_job(id="dashboard")
    assert root.get("/staff/djtasks/job/dashboard/change/").status_code == 200


def test_nothing_is_written_by_looking(root: Client, enqueue: Any, make_worker: Any) -> None:
    make_worker()
    enqueue()
    before = json.dumps(list(Job.objects.values()), default=str)
    root.get(INDEX)
    with CaptureQueriesContext(connection) as captured:
        root.get(FRAGMENT)
    assert [each["sql"] for each in captured if re.match("INSERT|UPDATE|DELETE", each["sql"])] == []
    assert json.dumps(list(Job.objects.values()), default=str) == before


def test_times_are_read_as_the_browser_needs_them(root: Client) -> None:
    ended(2 * MINUTE)
    page = root.get(INDEX).text
    for text in re.findall(r'<th scope="row"><time datetime="([^"]*)"', page):
        assert datetime.fromisoformat(text).tzinfo is not None
    assert 'data-djtasks-zone="Europe/Berlin"' in page
