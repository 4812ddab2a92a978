"""Any admin site, and pages without inline style or script."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.staticfiles import finders
from django.test import Client

from djtasks import states
from djtasks.admin import register
from djtasks.models import Job, PeriodicTask, Worker

JOB_PAGES = (
    "",
    "{done}/change/",
    "{waiting}/change/",
    "{done}/retry/",
    "{waiting}/cancel/",
    "{done}/delete/",
    "{done}/history/",
)


class InlineFinder(HTMLParser):
    """Collects what a Content-Security-Policy of `default-src 'self'` would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attributes}
        values = [value or "" for _, value in attributes]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]
        self.found += [value for value in values if value.lower().startswith("javascript:")]


SCHEDULE_PAGES = ("", "add/", "{of_code}/change/", "{own}/change/", "{own}/delete/", "{own}/history/")


@pytest.fixture
def pages(make_job: Any) -> list[str]:
    Worker.objects.create(id="w1", hostname="web-1", pid=1, queues="null", pool="solo", concurrency=1)
    done = make_job(
        states.FAILURE,
        args='[1,{"a":2}]',
        kwargs='{"b":3}',
        result="1",
        exception="ValueError",
        exception_message="no",
        traceback="Traceback",
        meta='{"current":1,"total":2}',
        headers='{"h":1}',
        options='{"o":1}',
        parent_id="p",
        group_id="g",
        attempts='[{"token":1}]',
    )
    waiting = make_job(parent_id=done.pk)
    addresses = [page.format(done=done.pk, waiting=waiting.pk) for page in JOB_PAGES]
    keys = _schedules(done)
    schedules = [page.format(**keys) for page in SCHEDULE_PAGES]
    others = ["worker/", "worker/w1/change/", *(f"periodictask/{page}" for page in schedules)]
    return ["", *(f"job/{page}" for page in addresses), *others]


def _schedules(job: Job) -> dict[str, int]:
    columns = {"task": "a.b", "last_run_at": job.finished_at, "last_job": job.pk}
    own = PeriodicTask.objects.create(name="own", schedule="@daily", **columns)
    of_code = PeriodicTask.objects.create(name="of-code", schedule="broken", source="settings", **columns)
    Job.objects.filter(pk=job.pk).update(periodic_task="own")
    return {"own": own.pk, "of_code": of_code.pk}


@pytest.mark.parametrize("site", ["staff", "ops"])
def test_every_page_works_on_every_site_and_stays_there(root: Client, pages: list[str], site: str) -> None:
    other = {"staff": "ops", "ops": "staff"}[site]
    for page in pages:
        response = root.get(f"/{site}/djtasks/{page}")
        assert response.status_code == 200, page
        assert f'href="/{site}/djtasks/' in response.text
        assert f'"/{other}/' not in response.text


def test_no_page_has_inline_style_or_script(root: Client, pages: list[str], make_job: Any) -> None:
    found = {}
    choices = {"action": "retry_jobs", "_selected_action": Job.objects.values_list("pk", flat=True)[0], "index": "0"}
    answers = {page: root.get(f"/staff/djtasks/{page}") for page in pages}
    answers["confirmation"] = root.post("/staff/djtasks/job/", choices)
    answers["refused form"] = root.post("/staff/djtasks/periodictask/add/", {"schedule": "broken"})
    for page, response in answers.items():
        finder = InlineFinder()
        finder.feed(response.text)
        if finder.found:
            found[page] = finder.found
    assert found == {}


@pytest.mark.parametrize("name", ["djtasks/admin.css", "djtasks/admin.js", "djtasks/schedule.js"])
def test_the_static_files_are_there_and_are_used(root: Client, name: str) -> None:
    assert finders.find(name)
    assert f"{name}" in root.get("/staff/djtasks/periodictask/add/").text


def test_the_style_sheet_loads_nothing_from_elsewhere() -> None:
    path = finders.find("djtasks/admin.css")
    with open(str(path), encoding="utf-8") as file:  # noqa: PTH123
        assert not re.search(r"url\(|@import", file.read())


def test_the_default_site_has_the_models_by_itself() -> None:
    assert all(admin.site.is_registered(model) for model in (Job, PeriodicTask, Worker))


def test_what_a_site_has_registered_itself_stays() -> None:
    class Own(ModelAdmin): ...  # type: ignore[type-arg]

    site = AdminSite(name="own")
    site.register(Job, Own)
    register(site)
    register(site)
    assert isinstance(site.get_model_admin(Job), Own)
    assert site.is_registered(Worker)
