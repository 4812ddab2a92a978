"""The form of a schedule in a real browser: the package playwright, and a Chromium of its own or of the system."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client

from demo_project.shop.middleware import POLICY
from djtasks.models import PeriodicTask

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

LIST = "/staff/djtasks/periodictask/"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def page(live_server: Any, root: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page of a browser that is signed in. All answers come with a policy that forbids inline scripts and styles."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")  # playwright runs a loop in this thread
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        program = own if Path(own).exists() else next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            pytest.skip("There is no Chromium here: apt-get install chromium, or playwright install chromium")
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        context = browser.new_context(base_url=live_server.url)
        name = django_settings.SESSION_COOKIE_NAME
        context.add_cookies([{"name": name, "value": root.cookies[name].value, "url": live_server.url}])
        context.route("**/*", _with_policy)
        shown = context.new_page()
        complaints: list[str] = []
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("console", lambda said: complaints.append(said.text) if "Security Policy" in said.text else None)
        yield shown
        browser.close()
    assert complaints == []


def _with_policy(route: Any) -> None:
    answer = route.fetch(max_redirects=0)
    route.fulfill(response=answer, headers={**answer.headers, "content-security-policy": POLICY})


def runs(page: Any, count: int) -> list[str]:
    """The next runs that the preview tells, once there are `count`."""
    playwright.expect(page.locator(".djtasks-coming li")).to_have_count(count)
    return list(page.locator(".djtasks-coming time").all_inner_texts())


def words(page: Any) -> Any:
    return page.locator(".djtasks-coming .djtasks-words")


def test_what_is_typed_is_told_at_once(page: Any) -> None:
    page.goto(f"{LIST}add/")
    playwright.expect(page.locator(".field-coming")).to_be_hidden()
    page.locator("#id_timezone").press_sequentially("Asia/Seoul")
    page.locator("#id_schedule").press_sequentially("30 9 * * *")
    playwright.expect(words(page)).to_have_text("at 09:30 every day, Asia/Seoul")
    assert all(re.fullmatch(r"\w{3} \d{4}-\d\d-\d\d 09:30:00 KST", each) for each in runs(page, 5))
    page.fill("#id_schedule", "61 9 * * *")
    playwright.expect(page.locator(".djtasks-coming .djtasks-problem")).to_contain_text("61 is out of range")
    page.fill("#id_schedule", "")
    playwright.expect(page.locator(".field-coming")).to_be_hidden()


def test_a_click_takes_an_example_over(page: Any) -> None:
    page.goto(f"{LIST}add/")
    page.locator("[data-djtasks-example='30 9 * * 1-5']").click()
    playwright.expect(page.locator("#id_schedule")).to_have_value("30 9 * * 1-5")
    playwright.expect(words(page)).to_contain_text("at 09:30 on weekdays")
    page.get_by_role("button", name="@daily").press("Enter")
    playwright.expect(words(page)).to_contain_text("at 00:00 every day")


def test_a_day_that_is_chosen_in_the_calendar_counts(page: Any) -> None:
    page.goto(f"{LIST}add/")
    page.fill("#id_schedule", "@daily")
    assert len(runs(page, 5)) == 5
    page.get_by_text("Beginning and end").click()
    page.fill("#id_end_at_1", "00:00:00")
    page.locator("#id_end_at_0 + .datetimeshortcuts a").first.click()  # "Today": it was over at 00:00
    playwright.expect(page.locator(".djtasks-coming")).to_contain_text("There is no run to come")


def test_of_a_stored_row_nothing_is_repeated_until_it_is_changed(page: Any) -> None:
    row = PeriodicTask.objects.create(name="nightly", task="a.b", schedule="@daily")
    page.goto(f"{LIST}{row.pk}/change/")
    playwright.expect(page.locator(".field-coming")).to_be_hidden()
    page.fill("#id_schedule", "@hourly")
    playwright.expect(words(page)).to_contain_text("every hour")


def test_a_form_that_was_refused_tells_what_stands_in_it(page: Any) -> None:
    row = PeriodicTask.objects.create(name="nightly", task="a.b", schedule="@daily")
    page.goto(f"{LIST}{row.pk}/change/")
    page.fill("#id_schedule", "@hourly")
    page.fill("#id_args", "no JSON")
    page.locator("[name=_save]").click()
    playwright.expect(page.locator(".field-args .errorlist")).to_contain_text("This is no JSON")
    playwright.expect(words(page)).to_contain_text("every hour")


def test_what_stands_at_a_field_is_not_said_again_beside_it(page: Any) -> None:
    page.goto(f"{LIST}add/")
    with page.expect_response(re.compile("/preview/")):
        page.fill("#id_schedule", "61 * * * *")
    page.locator("[name=_save]").click()
    playwright.expect(page.locator(".field-schedule .errorlist")).to_contain_text("61 is out of range")
    playwright.expect(page.locator(".field-coming")).to_be_hidden()
    page.fill("#id_schedule", "@hourly")
    playwright.expect(words(page)).to_contain_text("every hour")


def test_what_is_typed_is_never_markup(page: Any) -> None:
    page.goto(f"{LIST}add/")
    page.fill("#id_task", "<img src=x onerror=alert(1)>")
    page.fill("#id_schedule", "@daily")
    playwright.expect(page.locator(".djtasks-coming .djtasks-notice")).to_contain_text("<img src=x")
    assert page.locator(".djtasks-coming img").count() == 0


def test_a_button_runs_the_schedule_now(page: Any) -> None:
    row = PeriodicTask.objects.create(name="nightly", task="a.b", schedule="@daily")
    page.goto(f"{LIST}{row.pk}/change/")
    page.get_by_role("button", name="Run now").click()
    playwright.expect(page.locator(".messagelist")).to_contain_text("A job of nightly was sent.")
    page.get_by_role("link", name="To the job").click()
    playwright.expect(page.locator(".djtasks-head h1")).to_have_text("a.b")
    page.get_by_role("link", name="nightly").click()
    playwright.expect(page.locator(".djtasks-head h1")).to_have_text("nightly")
