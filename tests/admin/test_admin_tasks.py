"""Tasks in the admin: which there are, how each does, its rate, and a form to send one."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from djtasks import encoding, shared_task, states, statistics
from djtasks.admin import failures
from djtasks.admin import task as pages
from djtasks.admin.charts import distribution
from djtasks.admin.failures import place_of
from djtasks.message import first_id, new_id
from djtasks.models import Job, Limit, Worker
from djtasks.models.fields import utc_now
from djtasks.models.metric import bucket_of

pytestmark = pytest.mark.usefixtures("own_tasks")

LIST = "/staff/djtasks/task/"
STATEMENTS = 20  # of a page at most
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 3, in first
    raise KeyError
KeyError

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/shop/tasks.py", line {line}, in export
    fetch()
  File "/srv/env/lib/python3.12/site-packages/requests/api.py", line 73, in get
    return request()
  File "/usr/lib/python3.12/socket.py", line 9, in connect
    raise error
"""


def declare(**options: Any) -> Any:
    @shared_task(name="shop.tasks.pay", **options)
    def pay(
        customer: str, amount: Decimal, day: date | None = None, fast: bool = False, notes: Any = None, times: int = 1
    ) -> None:
        """Take the money.

        And say so.
        """

    return pay


def live_worker(pk: str, *tasks: str) -> None:
    Worker.objects.create(pk=pk, hostname=pk, pid=1, queues="null", pool="solo", concurrency=1, tasks=json.dumps(tasks))


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.replace("<wbr>", "")))


def page(client: Client, name: str = "shop.tasks.pay", **query: Any) -> str:
    response = client.get(f"{LIST}{name}/change/", query)
    assert response.status_code == 200
    return text_of(response.text)


def row_of(client: Client, name: str, **query: Any) -> str:
    found = re.findall(r"<tr>.*?</tr>", client.get(LIST, query).text, re.DOTALL)
    return next(text for text in map(text_of, found) if f" {name} " in text)


def ended(count: int, ago: timedelta = timedelta(minutes=20), *, seconds: float = 0.5, **columns: Any) -> None:
    end = utc_now() - ago
    values = {"task": "shop.tasks.pay", "queue": "default", "state": states.SUCCESS, **columns}
    Job.objects.bulk_create(
        Job(
            id=f"{first_id(end)}{new_id()[13:]}", seconds=seconds, created_at=end - timedelta(seconds=seconds + 1),
            started_at=end - timedelta(seconds=seconds), finished_at=end, **values,
        )
        for _ in range(count)
    )  # fmt: skip


# The list


def test_tasks_are_listed_with_who_knows_them_and_how_they_do(root: Client) -> None:
    declare(rate_limit="10/m")
    live_worker("w1", "shop.tasks.pay", "other.tasks.elsewhere")
    live_worker("w2", "shop.tasks.pay")
    Limit.objects.create(pk="shop.tasks.pay", is_task=True, declared="10/m")
    ended(8)
    ended(2, state=states.FAILURE)
    ended(1, task="gone.tasks.old")
    statistics.count()
    assert row_of(root, "pay") == " pay shop.tasks 10 2 20 % 500 ms 500 ms 10/m here, 2 of 2 workers "
    assert row_of(root, "elsewhere").endswith("not here, 1 of 2 workers ")
    assert row_of(root, "old").endswith("not here, 0 of 2 workers no worker ")
    assert "One task is known to workers alone" in root.get(LIST).text


def test_the_time_that_is_shown_is_in_the_address(root: Client) -> None:
    declare()
    ended(3, timedelta(minutes=30))
    statistics.count()
    assert " 3 " in row_of(root, "pay", window="1h")
    assert " 3 " not in row_of(root, "pay", window="10m")


