"""The form of a schedule in a real browser: the package playwright, and a Chromium of its own or of the system."""

from __future__ import annotations

import re
from typing import Any

import pytest

from djtasks.models import PeriodicTask

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

LIST = "/staff/djtasks/periodictask/"


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


def test_a_schedule_is_edited_and_runs_as_it_says_from_then_on(page: Any, failures: list[str]) -> None:
    PeriodicTask.objects.create(name="nightly", task="a.b", schedule="@daily")
    page.goto(LIST)
    page.get_by_role("link", name="nightly").click()
    page.fill("#id_schedule", "every 2 hours")
    playwright.expect(words(page)).to_contain_text("every 2 hours")
    page.locator("[name=_save]").click()
    playwright.expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    playwright.expect(page.locator("#result_list")).to_contain_text("every 2 hours")
    assert PeriodicTask.objects.get().schedule == "every 2 hours"
    assert failures == []


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
