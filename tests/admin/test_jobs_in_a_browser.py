"""Jobs in a real browser: a bar that moves, a retry, what is done to all, what is copied. See `page` for its needs."""

from __future__ import annotations

from typing import Any

import pytest

from djtasks import states
from djtasks.admin import job as job_admin
from djtasks.models import Job

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.django_db(transaction=True),
]
LIST = "/staff/djtasks/job/"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_admin, "REFRESH", 0.2)


def change(job: Job, **columns: Any) -> None:
    Job.objects.filter(pk=job.pk).update(**columns)


def test_the_page_follows_its_job_to_the_end(page: Any, failures: list[str], database: str, make_job: Any) -> None:
    job = make_job(states.STARTED, meta='{"current":1,"total":4}')
    page.goto(f"{LIST}{job.pk}/change/")
    bar = page.locator("#djtasks-progress progress")
    playwright.expect(bar).to_have_attribute("value", "1")
    page.get_by_text("The call that sends such a job").click()
    change(job, meta='{"current":3,"total":4}')
    playwright.expect(bar).to_have_attribute("value", "3")
    playwright.expect(page.locator("#djtasks-progress h2")).to_contain_text("75 %")
    playwright.expect(page.locator("#djtasks-call")).to_be_visible()
    change(job, state=states.SUCCESS, result='"all of it"', seconds=1.0)
    playwright.expect(page.locator(".djtasks-head .djtasks-pill")).to_have_text("SUCCESS")
    playwright.expect(page.locator("#djtasks-result")).to_contain_text("all of it")
    playwright.expect(page.get_by_role("button", name="Retry")).to_be_visible()
    change(job, state=states.FAILURE)
    page.wait_for_timeout(600)  # three times as long as it takes to ask once more: it does not
    playwright.expect(page.locator(".djtasks-head .djtasks-pill")).to_have_text("SUCCESS")
    assert failures == []


def test_a_failed_job_is_retried_and_seen_to_succeed(
    page: Any, failures: list[str], database: str, make_job: Any, start_worker: Any
) -> None:
    job = make_job(states.FAILURE, task="tests.tasks.add", args="[3,4]", exception="OSError")
    start_worker("-c", "1")
    page.goto(f"{LIST}{job.pk}/change/")
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("button", name="Retry jobs").click()
    playwright.expect(page.locator(".messagelist")).to_contain_text("1 job will run once more.")
    playwright.expect(page.locator("#djtasks-result")).to_contain_text("7", timeout=20_000)
    playwright.expect(page.locator(".djtasks-head .djtasks-pill")).to_have_text("SUCCESS")
    assert failures == []


def test_all_that_match_are_done_in_the_background(
    page: Any, failures: list[str], database: str, make_job: Any, start_worker: Any
) -> None:
    for _ in range(3):
        make_job(states.FAILURE)
    kept = make_job(states.SUCCESS)
    start_worker("-c", "1")
    page.goto(LIST)
    page.locator("#changelist-filter").get_by_role("link", name="FAILURE 3").click()
    page.locator(".djtasks-for-all").get_by_role("link", name="Delete").click()
    page.get_by_label("Type the number").fill("3")
    page.get_by_role("button", name="Delete finished jobs").click()
    playwright.expect(page.locator(".djtasks-head h1")).to_have_text("djtasks.act_on_all")
    playwright.expect(page.locator("#djtasks-result")).to_contain_text("'done': 3", timeout=20_000)
    playwright.expect(page.locator("#djtasks-progress h2")).to_contain_text("100 %")
    assert set(Job.objects.filter(task="shop.tasks.export").values_list("pk", flat=True)) == {kept.pk}
    assert failures == []


def test_a_test_is_copied_by_a_click(page: Any, failures: list[str], database: str, make_job: Any) -> None:
    job = make_job(states.FAILURE, task="tests.tasks.add", args="[3,4]")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{LIST}{job.pk}/change/")
    page.get_by_text("A test that runs it").click()
    button = page.locator("#djtasks-as-test").get_by_role("button", name="Copy")
    button.click()
    playwright.expect(page.locator("#djtasks-as-test .djtasks-copy")).to_have_text("Copied")
    assert "    add(3, 4)\n" in page.evaluate("navigator.clipboard.readText()")
    assert failures == []
