"""The pages of queues, workers and tasks in a real browser, with a real worker. See `page` for its needs."""

from __future__ import annotations

from typing import Any

import pytest

from djtasks.models import Job, Worker
from tests.tasks import add
from tests.waiting import wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.django_db(transaction=True),
]
ROOT = "/staff/djtasks/"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djtasks.admin.worker.REFRESH", 0.3)


def test_a_worker_is_told_to_grow_and_its_page_shows_that_it_has(
    page: Any, failures: list[str], database: str, start_worker: Any
) -> None:
    worker = start_worker("-c", "1")
    page.goto(ROOT + "worker/")
    page.get_by_role("link", name=Worker.objects.get(pid=worker.pid).hostname).click()
    summary = page.locator("#djtasks-summary")
    playwright.expect(summary).to_contain_text("prefork × 1")
    page.get_by_role("button", name="Grow").click()
    page.get_by_label("Processes").fill("2")
    page.get_by_role("button", name="Grow").press("Enter")
    playwright.expect(page.locator(".messagelist")).to_contain_text("The worker was told")
    playwright.expect(summary).to_contain_text("prefork × 3", timeout=10_000)
    assert failures == []


def test_a_task_is_sent_by_its_form_and_runs(page: Any, failures: list[str], database: str, start_worker: Any) -> None:
    start_worker("-c", "1")
    page.goto(f"{ROOT}task/?q=tests.tasks.add")
    page.get_by_role("link", name="add", exact=True).click()
    page.get_by_role("button", name="Send").click()
    page.get_by_label("x:", exact=True).fill("1")
    page.get_by_label("y:", exact=True).fill("2")
    page.get_by_role("button", name="Send").press("Enter")
    playwright.expect(page.locator(".messagelist")).to_contain_text("The job was sent")
    job = wait_until(lambda: Job.objects.filter(task="tests.tasks.add", state="SUCCESS").first())
    assert job.result == "3"
    assert failures == []


def test_a_paused_queue_holds_what_is_sent_until_it_is_resumed(
    page: Any, failures: list[str], database: str, start_worker: Any
) -> None:
    start_worker("-c", "1", "-Q", "default,mail")
    page.goto(ROOT + "queue/mail/change/")
    page.get_by_role("button", name="Pause").click()
    playwright.expect(page.locator(".djtasks-head .djtasks-pill")).to_have_text("paused")
    held = add.apply_async((1, 2), queue="mail")
    assert add.delay(1, 2).get(timeout=20) == 3  # the worker is awake, and takes what is not held
    page.goto(ROOT + "queue/")
    page.get_by_role("link", name="mail").first.click()
    playwright.expect(page.locator(".djtasks-waiting-jobs")).to_contain_text(held.id)
    page.get_by_role("button", name="Resume").click()
    assert held.get(timeout=20) == 3
    assert failures == []
