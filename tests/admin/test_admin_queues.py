"""The queues in the admin: the list, and what waits in one. All of it comes from the broker, so it holds for each."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from unittest.mock import ANY

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from djtasks import control, encoding, queues, registry, shared_task
from djtasks.admin import queue as pages
from djtasks.admin import waiting
from djtasks.brokers.base import Broker
from djtasks.conf import settings as our_settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Delivery, Message, new_id
from djtasks.models import Job, Queue, Worker

pytestmark = [pytest.mark.every_broker, pytest.mark.django_db(databases="__all__")]

in_redis = pytest.mark.parametrize("database", ["redis"], indirect=True)

LIST = "/staff/djtasks/queue/"
JOBS = "/staff/djtasks/job/"
NAMES = (
    "mail",
    "a/b",
    "..",
    ".",
    "../..",
    "a/../change/",
    "_2E",
    "_5F2E._2F",
    "quote\" and '",
    "<script>alert(1)</script>",
    "two  spaces ",
    "100%25",
    "a?b=c#d&e",
    "back\\slash",
    "日本語 ✓",
    "add",
    "x" * 128,
)


def message(**fields: Any) -> Message:
    return Message(**{"id": new_id(), "task": "shop.tasks.export", "queue": "mail", **fields})


def enqueue(broker: Broker, *messages: Message) -> list[str]:
    broker.enqueue(messages)
    return [each.id for each in messages]


def page(client: Client, queue: str = "mail", **query: Any) -> str:
    response = client.get(f"{LIST}{pages.in_address(queue)}/change/", query)
    assert response.status_code == 200
    return str(response.text)


def ids_in(html: str) -> list[str]:
    return re.findall(r"<code>([0-9a-f-]{36})</code>", html)


def row_of(html: str, task: str) -> list[str]:
    """The texts of the cells in the row of that name."""
    row = next(each for each in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if task in each)
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)
    return [unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", cell.replace("<wbr>", "")))).strip() for cell in cells]


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Broker:
        raise BrokerUnavailable("The server <at home> does not answer.")

    monkeypatch.setattr(pages, "get_broker", fail)
    monkeypatch.setattr(queues, "get_broker", fail)
    monkeypatch.setattr(control, "get_broker", fail)


def test_each_queue_is_listed_with_its_sizes(broker: Broker, root: Client) -> None:
    enqueue(broker, *(message() for _ in range(3)), message(countdown=60), message(queue="pdf"))
    broker.claim("mail", limit=1, worker="w.1")
    html = root.get(LIST).text
    assert row_of(html, ">mail<")[1:5] == ["2", "1", "1", "0"]
    assert row_of(html, ">pdf<")[1:5] == ["1", "0", "0", "0"]


def test_a_paused_queue_is_listed_as_such_though_nothing_is_in_it(broker: Broker, root: Client) -> None:
    broker.pause("mail")
    name, *sizes = row_of(root.get(LIST).text, ">mail<")
    assert name.startswith("mail paused")
    assert sizes[:4] == ["0", "0", "0", "0"]
    assert ">paused<" in page(root)


def test_where_there_is_no_queue_the_list_says_so(broker: Broker, root: Client) -> None:
    assert "No queue holds a job" in root.get(LIST).text


def test_the_list_asks_the_broker_and_not_the_rows_of_the_table(
    broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    Queue.objects.create(name="only-a-row")
    monkeypatch.setattr(type(broker), "sizes", lambda self, most=None: {})
    assert "only-a-row" not in root.get(LIST).text


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives_its_address(name: str) -> None:
    piece = pages.in_address(name)
    assert pages.name_in_address(piece) == name
    assert "/" not in piece
    assert piece.strip(".")


def test_the_list_leads_to_each_queue_whatever_its_name(broker: Broker, root: Client) -> None:
    ids = dict(zip(NAMES, enqueue(broker, *(message(queue=name) for name in NAMES)), strict=True))
    html = root.get(LIST).text
    assert "<script>alert" not in html
    links = re.findall(rf'<a href="({LIST}[^"?]+)">(.*?)</a>', html)
    assert {unescape(name) for _url, name in links} == set(NAMES)
    for url, name in links:
        shown = root.get(unescape(url)).text
        assert ids_in(shown) == [ids[unescape(name)]], name
        assert "<script>alert" not in shown


def test_jobs_stand_in_the_order_in_which_they_will_run(broker: Broker, root: Client) -> None:
    plain, other, urgent = enqueue(broker, message(), message(), message(priority=5))
    enqueue(broker, message(queue="pdf"), message(countdown=60))
    assert ids_in(page(root)) == [urgent, plain, other]
    assert [each.id for each in broker.claim("mail", limit=9, worker="w.1")] == [urgent, plain, other]


def test_a_row_tells_task_id_age_and_priority(broker: Broker, root: Client) -> None:
    (pk,) = enqueue(broker, message(task="shop.tasks.count_bottles", priority=-3))
    position, task, enqueued, priority, *_ = row_of(page(root), "count_bottles")
    assert (position, task, priority) == ("1", f"count_bottles shop.tasks {pk}", "-3")
    assert enqueued == "just now" or enqueued.endswith(" ago")


def test_what_waits_for_its_time_has_a_tab_of_its_own(broker: Broker, root: Client) -> None:
    enqueue(broker, message())
    later, sooner = enqueue(broker, message(countdown=7300), message(countdown=3700, task="a.b.soon"))
    html = page(root, scheduled=1)
    assert ids_in(html) == [sooner, later]
    assert row_of(html, "soon")[2] == "in 1 h"
    assert "Ready (1)" in html
    assert "Scheduled (2)" in html


def test_expiry_is_shown_where_there_is_one(broker: Broker, root: Client) -> None:
    enqueue(broker, message())
    assert "Expires" not in page(root)
    enqueue(broker, message(task="a.b.perishable", expires_in=7300.0))
    assert "in 2 h" in row_of(page(root), "perishable")


def test_earlier_claims_and_losses_are_told(broker: Broker, root: Client) -> None:
    enqueue(broker, message())
    assert "So far" not in page(root)
    for _ in range(2):
        broker.release(broker.claim("mail", limit=1, worker="w.1"), count="losses")
    assert "claimed 2 times lost 2 times" in row_of(page(root), "export")


def test_what_was_cancelled_is_marked(broker: Broker, root: Client) -> None:
    broker.cancel(enqueue(broker, message()))
    assert '<span class="djtasks-pill djtasks-cancelled">cancelled</span>' in page(root)


def test_an_unreadable_message_is_marked(broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery(Message(id=new_id(), task=""), "", 0, malformed="no JSON: secret")
    monkeypatch.setattr(type(broker), "peek", lambda self, *args, **kwargs: [delivery])
    html = page(root)
    assert ">unreadable<" in html
    assert "secret" not in html


def test_an_id_leads_to_the_jobs_page_if_the_job_has_a_row(
    broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_row, without = Job.objects.create(id=new_id(), task="a.b", queue="elsewhere").pk, new_id()
    waiting = [Delivery(message(id=pk), "", 0) for pk in (with_row, without)]
    monkeypatch.setattr(type(broker), "peek", lambda self, *args, **kwargs: waiting)
    html = page(root)
    assert ids_in(html) == [with_row, without]
    assert f'href="{JOBS}{with_row}/change/"' in html
    assert f"{without}/change/" not in html


def test_nothing_leads_to_jobs_for_those_who_may_not_see_them(broker: Broker, log_in: Any) -> None:
    enqueue(broker, message())
    html = page(log_in("view_queue"))
    assert ids_in(html)
    assert JOBS not in html
    assert f'href="{JOBS}?queue=mail"' in page(log_in("view_queue", "view_job", name="bob"))


def test_arguments_are_shown_in_one_line_to_those_who_may_see_them(broker: Broker, log_in: Any) -> None:
    args, kwargs = encoding.encode_arguments([7, {"a": 1}], {"to": "Ann", "password": "abc"})
    enqueue(broker, message(args=args, kwargs=kwargs))
    assert "Arguments" not in page(log_in("view_queue"))
    html = page(log_in("view_queue", "view_job_arguments", name="bob"))
    assert "7, {'a': 1}, to='Ann', password=********" in row_of(html, "export")


def test_arguments_are_masked_as_their_task_says(broker: Broker, root: Client, own_tasks: None) -> None:
    @shared_task(name="shop.pay", sensitive_arguments=["card"])
    def pay(order: int, card: str) -> None: ...

    enqueue(broker, message(task="shop.pay", args='[7, "4242"]'))
    assert registry.find("shop.pay")
    assert "order=7, card=********" in row_of(page(root), "pay")


@pytest.mark.parametrize("args", ["no JSON", '["' + "x" * 5000 + '"]', '{"$": "none", "v": 1}'])
def test_arguments_that_are_long_or_cannot_be_read_are_cut(broker: Broker, root: Client, args: str) -> None:
    enqueue(broker, message(args=args))
    assert 0 < len(row_of(page(root), "export")[4]) <= waiting.LONGEST_ARGUMENTS + 1


def test_arguments_and_names_are_escaped(broker: Broker, root: Client) -> None:
    attack = "<script>alert(1)</script>"
    args, kwargs = encoding.encode_arguments([attack], {attack: attack})
    enqueue(broker, message(task=f"{attack}.{attack}", args=args, kwargs=kwargs))
    assert "<script>alert" not in page(root)


def test_a_long_queue_is_shown_in_parts(broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PER_PAGE", 2)
    ids = enqueue(broker, *(message() for _ in range(5)))
    url, seen, sizes = f"{LIST}mail/change/", [], []
    while url:
        response = root.get(url)
        seen += ids_in(response.text)
        sizes.append(len(ids_in(response.text)))
        url = response.context["next_url"]
    assert (seen, sizes) == (ids, [2, 2, 1])
    assert "5–5 of 5" in response.text
    assert response.context["previous_url"] == f"{LIST}mail/change/?offset=2"


def test_the_parts_of_what_is_scheduled_stay_there(
    broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PER_PAGE", 1)
    first, second = enqueue(broker, message(countdown=60), message(countdown=120))
    response = root.get(f"{LIST}mail/change/?scheduled=1")
    assert ids_in(response.text) == [first]
    assert ids_in(root.get(response.context["next_url"]).text) == [second]


@pytest.mark.parametrize("offset", ["", "x", "-1", "1.5", "9" * 5000, str(2**63), "١", "\x00"])
def test_an_offset_that_is_none_shows_a_page_all_the_same(broker: Broker, root: Client, offset: str) -> None:
    enqueue(broker, message(), message())
    assert len(ids_in(page(root, offset=offset))) in (1, 2)


def test_beyond_the_end_there_is_a_way_back(broker: Broker, root: Client) -> None:
    enqueue(broker, message())
    html = page(root, offset=waiting.FARTHEST - 1)
    assert "There are fewer jobs than that." in html
    assert f'<a href="{LIST}mail/change/">To the first ones</a>' in html


@pytest.mark.parametrize("name", ["nobody-knows-it", "nul\x00", "x" * 1000, "new\nline"])
def test_a_queue_that_nobody_knows_is_an_empty_one(broker: Broker, root: Client, name: str) -> None:
    assert "Nothing waits in this queue." in page(root, name)
    assert "Nothing in this queue waits for its time." in page(root, name, scheduled=1)


@pytest.mark.parametrize("address", [LIST, f"{LIST}mail/change/", f"{LIST}mail/change/?scheduled=1"])
def test_a_broker_that_does_not_answer_is_said_in_so_many_words(root: Client, unreachable: None, address: str) -> None:
    response = root.get(address)
    assert response.status_code == 503
    assert "The server &lt;at home&gt; does not answer." in response.text


@pytest.mark.parametrize("address", [LIST, f"{LIST}mail/change/"])
def test_one_must_be_allowed_to_see_queues(log_in: Any, broker: Broker, address: str) -> None:
    assert log_in("view_queue").get(address).status_code == 200
    assert log_in("view_job", "pause_queue", name="bob").get(address).status_code == 403


def test_queues_are_only_looked_at(root: Client, broker: Broker) -> None:
    broker.pause("mail")
    assert root.get(f"{LIST}add/").status_code == 403
    assert root.post(f"{LIST}mail/delete/", {"post": "yes"}).status_code in (302, 403)
    assert root.post(f"{LIST}mail/change/", {"paused": ""}).status_code == 405
    assert root.post(LIST, {"action": "delete_selected", "_selected_action": "mail"}).status_code == 405
    assert broker.sizes()["mail"].paused


def live_worker(named: list[str]) -> None:
    served = Worker.queues_as_text(named, ())
    Worker.objects.create(pk=new_id()[-32:], hostname="w", pid=1, queues=served, pool="solo", concurrency=1)


def act(client: Client, action: str, queue: str = "mail", **data: Any) -> Any:
    return client.post(f"{LIST}{pages.in_address(queue)}/{action}/", data, follow=True)


def told(response: Any) -> list[str]:
    return [str(each) for each in response.context["messages"]]


def test_who_serves_a_queue_and_who_does_not_is_seen(broker: Broker, root: Client) -> None:
    enqueue(broker, message(), message(queue="pdf"))
    live_worker(["mail", "emial"])
    html = root.get(LIST).text
    assert row_of(html, ">mail<") == ["mail", "1", "0", "0", "1", ANY, "0/s", "just now", "w"]
    assert row_of(html, ">pdf<")[0] == "pdf No live worker serves it."
    assert row_of(html, ">emial<")[0] == "emial A worker serves it, but nobody is known to send to it."
    assert re.search(r'Served by <a href="/staff/djtasks/worker/[^"]+">w</a>', page(root))
    assert "No live worker serves it." in page(root, "pdf")
    assert "nobody is known to send to it" in page(root, "emial")


def test_a_queue_is_paused_and_resumed_by_a_button(broker: Broker, root: Client) -> None:
    enqueue(broker, message())
    assert f'<form method="post" action="{LIST}mail/pause/">' in page(root)
    assert told(act(root, "pause")) == ["The queue is paused. What runs goes on."]
    assert broker.sizes()["mail"].paused
    html = page(root)
    assert f'action="{LIST}mail/pause/"' not in html
    assert f'<form method="post" action="{LIST}mail/resume/">' in html
    assert told(act(root, "resume")) == ["The queue is not paused any more."]
    assert not broker.sizes()["mail"].paused


def test_a_purge_asks_and_then_removes_what_waits(broker: Broker, root: Client) -> None:
    enqueue(broker, message(), message(countdown=60), message(queue="pdf"))
    html = root.get(f"{LIST}mail/purge/").text
    assert "This cannot be undone." in html
    assert "Ready: 1 · scheduled: 1 · running: 0" in html
    assert broker.sizes()["mail"].ready == 1
    refused = act(root, "purge", typed="Mail")
    assert "This is not the name of the queue." in refused.text
    assert broker.sizes()["mail"].ready == 1
    assert told(act(root, "purge", typed="mail")) == ["2 jobs were removed."]
    assert list(broker.sizes()) == ["pdf"]


def test_jobs_are_moved_by_a_form(broker: Broker, root: Client) -> None:
    enqueue(broker, message(task="a"), message(task="b"), message(task="b"))
    assert 'name="target"' in root.get(f"{LIST}mail/move/").text
    response = act(root, "move", target="slow", task="b", limit="1")
    assert told(response) == ["1 job was moved to slow."]
    assert [each.message.task for each in broker.peek("slow")] == ["b"]
    assert told(act(root, "move", target="slow")) == ["2 jobs were moved to slow."]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"target": ""}, "This field is required."),
        ({"target": "mail"}, "The jobs are in this queue already."),
        ({"target": "a\x1bb"}, "printable characters"),
        ({"target": "slow", "limit": "0"}, "greater than or equal to 1"),
    ],
)
def test_a_move_that_makes_no_sense_is_not_made(broker: Broker, root: Client, data: Any, why: str) -> None:
    enqueue(broker, message())
    assert why in act(root, "move", **data).text
    assert broker.sizes()["mail"].ready == 1


def test_default_priority_and_aging_are_set_by_a_form(broker: Broker, root: Client) -> None:
    act(root, "set", default_priority="-7", aging="60")
    assert "Default priority -7 · aging 60 s" in row_of(root.get(LIST).text, ">mail<")[0]
    assert 'value="-7"' in root.get(f"{LIST}mail/set/").text
    enqueue(broker, message())
    assert [each.message.priority for each in broker.peek("mail")] == [-7]
    assert told(act(root, "set", default_priority="", aging="")) == [
        "The queue is set. Jobs that wait already keep their priority."
    ]
    assert Queue.objects.get(name="mail").default_priority is None
    assert "less than or equal to 100" in act(root, "set", default_priority="101").text


def test_limits_are_set_by_a_form(broker: Broker, root: Client) -> None:
    act(root, "set", rate_limit="10/m", max_concurrency="3")
    assert "at most 10/m · at most 3 at a time" in row_of(root.get(LIST).text, ">mail<")[0]
    assert Queue.objects.limits() == {"mail": ("10/m", 3)}
    assert "A rate is written as" in act(root, "set", rate_limit="often").text
    assert "greater than or equal to 1" in act(root, "set", max_concurrency="0").text
    act(root, "set", rate_limit="", max_concurrency="")
    assert Queue.objects.limits() == {}


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("pause", "pause_queue"),
        ("resume", "pause_queue"),
        ("purge", "purge_queue"),
        ("move", "change_queue"),
        ("set", "change_queue"),
    ],
)
def test_each_action_has_its_permission(log_in: Any, broker: Broker, action: str, permission: str) -> None:
    enqueue(broker, message())
    if action == "resume":
        broker.pause("mail")
    others = {"pause_queue", "purge_queue", "change_queue"} - {permission}
    without = log_in("view_queue", *others)
    data = {"target": "slow"}
    assert act(without, action, **data).status_code == 403
    assert f"/mail/{action}/" not in page(without)
    blind = log_in(*{permission} - {"change_queue"}, name="bob")  # who may change may also look, says Django
    assert act(blind, action, **data).status_code == 403
    with_it = log_in("view_queue", permission, name="cy")
    assert f"/mail/{action}/" in page(with_it)
    assert act(with_it, action, **data).status_code == 200


def test_an_action_needs_the_token_against_forgery(broker: Broker, root: Client) -> None:
    enqueue(broker, message())
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = root.cookies
    for action in ("pause", "purge", "move", "set"):
        assert strict.post(f"{LIST}mail/{action}/", {"target": "slow"}).status_code == 403
    assert (broker.sizes()["mail"].ready, broker.sizes()["mail"].paused) == (1, False)


def test_what_was_done_to_a_queue_is_logged(broker: Broker, root: Client) -> None:
    enqueue(broker, message())
    act(root, "purge", typed="mail")
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.get_change_message()) == ("mail", "Purged. 1 job was removed.")


def test_an_action_on_a_queue_of_any_name_reaches_it(broker: Broker, root: Client) -> None:
    for name in NAMES:
        enqueue(broker, message(queue=name))
        assert told(act(root, "purge", name, typed=name)) == ["1 job was removed."], name
    assert broker.sizes() == {}


def test_no_action_reaches_what_can_be_no_queue(broker: Broker, root: Client) -> None:
    assert act(root, "pause", "x" * 129).status_code == 404
    assert act(root, "pause", "nul\x00").status_code == 404
    assert broker.sizes() == {}


def test_an_action_says_that_the_broker_does_not_answer(root: Client, unreachable: None) -> None:
    response = act(root, "pause")
    assert told(response) == ["The server <at home> does not answer."]
    assert response.status_code == 503


def test_what_waits_for_its_time_is_run_by_a_button(broker: Broker, root: Client) -> None:
    later, also = enqueue(broker, message(countdown=60), message(countdown=60))
    assert f'name="job" value="{later}"' in page(root, scheduled=1)
    assert told(act(root, "run_now", job=later)) == ["The job is ready and runs next in its turn."]
    assert [each.id for each in broker.peek("mail")] == [later]
    assert [each.id for each in broker.peek("mail", scheduled=True)] == [also]
    assert LogEntry.objects.get().get_change_message() == f"Run now. {later}"
    assert "does not wait for its time any more" in told(act(root, "run_now", job=later))[0]


def test_who_may_not_change_a_queue_is_shown_no_button_to_run_its_jobs(broker: Broker, log_in: Any) -> None:
    enqueue(broker, message(countdown=60))
    assert "run_now" not in page(log_in("view_queue"), scheduled=1)


def test_many_queues_come_page_by_page(broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "QUEUES_PER_PAGE", 2)
    enqueue(broker, *(message(queue=name) for name in ("a", "b", "c & d")))
    first = root.get(LIST)
    assert [line.queue.name for line in first.context["lines"]] == ["a", "b"]
    second = root.get(first.context["next_url"])
    assert [line.queue.name for line in second.context["lines"]] == ["c & d"]
    assert not second.context["next_url"]
    assert f'<a href="{LIST}">To the first ones</a>' in second.text


def test_what_waits_behind_thousands_is_not_paged_to(
    broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FARTHEST", 2)
    monkeypatch.setattr(waiting, "PER_PAGE", 2)
    enqueue(broker, *(message() for _ in range(3)))
    html = page(root)
    assert "1–2 of 2+" in html or "1–2 of 3" in html  # as it is counted further than that, or not
    assert "What runs later is not listed here." in html
    assert 'rel="next"' not in html


def test_no_link_leads_to_an_empty_part_though_more_is_scheduled_than_is_counted(
    broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FARTHEST", 3)
    monkeypatch.setattr(waiting, "PER_PAGE", 2)
    enqueue(broker, *(message(queue="pdf", countdown=60) for _ in range(40)))
    ids = enqueue(broker, *(message(countdown=30) for _ in range(2)))
    response = root.get(f"{LIST}mail/change/?scheduled=1")
    assert ids_in(response.text) == ids
    assert not response.context["next_url"]


def test_the_number_of_queries_does_not_grow(broker: Broker, root: Client) -> None:
    def count(address: str) -> int:
        aliases = {"default", our_settings.DATABASE}
        captured = [CaptureQueriesContext(connections[alias]) for alias in aliases]
        for each in captured:
            each.__enter__()
        root.get(address)
        for each in captured:
            each.__exit__(None, None, None)
        return sum(map(len, captured))

    addresses = (LIST, f"{LIST}mail/change/", f"{LIST}mail/change/?scheduled=1")
    enqueue(broker, message(), message(countdown=60))
    few = [count(address) for address in addresses]
    enqueue(broker, *(message(countdown=wait) for wait in (None, 60) for _ in range(20)), message(queue="pdf"))
    assert [count(address) for address in addresses] == few
    assert max(few) <= 20  # of the list: what came and ended in the last hour, too


def test_the_list_of_jobs_leads_to_the_queues_for_those_who_may_see_them(log_in: Any) -> None:
    assert f'<a href="{LIST}">What waits, by queue</a>' in log_in("view_job", "view_queue").get(JOBS).text
    assert LIST not in log_in("view_job", name="bob").get(JOBS).text


@in_redis
def test_the_list_of_jobs_says_that_what_waits_in_redis_is_not_in_it(broker: Broker, log_in: Any) -> None:
    enqueue(broker, message())
    html = log_in("view_job", "view_queue").get(JOBS).text
    assert f'have no row yet, so they do not stand in this list. <a href="{LIST}">What waits, by queue</a>' in html
    html = log_in("view_job", name="bob").get(JOBS).text
    assert "have no row yet" in html
    assert LIST not in html


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_list_of_jobs_says_no_such_thing_where_all_jobs_are_rows(broker: Broker, root: Client) -> None:
    assert "have no row yet" not in root.get(JOBS).text


@in_redis
@pytest.mark.parametrize("page_of_it", ["change", "cancel"])
def test_the_page_of_a_job_that_waits_in_redis_leads_to_the_queues(
    broker: Broker, log_in: Any, page_of_it: str
) -> None:
    (pk,) = enqueue(broker, message())
    address = f"{JOBS}{pk}/{page_of_it}/"
    response = log_in("view_job", "view_queue", "revoke_job").get(address, follow=True)
    assert response.redirect_chain == [(LIST, 302)]
    assert f"Job {pk} waits, and has no row until it runs." in response.text
    response = log_in("view_job", "revoke_job", name="bob").get(address, follow=True)
    assert response.redirect_chain == [(JOBS, 302)]
    assert f"Job {pk} waits, and has no row until it runs." in response.text


@in_redis
@pytest.mark.parametrize("answers", [True, False])
def test_the_page_of_a_job_that_nobody_knows_says_so_whether_or_not_redis_answers(
    broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    def known(self: Broker, ids: list[str]) -> set[str]:
        raise BrokerUnavailable("nobody there")

    if not answers:
        monkeypatch.setattr(type(broker), "known", known)
    assert "There is no job gone." in root.get(f"{JOBS}gone/change/", follow=True).text


@pytest.mark.parametrize("site", ["staff", "ops"])
def test_the_pages_stay_on_their_site_without_inline_style_or_script(broker: Broker, root: Client, site: str) -> None:
    enqueue(broker, message(), message(countdown=60))
    for address in ("", "mail/change/", "mail/change/?scheduled=1"):
        html = root.get(f"/{site}/djtasks/queue/{address}").text
        assert f'href="/{site}/djtasks/queue/mail/change/' in html
        assert f'"/{ {"staff": "ops", "ops": "staff"}[site] }/' not in html
        assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son\w+=|javascript:", html)
        assert "djtasks/admin.css" in html


def test_the_index_has_an_entry_for_queues(root: Client) -> None:
    assert f'href="{LIST}"' in root.get("/staff/").text
    assert admin.site.is_registered(Queue)


def test_a_time_is_an_age_with_the_exact_time_on_hover(
    broker: Broker, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime.now(UTC) - timedelta(minutes=3)
    waiting = [Delivery(message(), "", 0, created_at=moment)]
    monkeypatch.setattr(type(broker), "peek", lambda self, *args, **kwargs: waiting)
    html = page(root)
    assert f'<time datetime="{moment.isoformat()}" title="' in html
    assert "3 min ago" in html
