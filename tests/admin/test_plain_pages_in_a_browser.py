"""The pages without JavaScript, and by the keyboard alone. See `page` for what the browser needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from djtasks import states
from djtasks.brokers import get_broker
from djtasks.message import Message, new_id
from djtasks.models import Job, Limit, PeriodicTask, Queue
from tests.admin.test_accessibility_in_a_browser import ROOT, TASK, stock

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.django_db(transaction=True),
]
FEWEST_STOPS, MOST_STOPS = 9, 250  # of the tab key on one page
# Where the focus is, what tells that it is there, and whether it can be seen there at all.
LOOK = """() => {
    const at = document.activeElement;
    if (!at || at === document.body) return null;
    const look = (each) => {
        const style = getComputedStyle(each);
        return [style.outline, style.boxShadow, style.borderColor, style.backgroundColor, style.textDecoration].join();
    };
    const before = window.before;
    const faded = before && look(before.at) === before.look ? before.at.outerHTML.slice(0, 120) : "";
    window.before = {at, look: look(at)};
    window.seen = window.seen || new Set();
    const again = window.seen.has(at);
    window.seen.add(at);
    const box = at.getBoundingClientRect();
    return {html: at.outerHTML.slice(0, 120), again, faded, hidden: !box.width || !box.height, order: at.tabIndex};
}"""


@pytest.fixture
def plain(page: Any, database: str, live_server: Any) -> Iterator[Any]:
    """A page on which no script runs."""
    signed_in = page.context.storage_state()
    context = page.context.browser.new_context(
        java_script_enabled=False, storage_state=signed_in, base_url=live_server.url
    )
    yield context.new_page()
    context.close()


def told(plain: Any) -> str:
    return str(plain.locator(".messagelist").inner_text())


def enqueue(count: int = 1) -> None:
    get_broker().enqueue([Message(id=new_id(), task=TASK, queue="mail", args="[1,2]") for _ in range(count)])


def test_a_queue_is_paused_resumed_moved_and_purged(plain: Any) -> None:
    enqueue(3)
    plain.goto(f"{ROOT}queue/mail/change/")
    plain.get_by_role("button", name="Pause").click()
    assert Queue.objects.get(pk="mail").paused
    plain.get_by_role("button", name="Resume").click()
    assert not Queue.objects.get(pk="mail").paused
    plain.get_by_role("button", name="Move jobs").click()
    plain.get_by_label("To the queue").fill("other")
    plain.get_by_label("At most").fill("1")
    plain.get_by_role("button", name="Move jobs").click()
    assert get_broker().sizes()["other"].ready == 1
    plain.goto(f"{ROOT}queue/mail/purge/")
    plain.get_by_label("Type the name").fill("male")
    plain.get_by_role("button", name="Purge").click()
    assert get_broker().sizes()["mail"].ready == 2
    plain.get_by_label("Type the name").fill("mail")
    plain.get_by_role("button", name="Purge").click()
    assert get_broker().sizes()["mail"].ready == 0


def test_ticked_jobs_are_cancelled_and_a_failed_one_is_retried(plain: Any, make_job: Any) -> None:
    failed = make_job(states.FAILURE, task=TASK)
    enqueue(2)
    plain.goto(f"{ROOT}job/?state=PENDING")
    for box in plain.locator("input.action-select").all():
        box.check()
    plain.get_by_label("Action:").select_option(label=_option(plain, "Cancel"))
    plain.get_by_role("button", name="Go").or_(plain.get_by_role("button", name="Run")).first.click()  # Django's
    plain.get_by_role("button", name="Cancel").click()
    assert Job.objects.filter(queue="mail", revoked=False).count() == 0
    plain.goto(f"{ROOT}job/{failed.pk}/change/")
    plain.get_by_role("button", name="Retry").click()
    plain.get_by_role("button", name="Retry jobs").click()
    failed.refresh_from_db()
    assert failed.state == states.PENDING


def _option(plain: Any, word: str) -> str:
    texts = plain.locator("select[name=action] option").all_inner_texts()
    return str(next(text for text in texts if text.strip().startswith(word)))


def test_filters_are_typed_and_followed(plain: Any, make_job: Any) -> None:
    slow, quick = make_job(states.SUCCESS, seconds=60.0), make_job(states.SUCCESS, seconds=0.5)
    plain.goto(f"{ROOT}job/")
    plain.locator("input[name=longer]").fill("10")
    plain.locator("form:has(input[name=longer]) button, form:has(input[name=longer]) input[type=submit]").first.click()
    assert "longer=10" in plain.url
    assert slow.pk in plain.content()
    assert quick.pk not in plain.content()


def test_a_task_is_sent_and_its_rate_is_set(plain: Any) -> None:
    plain.goto(f"{ROOT}task/{TASK}/send/")
    plain.get_by_label("x:", exact=True).fill("1")
    plain.get_by_label("y:", exact=True).fill("2")
    plain.get_by_role("button", name="Send").click()
    assert "The job was sent" in told(plain)
    plain.goto(f"{ROOT}task/{TASK}/rate/")
    plain.get_by_label("Rate").fill("5/m")
    plain.get_by_role("button", name="Set the rate").click()
    assert Limit.objects.get(pk=TASK).rate == "5/m"


def test_a_schedule_is_added_and_run_now(plain: Any) -> None:
    plain.goto(f"{ROOT}periodictask/add/")
    plain.get_by_label("Name:").fill("nightly")
    plain.get_by_label("Task:").fill(TASK)
    plain.get_by_label("Schedule:").fill("0 3 * * *")
    plain.locator("input[name=_continue]").click()
    row = PeriodicTask.objects.get(name="nightly")
    plain.goto(f"{ROOT}periodictask/{row.pk}/change/")
    plain.get_by_role("button", name="Run now").click()
    assert Job.objects.filter(periodic_task="nightly").exists()


@pytest.mark.timeout(300)
def test_charts_stand_as_tables_and_pages_say_the_same(plain: Any, make_job: Any) -> None:
    for address in stock(make_job):
        answer = plain.goto(ROOT + address)
        assert answer.status == 200, address
        assert plain.locator("#content").inner_text().strip(), address
    plain.goto(ROOT)
    assert plain.locator("#content details table").count() >= 4


@pytest.mark.timeout(300)
def test_the_tab_key_leads_through_each_page_and_shows_where_it_is(page: Any, database: str, make_job: Any) -> None:
    wrong = []
    for address in stock(make_job):
        page.goto(ROOT + address)
        page.evaluate("() => { document.activeElement.blur(); window.before = null; }")
        wrong += [f"{address}: {each}" for each in _walk(page)]
    assert not wrong, "\n".join(wrong)


def _walk(page: Any) -> list[str]:
    found = []
    for number in range(MOST_STOPS):
        page.keyboard.press("Tab")
        stop = page.evaluate(LOOK)
        if stop is None or stop["again"]:
            return found if number > FEWEST_STOPS else [*found, f"the focus gets to {number} places only"]
        if stop["faded"]:
            found.append(f"does not show that it has the focus: {stop['faded']}")
        if stop["hidden"]:
            found.append(f"has the focus and cannot be seen: {stop['html']}")
        if stop["order"] > 0:
            found.append(f"does not come in its order: {stop['html']}")
    return [*found, "the focus does not come back"]
