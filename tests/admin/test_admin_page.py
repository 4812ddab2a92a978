"""The page of one job."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.test import Client

from djtasks import encoding, registry, shared_task, states
from djtasks.admin.presentation import DEEPEST, pretty
from djtasks.admin.trace import marked
from djtasks.admin.value_tree import value_tree
from djtasks.models import Job, Worker


def page(client: Client, job: Job) -> str:
    response = client.get(f"/staff/djtasks/job/{job.pk}/change/")
    assert response.status_code == 200
    return response.text


def written(*args: Any, **kwargs: Any) -> dict[str, str]:
    return dict(zip(("args", "kwargs"), encoding.encode_arguments(args, kwargs), strict=True))


def test_arguments_and_result_are_shown_as_values(root: Client, make_job: Any) -> None:
    moment = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    job = make_job(states.SUCCESS, **written(7, (Decimal("1.20"), moment), name="Ann"), result='{"rows":20000}')
    html = page(root, job)
    assert "(Decimal(&#x27;1.20&#x27;), 2026-01-02T03:04:00+00:00)" in html
    assert "<code>name</code>" in html
    assert "{&#x27;rows&#x27;: 20000}" in html


def test_arguments_are_escaped(root: Client, make_job: Any) -> None:
    attack = "<script>alert(1)</script>"
    job = make_job(
        states.FAILURE,
        task=attack,
        queue=attack,
        **written(attack, {attack: attack}),
        result=json.dumps(attack),
        exception=attack,
        exception_message=attack,
        traceback=attack,
        meta=json.dumps({attack: attack}),
        headers=json.dumps({attack: attack}),
        enqueued_by=attack,
        attempts=json.dumps([dict.fromkeys(("token", "worker", "start", "seconds", "ending", "error"), attack)]),
    )
    assert "<script>alert" not in page(root, job)
    assert "<script>alert" not in root.get("/staff/djtasks/job/").text
    assert "<script>alert" not in root.get(f"/staff/djtasks/job/{job.pk}/retry/").text


def test_sensitive_arguments_are_masked_wherever_they_stand(root: Client, make_job: Any) -> None:
    @shared_task(name="tests.log_in", bind=True)
    def log_in(self: Any, user: str, password: str) -> None: ...

    try:
        job = make_job(
            states.SUCCESS,
            task="tests.log_in",
            **written("ann", "concealed-1", {"deep": [{"api_key": "concealed-2"}]}, token="concealed-3"),
            result='{"secret":"concealed-4"}',
            meta='{"token":"concealed-5"}',
            headers='{"api_key":"concealed-6"}',
            options='{"secret":"concealed-7"}',
        )
        html = page(root, job)
    finally:
        registry.unregister("tests.log_in")
    assert "concealed" not in html
    assert html.count("********") == 7 + 2 * 3  # in the call and in the test that can be copied, too
    assert "<code>password</code>" in html
    assert "&#x27;ann&#x27;" in html


@pytest.mark.parametrize("text", ["{", '{"$":"rocket","v":1}', "[" * 50_000, '{"$":"uuid","v":"x"}'])
def test_malformed_columns_are_shown_as_they_stand(root: Client, make_job: Any, text: str) -> None:
    job = make_job(
        states.FAILURE,
        args=text,
        kwargs=text,
        result=text,
        meta=text,
        headers=text,
        options=text,
        attempts=text,
    )
    html = page(root, job)
    assert "They cannot be read; this is what stands in the row." in html
    assert text[:20].replace('"', "&quot;") in html


@pytest.mark.parametrize("attempts", ["[1]", '{"a":1}', '"x"', "7", "[{}]"])
def test_attempts_of_a_wrong_shape_do_not_break_the_page(root: Client, make_job: Any, attempts: str) -> None:
    page(root, make_job(states.FAILURE, attempts=attempts))


def test_attempts_are_told_oldest_first(root: Client, make_job: Any) -> None:
    Worker.objects.create(id="w1", hostname="web-1", pid=1, queues="*", pool="solo", concurrency=1)
    first = {"token": 1, "worker": "w1.1", "start": "2026-01-02T03:04:05+00:00", "seconds": 1.5, "ending": "RETRY"}
    job = make_job(
        states.FAILURE,
        token=2,
        worker="w1.2",
        attempts=json.dumps([{**first, "error": "OSError: first"}]),
        exception="ValueError",
        exception_message="second",
    )
    html = page(root, job)
    assert html.index("OSError: first") < html.index("ValueError: second")
    assert "1.50 s" in html
    assert "web-1" in html


def test_progress_is_a_bar_where_its_numbers_are_known(root: Client, make_job: Any) -> None:
    job = make_job(states.STARTED, custom_state="PROGRESS", meta='{"current":6200,"total":20000}')
    assert 'value="6200" max="20000"' in page(root, job)
    assert "<progress" not in page(root, make_job(states.STARTED, meta='{"step":"x","current":"1"}'))


def test_the_traceback_can_be_copied_and_read_without_script(root: Client, make_job: Any) -> None:
    html = page(root, make_job(states.FAILURE, traceback="Traceback:\n  line"))
    assert 'id="djtasks-traceback" tabindex="0">Traceback:\n  line</pre>' in html
    assert 'data-djtasks-copies="djtasks-traceback"' in html


def test_without_the_permission_nothing_is_shown_that_may_hold_data(log_in: Any, make_job: Any) -> None:
    text = "very private"
    job = make_job(
        states.FAILURE,
        **written(text, key=text),
        result=json.dumps(text),
        exception="ValueError",
        exception_message=text,
        traceback=text,
        meta=json.dumps(text),
        headers=json.dumps({"h": text}),
        options=json.dumps({"o": text}),
        attempts=json.dumps([{"token": 1, "error": f"KeyError: {text}"}]),
    )
    html = page(log_in("view_job"), job)
    assert text not in html
    assert "<code>djtasks.view_job_arguments</code>" in html
    assert "ValueError" in html
    assert "KeyError" in html
    assert text in page(log_in("view_job", "view_job_arguments", name="bob"), job)


def test_malformed_attempts_are_not_shown_without_the_permission(log_in: Any, make_job: Any) -> None:
    assert "very private" not in page(log_in("view_job"), make_job(states.FAILURE, attempts="very private"))


def test_a_job_that_is_gone_leads_back_to_the_list(root: Client) -> None:
    response = root.get("/staff/djtasks/job/gone/change/", follow=True)
    assert response.redirect_chain == [("/staff/djtasks/job/", 302)]
    assert "There is no job gone." in response.text


def test_ids_may_hold_any_printable_character(root: Client, make_job: Any) -> None:
    job = make_job(states.SUCCESS, id='a/b?c=1&d_2F#"<e>')
    link = root.get("/staff/djtasks/job/").context["cl"].url_for_result(job)
    html = root.get(link).text
    assert "a/b?c=1&amp;d_2F#&quot;&lt;e&gt;" in html
    (retry, *_) = (url for *_, url in root.get(link).context["buttons"])
    assert root.get(retry).status_code == 200


def test_jobs_are_not_changed_or_added_by_hand(root: Client, make_job: Any) -> None:
    job = make_job()
    assert root.get("/staff/djtasks/job/add/").status_code == 403
    root.post(f"/staff/djtasks/job/{job.pk}/change/", {"task": "other"})
    job.refresh_from_db()
    assert job.task == "shop.tasks.export"


def test_who_may_not_view_jobs_sees_none(log_in: Any, make_job: Any) -> None:
    job, client = make_job(), log_in()
    for address in ("", f"{job.pk}/change/", f"{job.pk}/retry/", f"{job.pk}/history/"):
        assert client.get(f"/staff/djtasks/job/{address}").status_code == 403
        assert Client().get(f"/staff/djtasks/job/{address}").status_code == 302


def test_a_value_that_fits_no_line_is_spread_over_several() -> None:
    value = {"lines": [{"sku": f"A-{number}", "name": "a bottle of something"} for number in range(3)]}
    assert pretty(value).splitlines()[:3] == [
        "{",
        "    'lines': [",
        "        {'sku': 'A-0', 'name': 'a bottle of something'},",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1,), "(1,)"),
        ([], "[]"),
        (
            {
                1,
            },
            "{1}",
        ),
        (frozenset({1}), "frozenset({1})"),
        (set(), "set()"),
        ("a\nb", "'a\\nb'"),
        (None, "None"),
        (encoding.ModelReference("shop.order", 7), "<shop.order pk=7>"),
    ],
)
def test_values_look_as_python_writes_them(value: Any, text: str) -> None:
    assert pretty(value) == text


def test_what_is_too_much_is_cut_and_says_so() -> None:
    assert "8000 more" in pretty(list(range(10_000)))
    assert "80000 more characters" in pretty("x" * 100_000)
    nested: Any = []
    for _ in range(DEEPEST + 5):
        nested = [nested]
    assert "…" in pretty(nested)
    wide: Any = 0
    for _ in range(4):
        wide = [wide] * 1000
    assert len(pretty(wide)) < 100_000


def test_the_page_of_a_job_that_waits_says_why(root: Client, make_job: Any) -> None:
    waiting, done = make_job(queue="pdf<b>"), make_job(states.SUCCESS)
    page = root.get(f"/staff/djtasks/job/{waiting.pk}/change/").text
    assert 'data-djtasks-reason="unserved"' in page
    assert "No live worker serves the queue &#x27;pdf&lt;b&gt;&#x27;." in page
    assert "data-djtasks-reason" not in root.get(f"/staff/djtasks/job/{done.pk}/change/").text


def test_long_values_are_trees_that_open_and_close(root: Client, make_job: Any) -> None:
    lines = [{"sku": f"A-{number}", "name": "a bottle of something <b>good</b>"} for number in range(40)]
    html = page(root, make_job(states.SUCCESS, **written({"order": 7, "lines": lines}), result="[]"))
    assert '<details class="djtasks-value" open><summary><code>dict</code>' in html
    assert '<details class="djtasks-value"><summary><code>list</code> <span class="djtasks-quiet">40 entries' in html
    assert "<code>&#x27;order&#x27;</code>: <code>7</code>" in html
    assert "&lt;b&gt;good" in html
    assert "<b>good" not in html


def test_trees_are_cut_and_say_so() -> None:
    html = value_tree([[number] * 100 for number in range(1000)])
    assert "more" in html
    assert len(html) < 200_000
    nested: Any = "x" * 100
    for _ in range(DEEPEST + 30):
        nested = [nested]
    assert "…" in value_tree(nested)


def test_a_long_text_is_folded() -> None:
    html = value_tree("first line\n" + "x" * 500)
    assert html.startswith('<details class="djtasks-value"><summary><code>&#x27;first line')
    assert "x" * 500 in html


TRACE = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 9, in charge
    bank.charge(amount)
    ~~~~~~~~~~~^^^^^^^^
  File "/usr/lib/python3.12/json/__init__.py", line 1, in loads
    return decode()
  File "/srv/.venv/lib/python3.12/site-packages/bank/api.py", line 3, in charge
    raise Refused(amount)
  File "C:\\Python312\\Lib\\json\\decoder.py", line 3, in decode
    raise Refused(amount)
  File "<frozen importlib._bootstrap>", line 3, in load
bank.Refused: <b>7</b>
"""


