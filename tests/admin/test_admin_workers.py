"""Workers in the admin: what each does, who was lost, and what may be asked of one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from djtasks import states
from djtasks.admin import worker as pages
from djtasks.models import Worker
from djtasks.models.fields import utc_now

LIST = "/staff/djtasks/worker/"
MINUTE = timedelta(minutes=1)
STATEMENTS = 12  # of a page at most

MakeWorker = Callable[..., Worker]


@pytest.fixture
def make_worker() -> MakeWorker:
    def make(pk: str = "w1", **columns: Any) -> Worker:
        values = {"hostname": f"{pk}@web", "pid": 7, "queues": "null", "pool": "prefork", "concurrency": 4, **columns}
        return Worker.objects.create(id=pk, **values)

    return make


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def page(client: Client, pk: str = "w1") -> str:
    response = client.get(f"{LIST}{pk}/change/")
    assert response.status_code == 200
    return text_of(response.text)


def listed(client: Client, status: str = "") -> list[str]:
    html = client.get(LIST, {"status": status} if status else {}).text
    return re.findall(r"/change/[^>]*>(\w+)@web<", html)


def act(client: Client, action: str, pk: str = "w1", **data: Any) -> Any:
    return client.post(f"{LIST}{pk}/{action}/", data, follow=True)


def told(response: Any) -> list[str]:
    return [str(each) for each in response.context["messages"]]


def commands(pk: str = "w1") -> list[dict[str, Any]]:
    text = Worker.objects.get(pk=pk).command
    return [{name: value for name, value in each.items() if name != "id"} for each in json.loads(text or "[]")]


def test_those_that_live_are_listed_first_the_others_by_how_they_ended(make_worker: MakeWorker, root: Client) -> None:
    make_worker("live")
    make_worker("lost", lost_at=utc_now())
    make_worker("silent", beat_at=utc_now() - 10 * MINUTE)
    make_worker("stopped", stopped_at=utc_now())
    assert listed(root) == listed(root, "live") == listed(root, "nonsense") == ["live"]
    assert sorted(listed(root, "lost")) == ["lost", "silent"]
    assert listed(root, "stopped") == ["stopped"]
    assert len(listed(root, "all")) == 4


def test_the_list_says_how_busy_each_is(make_worker: MakeWorker, make_job: Any, root: Client) -> None:
    make_worker(memory=2048)
    make_job(states.STARTED, worker="w1.0", started_at=utc_now())
    html = text_of(root.get(LIST).text)
    assert "1 of 4" in html
    assert "2 MiB" in html


def test_the_page_says_what_is_known_of_it(make_worker: MakeWorker, root: Client) -> None:
    make_worker(queues='["mail", "pdf"]', processed=1234, failed=5, memory=1_500_000, version="9.9")
    html = page(root)
    for text in ("w1@web", "live", "mail , pdf", "prefork × 4", "1.4 GiB", "1,234", "9.9"):
        assert text in html, text


def test_what_it_runs_is_listed_with_how_long_it_has_run(make_worker: MakeWorker, make_job: Any, root: Client) -> None:
    make_worker()
    make_worker("w12")
    job = make_job(states.STARTED, worker="w1.3", started_at=utc_now() - 5 * MINUTE, task="shop.tasks.slow")
    make_job(states.STARTED, worker="w12.0", started_at=utc_now(), task="shop.tasks.of_another")
    make_job(worker="w1.2", state=states.SUCCESS, task="shop.tasks.done")
    html = root.get(f"{LIST}w1/change/").text
    assert f'<a href="/staff/djtasks/job/{job.pk.replace("-", "_2D")}/change/">slow</a>' in html or job.pk in html
    assert "5 min 0 s …" in html
    assert "of_another" not in html
    assert "done" not in html


def test_more_jobs_than_a_page_holds_are_said_to_be_there(
    make_worker: MakeWorker, make_job: Any, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_JOBS", 2)
    make_worker()
    for number in range(3):
        make_job(states.STARTED, worker="w1.0", started_at=utc_now(), task=f"t{number}")
    assert "And more." in page(root)


def test_jobs_are_shown_to_those_who_may_see_jobs(make_worker: MakeWorker, make_job: Any, log_in: Any) -> None:
    make_worker()
    make_job(states.STARTED, worker="w1.0", started_at=utc_now(), task="shop.tasks.slow")
    assert "slow" not in page(log_in("view_worker"))
    assert "slow" in page(log_in("view_worker", "view_job", name="bob"))


def test_one_that_was_lost_says_so_and_has_no_buttons(make_worker: MakeWorker, root: Client) -> None:
    make_worker(lost_at=utc_now())
    html = page(root)
    assert "was it killed, or out of memory?" in html
    assert "Restart children" not in html
    assert told(act(root, "shutdown")) == ["This worker cannot do that, or lives no more."]
    assert commands() == []


def test_one_that_nobody_knows_is_not_found(root: Client) -> None:
    for address in (f"{LIST}nobody/change/", f"{LIST}nobody/shutdown/"):
        assert root.get(address).status_code == 404


@pytest.mark.parametrize(
    ("action", "data", "command"),
    [
        ("shutdown", {}, {"order": "shutdown"}),
        ("pool_restart", {}, {"order": "pool_restart"}),
        ("pool_grow", {"count": "2"}, {"order": "pool_grow", "count": 2}),
        ("pool_shrink", {"count": "1"}, {"order": "pool_shrink", "count": 1}),
        ("add_consumer", {"queue": "pdf"}, {"order": "add_consumer", "queue": "pdf"}),
        ("cancel_consumer", {"queue": "mail"}, {"order": "cancel_consumer", "queue": "mail"}),
    ],
)
def test_it_is_told_and_that_is_logged(
    make_worker: MakeWorker, log_in: Any, action: str, data: Any, command: Any
) -> None:
    make_worker(queues='["mail"]')
    client = log_in("view_worker", "control_worker")
    assert f"{LIST}w1/{action}/" in client.get(f"{LIST}w1/change/").text
    assert client.get(f"{LIST}w1/{action}/").status_code == 200
    assert commands() == []
    assert "does it within seconds" in told(act(client, action, **data))[0]
    assert commands() == [command]
    assert LogEntry.objects.get().object_id == "w1"
    assert "It was asked for something that it has not taken yet." in page(client)


@pytest.mark.parametrize(
    ("action", "data", "error"),
    [
        ("pool_grow", {"count": "0"}, "greater than or equal to 1"),
        ("pool_grow", {"count": "5000"}, "less than or equal to 1000"),
        ("pool_shrink", {}, "This field is required."),
        ("add_consumer", {"queue": "mail"}, "It serves this queue already."),
        ("add_consumer", {"queue": "x" * 200}, "at most 128 characters"),
        ("cancel_consumer", {"queue": "pdf"}, "It does not serve this queue."),
    ],
)
def test_what_makes_no_sense_is_told_at_the_field(
    make_worker: MakeWorker, root: Client, action: str, data: Any, error: str
) -> None:
    make_worker(queues='["mail"]')
    assert error in act(root, action, **data).text
    assert commands() == []


def test_a_worker_of_one_process_is_not_asked_about_children(make_worker: MakeWorker, root: Client) -> None:
    make_worker(pool="solo")
    html = page(root)
    assert "Stop" in html
    assert "Grow" not in html
    assert told(act(root, "pool_grow", count="1")) == ["This worker cannot do that, or lives no more."]


def test_without_the_permission_nothing_is_offered_or_done(make_worker: MakeWorker, log_in: Any) -> None:
    make_worker()
    client = log_in("view_worker")
    assert "shutdown" not in client.get(f"{LIST}w1/change/").text
    assert act(client, "shutdown").status_code == 403
    assert commands() == []


def test_the_number_of_queries_does_not_grow(make_worker: MakeWorker, make_job: Any, root: Client) -> None:
    def count(address: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            root.get(address)
        return len(captured)

    make_worker()
    addresses = (LIST, f"{LIST}w1/change/")
    few = [count(address) for address in addresses]
    for number in range(2, 12):
        make_worker(f"w{number}")
        make_job(states.STARTED, worker=f"w1.{number}", started_at=utc_now())
    assert [count(address) for address in addresses] == few
    assert max(few) <= STATEMENTS
