"""The dashboard in a real browser: it draws, and renews itself while it is looked at. See `page` for its needs."""

from __future__ import annotations

from typing import Any

import pytest

from djtasks.admin import dashboard
from djtasks.brokers import get_broker
from djtasks.message import Message, new_id
from djtasks.models import Worker
from djtasks.models.fields import utc_now
from tests.tasks import add

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.django_db(transaction=True),
]
INDEX = "/staff/djtasks/"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "REFRESH", 0.3)
    monkeypatch.setattr(dashboard, "CHARTS_EVERY", dict.fromkeys(dashboard.CHARTS_EVERY, 0.3))


def enqueue(count: int) -> None:
    get_broker().enqueue([Message(id=new_id(), task="shop.tasks.export") for _ in range(count)])


def figure(page: Any, name: str) -> Any:
    return page.locator(f".djtasks-figure-{name} dd")


def test_it_shows_what_happens_while_jobs_run(page: Any, failures: list[str], database: str, start_worker: Any) -> None:
    start_worker("-c", "1")
    page.goto(INDEX)
    playwright.expect(figure(page, "out")).to_contain_text("0 jobs")
    playwright.expect(page.locator("#djtasks-chart-runs canvas")).to_have_count(0)
    page.locator("#djtasks-chart-throughput").get_by_text("As a table").click(timeout=5000)
    page.get_by_role("link", name="all queues").focus()
    for number in range(7):
        add.delay(number, 1)
    playwright.expect(figure(page, "out")).to_contain_text("7 jobs", timeout=20_000)
    playwright.expect(page.locator("#djtasks-chart-runs canvas")).to_have_count(1)
    playwright.expect(page.locator("#djtasks-slowest tbody")).to_contain_text("add")
    assert page.locator("#djtasks-chart-throughput details").get_attribute("open") is not None
    # Not `to_be_focused`: that asks whether the window has the focus, too, which a busy machine takes from it.
    assert page.evaluate("document.activeElement.textContent.trim()") == "all queues"
    assert failures == []


def test_what_has_the_focus_keeps_it_as_a_notice_comes_and_goes(page: Any, failures: list[str], database: str) -> None:
    page.goto(INDEX)
    page.get_by_role("link", name="all queues").focus()
    notice = page.get_by_text("No worker lives.").first
    for lives in (True, False):
        columns = {"hostname": "w@h", "pid": 1, "queues": "null", "pool": "solo", "concurrency": 1}
        Worker.objects.update_or_create(
            pk="w" * 32, defaults={**columns, "scheduler_at": utc_now(), "stopped_at": None if lives else utc_now()}
        )
        playwright.expect(notice).to_be_visible(visible=not lives)
        assert page.evaluate("document.activeElement.textContent.trim()") == "all queues"
    assert failures == []


def test_a_chart_says_what_stands_at_the_pointer(page: Any, failures: list[str], database: str, make_job: Any) -> None:
    make_job("SUCCESS")
    page.goto(INDEX)
    plot = page.locator("#djtasks-chart-runs")
    playwright.expect(plot.locator(".u-legend")).to_contain_text("p95")
    plot.locator(".u-over").hover(position={"x": 5, "y": 50})
    playwright.expect(plot.locator(".u-legend .u-value").nth(1)).to_have_text("–")
    assert failures == []


def test_another_theme_draws_the_charts_anew(page: Any, failures: list[str], database: str) -> None:
    enqueue(2)
    page.goto(INDEX)
    line = page.locator("#djtasks-chart-depths .u-marker").nth(1)
    playwright.expect(line).to_be_attached()
    light = line.evaluate("element => getComputedStyle(element).borderTopColor + element.style.cssText")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    playwright.expect(page.locator("#djtasks-chart-depths .uplot")).to_have_count(1)
    dark = page.locator("#djtasks-chart-depths .u-marker").nth(1)
    assert dark.evaluate("element => getComputedStyle(element).borderTopColor + element.style.cssText") != light
    assert failures == []


def test_nothing_is_asked_for_while_nobody_looks(page: Any, failures: list[str], database: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/job/dashboard/" in request.url else None)
    page.goto(INDEX)
    page.wait_for_timeout(1000)
    assert len(asked) >= 1
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true" + tell)
    page.wait_for_timeout(300)
    asked.clear()
    page.wait_for_timeout(1500)
    assert asked == []
    enqueue(3)
    page.evaluate(hide % "false" + tell)
    playwright.expect(figure(page, "waiting")).to_contain_text("3")


def test_a_site_that_does_not_answer_is_told_quietly_and_asked_again(page: Any, database: str) -> None:
    page.goto(INDEX)
    trouble = page.locator("#djtasks-trouble")
    playwright.expect(trouble).to_be_hidden()
    page.route("**/job/dashboard/**", lambda route: route.fulfill(status=500, body="no"))
    playwright.expect(trouble).to_contain_text("asked again", timeout=10_000)
    page.unroute("**/job/dashboard/**")
    enqueue(3)
    playwright.expect(figure(page, "waiting")).to_contain_text("3", timeout=15_000)
    playwright.expect(trouble).to_be_hidden()


def test_who_is_signed_out_is_told(page: Any, database: str) -> None:
    page.goto(INDEX)
    page.context.clear_cookies()
    playwright.expect(page.locator("#djtasks-trouble")).to_contain_text("signed out", timeout=10_000)


def test_charts_hold_their_place_on_a_narrow_page(page: Any, database: str) -> None:
    enqueue(2)
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(INDEX)
    playwright.expect(page.locator("#djtasks-chart-depths canvas")).to_have_count(1)
    page.set_viewport_size({"width": 330, "height": 800})
    playwright.expect(page.locator("#djtasks-chart-depths canvas")).to_have_count(1)
    page.wait_for_function("document.documentElement.scrollWidth <= 330")