def test_the_sites_own_frames_stand_out(root: Client, make_job: Any) -> None:
    html = page(root, make_job(states.FAILURE, traceback=TRACE))
    (own,) = re.findall(r'<mark class="djtasks-own">(.*?)</mark>', html, re.DOTALL)
    assert "/srv/shop/tasks.py" in own
    assert "~~~~^^^^" in own
    assert "python3.12" not in own
    text = re.search(r'id="djtasks-traceback" tabindex="0">(.*?)</pre>', html, re.DOTALL)
    assert text
    assert unescape(re.sub(r"</?mark[^>]*>", "", text[1])) == TRACE, "What is copied is what was stored."


def test_frames_of_grouped_exceptions_are_told_apart() -> None:
    grouped = """  + Exception Group Traceback (most recent call last):
  |   File "/srv/shop/tasks.py", line 1, in f
  |     raise ExceptionGroup("x", [ValueError()])
  | ExceptionGroup: x (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/usr/lib/python3.12/json/__init__.py", line 2, in g
    |     raise ValueError()
    | ValueError
"""
    html = str(marked(grouped))
    assert '<mark class="djtasks-own">  |   File &quot;/srv/shop/tasks.py' in html
    assert html.count("<mark") == 1
    assert "python3.12" not in html.partition("</mark>")[0]