def test_tasks_are_found_by_a_part_of_their_name_and_come_page_by_page(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PER_PAGE", 2)
    live_worker("w1", "booth.a", "booth.b", "booth.c", "mail.d")
    first = root.get(LIST, {"q": "BOOTH."})
    assert [line.name for line in first.context["lines"]] == ["booth.a", "booth.b"]
    following = root.get(LIST + first.context["next_url"])
    assert [line.name for line in following.context["lines"]] == ["booth.c"]
    assert following.context["first_url"]
    assert "No task has this in its name." in root.get(LIST, {"q": "nothing like it"}).text


# The page of one


def test_the_page_shows_declaration_options_and_docstring(root: Client) -> None:
    declare(queue="money", max_retries=7, autoretry_for=(OSError,), time_limit=30)
    html = page(root)
    assert "shop.tasks.pay(customer: str, amount: Decimal, day: date | None = None" in html
    assert "Take the money. And say so." in html
    assert "queue money the task max_retries 7 the task autoretry_for OSError the task time_limit 30 the task" in html
    assert "acks_late yes default or settings" in html


def test_a_long_name_breaks_behind_its_dots(root: Client) -> None:
    declare()
    assert "<h1>shop.<wbr>tasks.<wbr>pay</h1>" in root.get(f"{LIST}shop.tasks.pay/change/").text


def test_of_a_task_that_only_workers_know_the_page_says_so(root: Client) -> None:
    live_worker("w1", "shop.tasks.pay")
    html = page(root)
    assert "not here, 1 of 1 worker" in html
    assert "is not loaded in this web process" in html


def test_a_task_that_nobody_knows_is_not_found(root: Client) -> None:
    for name in ("no.such.task", "nul%00", "..", "x" * 300):
        for view in ("change", "send", "rate"):
            assert root.get(f"{LIST}{name}/{view}/").status_code == 404


def test_figures_and_run_times_are_of_this_task_alone(root: Client) -> None:
    declare()
    ended(9, seconds=0.15)
    ended(1, seconds=3.0)
    ended(5, task="shop.tasks.other", seconds=100.0)
    statistics.count()
    html = page(root)
    assert "Ended 10 " in html
    assert "100 ms – 200 ms 9 90 %" in html
    assert "2 s – 5 s 1 10 %" in html


def test_run_times_fall_into_bars_without_gaps() -> None:
    bars = distribution({bucket_of(0.015): 3, bucket_of(0.15): 1, bucket_of(10**6): 1})
    assert [(bar.above, bar.below, bar.count) for bar in bars[:4]] == [
        ("10 ms", "20 ms", 3), ("20 ms", "50 ms", 0), ("50 ms", "100 ms", 0), ("100 ms", "200 ms", 1),
    ]  # fmt: skip
    assert (bars[-1].below, bars[-1].count, bars[-1].most) == ("∞", 1, 3)
    assert distribution({}) == []


def test_failures_are_grouped_by_exception_and_place_in_the_users_code(root: Client) -> None:
    declare()
    failed = {"state": states.FAILURE, "exception": "OSError", "exception_message": "no route"}
    ended(3, traceback=TRACEBACK.format(line=42), **failed)
    ended(2, timedelta(minutes=1), traceback=TRACEBACK.format(line=88), **failed)
    ended(4, task="shop.tasks.other", traceback=TRACEBACK.format(line=1), **failed)
    html = page(root)
    assert "OSError no route /srv/shop/tasks.py:42 in export 3 20 min ago" in html
    assert "OSError no route /srv/shop/tasks.py:88 in export 2 1 min ago" in html
    assert "tasks.py:1 " not in html


def test_what_exceptions_say_is_shown_to_those_who_may_read_arguments(log_in: Any) -> None:
    declare()
    ended(1, state=states.FAILURE, exception="OSError", exception_message="secret 4711", traceback=TRACEBACK)
    assert "4711" not in page(log_in("view_task", "view_job"))
    assert "4711" in page(log_in("view_task", "view_job", "view_job_arguments", name="bob"))
    assert "OSError" not in page(log_in("view_task", name="eve"))


def test_only_so_many_of_the_newest_jobs_are_looked_at(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    declare()
    monkeypatch.setattr(failures, "LOOKED_AT", 3)
    ended(2, timedelta(minutes=50), state=states.FAILURE, exception="OldError")
    ended(3)
    assert "None of the newest 3 jobs of the task has failed." in page(root)
    ended(1, timedelta(0), state=states.FAILURE, exception="NewError")
    html = page(root)
    assert "NewError" in html
    assert "OldError" not in html


@pytest.mark.parametrize(
    ("traceback", "place"),
    [
        (TRACEBACK.format(line=42), "/srv/shop/tasks.py:42 in export"),
        ('Traceback (most recent call last):\n  File "/usr/lib/python3.12/socket.py", line 9, in connect\n',
         "/usr/lib/python3.12/socket.py:9 in connect"),
        ('  File "C:\\shop\\tasks.py", line 7, in pay\n  File "C:\\env\\Lib\\site-packages\\x.py", line 1, in y\n',
         "C:\\shop\\tasks.py:7 in pay"),
        ("<its traceback could not be formatted>", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_place_is_the_innermost_frame_of_the_users_own(traceback: str, place: str) -> None:
    assert place_of(traceback) == place


# The rate


def test_the_rate_is_set_by_a_form_and_logged(log_in: Any) -> None:
    declare()
    client = log_in("view_task", "change_limit")
    assert "shop.tasks.pay/rate/" in client.get(f"{LIST}shop.tasks.pay/change/").text
    response = client.post(f"{LIST}shop.tasks.pay/rate/", {"rate": "10/m"}, follow=True)
    assert "The rate is set." in response.text
    assert Limit.objects.get(pk="shop.tasks.pay").rate == "10/m"
    assert LogEntry.objects.get().get_change_message() == "Rate set. 10/m"
    assert "A rate is written as" in client.post(f"{LIST}shop.tasks.pay/rate/", {"rate": "often"}).text


# Sending


def send(client: Client, name: str = "shop.tasks.pay", query: str = "", **data: Any) -> Any:
    return client.post(f"{LIST}{name}/send/{query}", data, follow=True)


def arguments_of(job: Job) -> Any:
    return encoding.decode_arguments(job.args, job.kwargs, fetch=False)


def errors(response: Any) -> str:
    return text_of(" ".join(re.findall(r'<ul class="errorlist.*?</ul>', response.text, re.DOTALL))).strip()


def test_what_takes_permissions_of_its_own_is_not_sent_from_here(log_in: Any) -> None:
    client = log_in("view_task", "send_task")
    assert "send/" not in client.get(f"{LIST}djtasks.act_on_all/").text
    assert client.get(f"{LIST}djtasks.act_on_all/send/").status_code == 403
    assert client.post(f"{LIST}djtasks.act_on_all/send/", {}).status_code == 403


def test_a_task_is_sent_by_a_field_for_each_parameter(log_in: Any) -> None:
    declare()
    client = log_in("view_task", "send_task", "view_job")
    form = text_of(client.get(f"{LIST}shop.tasks.pay/send/").text)
    assert "customer: str" in form
    assert "times: int · empty: 1" in form
    response = send(
        client, argument_customer="ann", argument_amount="9.90", argument_day="2026-01-31", argument_fast="true",
        argument_notes='{"a": [1]}', queue="money", priority="5",
    )  # fmt: skip
    job = Job.objects.get()
    assert arguments_of(job) == (
        [],
        {"customer": "ann", "amount": Decimal("9.90"), "day": date(2026, 1, 31), "fast": True, "notes": {"a": [1]}},
    )
    assert (job.queue, job.priority, job.state) == ("money", 5, states.PENDING)
    assert f"The job was sent: {job.pk}" in text_of(response.text)
    assert LogEntry.objects.get().object_id == job.pk


def test_a_countdown_lets_it_wait(root: Client) -> None:
    declare()
    send(root, argument_customer="ann", argument_amount="1", countdown="60")
    assert Job.objects.get().state == states.SCHEDULED


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"argument_amount": "1"}, "This field is required."),
        ({"argument_customer": "ann", "argument_amount": "much"}, "Enter a number."),
        ({"argument_customer": "ann", "argument_amount": "1", "argument_day": "tomorrow"}, "Enter a valid date."),
        ({"argument_customer": "ann", "argument_amount": "1", "argument_notes": "{oops"}, "This is no JSON:"),
        ({"argument_customer": "ann", "argument_amount": "1", "queue": "x" * 200}, "at most 128 characters"),
        ({"argument_customer": "ann", "argument_amount": "1", "priority": "1000"}, "less than or equal to 100"),
        ({"argument_customer": "ann", "argument_amount": "1", "countdown": "-1"}, "greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_is_told_at_its_field_and_nothing_is_sent(root: Client, data: Any, error: str) -> None:
    declare()
    assert error in errors(send(root, **data))
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ("[1", "{}", "This is no JSON:"),
        ("{}", "{}", "Write a JSON list"),
        ("[]", "[]", "Write a JSON object"),
        ("[]", '{"customer": "ann"}', "missing a required argument: 'amount'"),
        ('["ann", 1]', '{"colour": 1}', "unexpected keyword argument 'colour'"),
    ],
)
def test_json_is_checked_against_the_signature(root: Client, args: str, kwargs: str, error: str) -> None:
    declare()
    assert error in errors(send(root, query="?json=1", argument_args=args, argument_kwargs=kwargs)).replace(
        "&#x27;", "'"
    )
    assert not Job.objects.exists()


def test_json_is_sent_too(root: Client) -> None:
    declare()
    send(root, query="?json=1", argument_args='["ann", 1]', argument_kwargs='{"times": 2}')
    assert arguments_of(Job.objects.get()) == (["ann", 1], {"times": 2})


def test_what_a_task_takes_any_number_of_is_written_as_json(root: Client) -> None:
    @shared_task(name="shop.tasks.pay")
    def pay(*amounts: int, **options: Any) -> None: ...

    form = text_of(root.get(f"{LIST}shop.tasks.pay/send/").text)
    assert "*amounts" in form
    assert "A JSON list" in form
    send(root, argument_amounts="[1, 2]", argument_options='{"x": null}')
    assert arguments_of(Job.objects.get()) == ([1, 2], {"x": None})


def test_a_task_without_arguments_is_sent_as_it_is(root: Client) -> None:
    @shared_task(name="shop.tasks.pay")
    def pay() -> None: ...

    send(root)
    assert arguments_of(Job.objects.get()) == ([], {})


def test_positional_parameters_choices_and_secrets_have_their_fields(root: Client) -> None:
    @shared_task(name="shop.tasks.pay")
    def pay(amount: int, /, how: Literal["card", "cash"], api_key: str = "k") -> None: ...

    form = root.get(f"{LIST}shop.tasks.pay/send/").text
    assert '<option value="card">card</option>' in form
    assert 'type="password"' in form
    assert "&#x27;k&#x27;" not in text_of(form).partition("empty:")[2]
    send(root, argument_amount="3", argument_how="cash")
    assert arguments_of(Job.objects.get()) == ([3], {"how": "cash"})


def test_what_only_workers_know_is_sent_unchecked_and_the_page_says_so(root: Client) -> None:
    live_worker("w1", "shop.tasks.pay")
    assert "is not checked against its signature" in root.get(f"{LIST}shop.tasks.pay/send/").text
    send(root, argument_args="[1]", argument_kwargs="{}")
    job = Job.objects.get()
    assert (job.task, arguments_of(job)) == ("shop.tasks.pay", ([1], {}))


def test_without_the_permission_nothing_is_offered_or_sent(log_in: Any) -> None:
    declare()
    client = log_in("view_task")
    assert "/send/" not in client.get(f"{LIST}shop.tasks.pay/change/").text
    assert client.get(f"{LIST}shop.tasks.pay/send/").status_code == 403
    assert send(client, argument_customer="ann", argument_amount="1").status_code == 403
    assert not Job.objects.exists()


def test_the_number_of_queries_does_not_grow(root: Client) -> None:
    def count(address: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert root.get(address).status_code == 200
        return len(captured)

    declare()
    live_worker("w1", "shop.tasks.pay")
    ended(1, state=states.FAILURE, exception="A", traceback=TRACEBACK)
    statistics.count()
    addresses = (LIST, f"{LIST}shop.tasks.pay/change/", f"{LIST}shop.tasks.pay/send/", f"{LIST}?q=s")
    few = [count(address) for address in addresses]
    for number in range(10):
        live_worker(f"v{number}", "shop.tasks.pay", f"shop.tasks.t{number}")
        ended(2, state=states.FAILURE, exception=f"E{number}", traceback=TRACEBACK.format(line=number))
    assert [count(address) for address in addresses] == few
    assert max(few) <= STATEMENTS