def test_the_timeline_is_a_picture_with_its_words_beside_it(root: Client, make_job: Any) -> None:
    html = page(root, make_job(states.SUCCESS))
    assert '<svg class="djtasks-timeline"' in html
    assert "In the queue" in html or "Run: <strong>1 min 0 s</strong>" in html
    assert " style=" not in html.partition('id="content-main"')[2]


def test_a_job_can_be_copied_as_python_by_those_who_may_read_its_arguments(
    root: Client, log_in: Any, make_job: Any
) -> None:
    job = make_job(states.FAILURE, task="tests.tasks.add", **written("very private", password="concealed"))
    html = page(root, job)
    assert "add.delay(&#x27;very private&#x27;, password=&#x27;********&#x27;)" in html
    assert 'data-djtasks-copies="djtasks-test"' in html
    assert "concealed" not in html
    assert "add.delay" not in page(log_in("view_job"), job)


def test_the_page_of_a_job_that_has_not_ended_says_where_it_is_renewed_from(root: Client, make_job: Any) -> None:
    job, done = make_job(states.STARTED, meta='{"current":1,"total":4}'), make_job(states.SUCCESS)
    html = page(root, job)
    live = f"/staff/djtasks/job/{job.pk}/live/"
    assert f'data-djtasks-fragment="{live}"' in html
    assert "djtasks/dashboard.js" in html
    fragment = root.get(live).text
    assert fragment.startswith('<div id="content-main"')
    assert "<html" not in fragment
    assert '<span class="djtasks-quiet">25 %</span>' in fragment
    assert "data-djtasks-fragment" not in page(root, done)
    assert "data-djtasks-fragment" not in root.get(f"/staff/djtasks/job/{done.pk}/live/").text
    assert root.get("/staff/djtasks/job/gone/live/").status_code == 404
    assert root.post(live).status_code == 405


def test_the_page_takes_no_more_queries_for_more_attempts_and_bigger_arguments(
    root: Client, make_job: Any, django_assert_max_num_queries: Any
) -> None:
    attempts = json.dumps(
        [{"token": n, "worker": f"w{n}.1", "start": "2026-01-02T03:04:05+00:00", "seconds": 1} for n in range(20)]
    )
    job = make_job(states.FAILURE, attempts=attempts, **written(list(range(5000))), worker="w1.1", parent_id="p")
    with django_assert_max_num_queries(11):
        page(root, job)
