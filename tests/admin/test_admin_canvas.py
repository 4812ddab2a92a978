"""The tree of a workflow on a job's page, and the list of its jobs. The rows come of real canvases."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from djtasks import chain, chord, group, states
from djtasks.admin import relatives
from djtasks.admin import tree as trees
from djtasks.admin.relatives import MOST_JOBS, MOST_SIBLINGS
from djtasks.admin.tree import Branch, Links, Node, Tree
from djtasks.brokers import get_broker
from djtasks.conf import settings as our_settings
from djtasks.message import new_id
from djtasks.models import Job, JobGroup
from djtasks.testing import run_jobs, running
from djtasks.worker.ledger import Ledger
from tests.canvas.tasks import (
    add,
    add_replaced,
    adds_to_chord,
    errback_of_id,
    fail,
    gives_signature,
    identity,
    replaced_by_group,
    replaced_twice,
    starts_a_chain,
    total,
)

LIST = "/staff/djtasks/job/"


def page(client: Client, job_id: str) -> str:
    response = client.get(f"{LIST}{job_id}/change/")
    assert response.status_code == 200
    return str(response.text)


def run_some(count: int) -> None:
    """Run so many jobs and leave the others waiting."""
    running._run_commit_hooks()
    ledger = Ledger(get_broker(), "testing")
    for _ in range(count):
        (delivery,) = running._claim((), "testing")
        running._run(delivery, ledger, keeps_delays=False)
    running._run_commit_hooks()


def tree_of(job_id: str) -> Tree:
    found = trees.tree(Job.objects.get(pk=job_id), Links(lambda pk: f"/{pk}/", lambda query: f"?{query}"))
    assert found is not None
    return found


def outline(branch: Branch) -> Any:
    """The tree as nested tuples of what stands in its lines."""
    return [(said(node), *([outline(each) for each in node.lists])) for node in branch.nodes]


def said(node: Node) -> str:
    mark = {"planned": "(to come)", "gone": "(gone)"}.get(node.kind, "")
    words = [re.sub(r"<[^>]+>", "", node.pill), node.name, node.text, mark, node.failed]
    return " ".join(word for word in words if word)


def drawn(job_id: str) -> Any:
    return outline(tree_of(job_id).top)


def nodes_of(branch: Branch) -> list[Node]:
    return [found for node in branch.nodes for found in (node, *(n for each in node.lists for n in nodes_of(each)))]


def text_of(html: str) -> str:
    """The words of the tree's section."""
    found = re.search(r'<section class="djtasks-section djtasks-workflow"[^>]*>.*?</section>', html, re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[0]))).strip() if found else ""


def first_job() -> str:
    return str(Job.objects.order_by("id")[0].pk)


# What the tree says


def test_a_job_without_relatives_has_no_tree(root: Client, make_job: Any) -> None:
    assert text_of(page(root, make_job(states.SUCCESS).pk)) == ""


def test_steps_of_a_chain_are_to_come_until_they_are_there(root: Client) -> None:
    result = chain(add.s(1, 2), identity.s(), total.si([1])).apply_async()
    job_id = first_job()
    assert drawn(job_id) == [("PENDING add",), ("identity (to come)",), ("total (to come)",)]
    run_some(1)
    assert drawn(job_id) == [("SUCCESS add",), ("PENDING identity",), ("total (to come)",)]
    run_jobs()
    assert drawn(result.id) == [("SUCCESS add",), ("SUCCESS identity",), ("SUCCESS total",)]


def test_a_chord_is_a_group_with_its_members_and_then_its_body() -> None:
    (identity.si(1) | group(add.s(1), add.s(2) | identity.s()) | total.s() | identity.s()).apply_async()
    coming = [("PENDING identity",), ("Group of 2 (to come)",), ("total (to come)",), ("identity (to come)",)]
    assert drawn(first_job()) == coming
    run_jobs()
    member = ("2 steps", [("SUCCESS add",), ("SUCCESS identity",)])
    assert drawn(first_job()) == [
        ("SUCCESS identity",),
        ("Group of 2", [("SUCCESS add",), member]),
        ("SUCCESS total",),
        ("SUCCESS identity",),
    ]


def test_a_chord_may_be_a_member_of_a_group_before_and_after_its_body_is_there() -> None:
    (group(chord([add.s(1, 2), add.s(3, 4)], total.s()), add.s(1, 1)) | total.s()).apply_async()
    for run, state in ((False, "PENDING"), (True, "SUCCESS")):
        if run:
            run_jobs()
        body = "SUCCESS total" if run else "total (to come)"
        inner = ("Group of 2", [(f"{state} add",), (f"{state} add",)])
        assert drawn(first_job()) == [("Group of 2", [("2 steps", [inner, (body,)]), (f"{state} add",)]), (body,)]


def test_a_group_as_body_is_to_come_as_a_whole() -> None:
    (group(add.s(1, 2), add.s(1, 3)) | group(total.s(), identity.s())).apply_async()
    assert drawn(first_job())[1] == ("Group of 2 (to come)",)
    run_jobs()
    assert drawn(first_job())[1] == ("Group of 2", [("SUCCESS total",), ("SUCCESS identity",)])


def test_a_half_done_group_shows_its_progress(root: Client) -> None:
    (group(add.s(n, n) for n in range(100)) | total.s()).apply_async()
    run_some(37)
    html = page(root, first_job())
    assert "37 of 100 done" in text_of(html)
    assert '<progress value="37" max="100" aria-label="Group of 100">37 / 100</progress>' in html
    assert "to come total" in text_of(html)
    assert 'aria-current="true"' in html


def test_members_that_failed_or_run_come_first_and_the_rest_is_a_link(root: Client) -> None:
    (group(fail.si() if n == 190 else add.s(n, n) for n in range(200)) | total.s()).apply_async()
    Job.objects.filter(options__contains='"index":180,').update(state=states.STARTED)
    failing = Job.objects.filter(task=fail.name).get()
    (delivery,) = [each for each in get_broker().claim("default", limit=200, worker="testing") if each.id == failing.pk]
    running._run(delivery, Ledger(get_broker(), "testing"), keeps_delays=False)
    html = page(root, failing.pk)
    (header,) = [node for node in tree_of(failing.pk).top.nodes if node.kind == "group"]
    assert [node.notes[0] for node in header.lists[0].nodes[:1]] == ["#191"]
    assert len(header.lists[0].nodes) == MOST_SIBLINGS + 1
    assert header.failed == "1 failed"
    assert "… and 150 more" in text_of(html)
    assert f'href="{LIST}?group_id={failing.group_id}"' in html


def test_a_failed_step_shows_why_and_what_did_not_run() -> None:
    (add.s(1, 2) | fail.s() | total.s()).apply_async()
    run_jobs()
    (_first, failed, after) = tree_of(first_job()).top.nodes
    assert (said(failed), "Expected" in failed.notes) == ("FAILURE fail", True)
    assert (said(after), "did not run" in after.notes) == ("FAILURE total", True)


def test_a_failed_header_fails_the_body_and_counts_its_failures() -> None:
    group_of_3 = group(add.s(1, 2), fail.si() | identity.s(), fail.si())
    (group_of_3 | total.s()).apply_async()
    run_jobs()
    header, body = drawn(first_job())
    assert header[0] == "Group of 3 2 failed"
    assert body == ("FAILURE total",)


def test_replaced_jobs_show_what_stands_for_them() -> None:
    (replaced_twice.s(1) | add.s(4)).apply_async()
    run_some(1)
    coming = [("PENDING add_replaced",), ("add_replaced (to come)",)]
    assert drawn(first_job()) == [("REPLACED replaced_twice", coming), ("add (to come)",)]
    run_jobs()
    inside = ("SUCCESS add_replaced", [("SUCCESS add",)])
    assert drawn(first_job()) == [("SUCCESS replaced_twice", [inside, inside]), ("SUCCESS add",)]


def test_a_job_that_is_replaced_by_a_group_shows_the_group_below_it() -> None:
    (replaced_by_group.s([1, 2], 3) | total.s()).apply_async()
    run_some(1)
    header = ("Group of 2", [("PENDING add",), ("PENDING add",)])
    assert drawn(first_job()) == [
        ("REPLACED replaced_by_group", [header, ("accumulate (to come)",)]),
        ("total (to come)",),
    ]


def test_a_replaced_member_that_failed_counts_once() -> None:
    chord([add_replaced.s(1, "x"), add.s(1, 1)], total.s()).apply_async()
    run_jobs()
    members = [("SUCCESS add",)]
    header, _body = drawn(first_job())
    assert header[0] == "Group of 2 1 failed"
    assert header[1] == [("FAILURE add_replaced", [("FAILURE add",)]), *members]


def test_members_that_were_added_later_stand_in_the_group() -> None:
    chord([adds_to_chord.s([1, 2], 3), add.s(1, 1)], total.s()).apply_async()
    run_jobs()
    header, _body = tree_of(first_job()).top.nodes
    assert said(header) == "Group of 4"
    assert [node.notes[0] for node in header.lists[0].nodes] == ["#1", "#2", "added later", "added later"]


def test_what_a_task_sends_stands_below_it() -> None:
    starts_a_chain.delay()
    run_jobs()
    assert drawn(first_job()) == [("SUCCESS starts_a_chain", [("SUCCESS add",), ("SUCCESS add",)])]


def test_callbacks_are_to_come_and_then_stand_below_their_job() -> None:
    add.apply_async((1, 2), link=identity.s(), link_error=errback_of_id.s("/dev/null"))
    assert drawn(first_job()) == [("PENDING add", [("identity (to come)",)], [("errback_of_id (to come)",)])]
    run_jobs()
    assert drawn(first_job()) == [("SUCCESS add", [("SUCCESS identity",)])]


# What is missing, or strange


def test_rows_that_are_gone_are_said_to_be(root: Client) -> None:
    (add.s(1, 2) | identity.s() | total.si([1])).apply_async()
    run_jobs()
    first, second, last = Job.objects.order_by("id").values_list("pk", flat=True)
    Job.objects.filter(pk__in=(first, second)).delete()
    html = page(root, last)
    assert all(text in text_of(html) for text in (f"no row {first}", f"no row {second}", "this job"))
    assert f"{LIST}{first}/change/" not in html


def test_a_later_step_that_is_gone_is_not_to_come() -> None:
    (add.s(1, 2) | identity.s()).apply_async()
    run_jobs()
    first, second = Job.objects.order_by("id").values_list("pk", flat=True)
    Job.objects.filter(pk=second).delete()
    assert drawn(first) == [("SUCCESS add",), ("identity no row (gone)",)]


def test_a_group_without_its_row_shows_the_members_that_are_there() -> None:
    (group(add.s(1, 2), add.s(1, 3)) | total.s()).apply_async()
    run_jobs()
    JobGroup.objects.all().delete()
    assert drawn(first_job()) == [("Group of 2", [("SUCCESS add",), ("SUCCESS add",)]), ("SUCCESS total",)]


def test_members_without_rows_are_counted() -> None:
    group(add.s(1, 2), add.s(1, 3), add.s(1, 4)).apply_async()
    run_jobs()
    Job.objects.order_by("-id")[0].delete()
    assert drawn(first_job()) == [("Group of 3", [("SUCCESS add",), ("SUCCESS add",), ("1 have no row (gone)",)])]


@pytest.mark.parametrize("options", ["{", "[" * 50_000, "7", '{"chain":7,"header":[],"stands_for":{},"index":"x"}',
    '{"chain":[{"task":"a","subtask_type":"chord","kwargs":[]},{"task":1},{}],"link":[[]]}'])  # fmt: skip
def test_options_of_any_shape_do_not_break_the_page(root: Client, make_job: Any, options: str) -> None:
    parent = make_job(states.SUCCESS, options=options, group_id="g")
    JobGroup.objects.create(id="g", size=2, remaining=1, body=options)
    page(root, make_job(parent_id=parent.pk, root_id=parent.pk, options=options, group_id="g").pk)


def test_jobs_that_name_each_other_in_a_circle_are_drawn_once(root: Client, make_job: Any) -> None:
    for names in ("ab", "cde"):
        for name, other in zip(names, names[1:] + names[0], strict=True):
            steps = [{"task": "x", "options": {"task_id": other}}] if len(names) == 3 else []
            options = json.dumps({"chain": [json.dumps(step) for step in steps]}) if steps else "{}"
            make_job(id=name, parent_id=other, root_id=other, options=options, group_id=None)
    for name in "abcde":
        text = text_of(page(root, name))
        assert text.count("this job") == 1


def test_names_are_escaped(root: Client, make_job: Any) -> None:
    attack = "<script>alert(1)</script>"
    options = json.dumps(
        {"chain": [json.dumps({"task": attack, "options": {"task_id": attack}})], "link": [{"task": attack}]}
    )
    job = make_job(task=attack, options=options, parent_id=attack, root_id=attack, exception=attack, retries=1)
    assert "<script>alert" not in page(root, job.pk)


# Limits


def test_more_jobs_cost_no_more_queries(root: Client) -> None:
    counts, sizes = [], []
    for size in (3, 300):
        result = (identity.si(1) | group(add.s(n) for n in range(size)) | total.s()).apply_async()
        run_some(size // 2 + 1)
        job_id = Job.objects.filter(pk=result.parent.parent.id).get().pk
        with CaptureQueriesContext(connections[our_settings.DATABASE]) as queries:
            found = tree_of(job_id)
        counts.append(len(queries) - 1)  # without that for the job
        sizes.append(len(nodes_of(found.top)))
        assert not any('"args"' in query["sql"] or '"result"' in query["sql"] for query in queries.captured_queries[1:])
        run_jobs()
    assert max(counts) <= 6
    assert sizes == [6, MOST_SIBLINGS + 4]


def test_many_children_are_cut_with_a_link_to_all(root: Client, make_job: Any) -> None:
    job = make_job(states.SUCCESS)
    for _ in range(MOST_SIBLINGS + 10):
        make_job(parent_id=job.pk, root_id=job.pk)
    html = page(root, job.pk)
    assert "… and 10 more" in text_of(html)
    assert f'href="{LIST}?parent_id={job.pk}"' in html


def test_a_job_far_down_is_shown_with_what_is_around_it(root: Client, make_job: Any) -> None:
    jobs = [make_job(states.SUCCESS)]
    for _ in range(MOST_JOBS + 50):
        jobs.append(make_job(states.SUCCESS, parent_id=jobs[-1].pk, root_id=jobs[0].pk))
    for job in (jobs[0], jobs[100], jobs[-1]):
        html = page(root, job.pk)
        assert text_of(html).count("this job") == 1
        assert html.count("djtasks-node ") <= MOST_JOBS
    middle = page(root, jobs[100].pk)
    assert all(f"{LIST}{jobs[n].pk}/change/" in middle for n in (0, 97, 98, 99, 101))


def test_a_long_chain_is_read_without_all_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relatives, "SHORT", 200)
    monkeypatch.setattr(relatives, "MOST_TEXT", 3000)
    chain(identity.si(n) for n in range(40)).apply_async()
    run_some(20)
    nodes = tree_of(first_job()).top.nodes
    assert [said(node).split()[0] for node in nodes[:21]] == ["SUCCESS"] * 20 + ["PENDING"]
    assert said(nodes[-1]) in ("… and 9 more", "PENDING identity")


def test_a_workflow_of_which_not_all_was_looked_at_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relatives, "LOOKED_AT", 5)
    group(add.s(n, n) for n in range(20)).apply_async()
    last = Job.objects.order_by("-id")[0].pk
    found = tree_of(last)
    assert found.count.startswith("more than ")
    assert any(node.is_current for node in nodes_of(found.top))


@pytest.mark.django_db(databases="__all__")
def test_each_database_gives_the_same_tree(database: str) -> None:
    (replaced_by_group.s([1, 2], 3) | total.s() | group(add.s(1), fail.si())).apply_async()
    run_jobs()
    header = ("Group of 2", [("SUCCESS add",), ("SUCCESS add",)])
    assert drawn(first_job()) == [
        ("SUCCESS replaced_by_group", [header, ("SUCCESS accumulate",)]),
        ("SUCCESS total",),
        ("Group of 2 1 failed", [("SUCCESS add",), ("FAILURE fail",)]),
    ]


# Permissions, looks, the list


def test_the_tree_shows_no_arguments(log_in: Any) -> None:
    chain(identity.si("very private"), add.s("very private"), group(identity.si("very private"))).apply_async()
    html = page(log_in("view_job"), first_job())
    assert "to come" in text_of(html)
    assert "very private" not in html


def test_the_tree_is_of_nested_lists_with_names_and_without_inline_style(root: Client) -> None:
    gives_signature.delay()
    (identity.si(1) | group(add.s(1), add.s(2)) | total.s()).apply_async()
    run_jobs()
    html = page(root, Job.objects.get(task=total.name).pk)
    section = html[html.index("djtasks-workflow") : html.index("</section>", html.index("djtasks-workflow"))]
    assert '<ol aria-label="Workflow">' in section
    assert '<ul aria-label="Members">' in section
    assert not re.search(r"\sstyle=|\son[a-z]+=|<script", section)
    assert section.count("<li") == section.count("</li>") == 5


def listed(client: Client, **query: str) -> set[str]:
    response = client.get(LIST, query)
    assert response.status_code == 200
    return {job.pk for job in response.context["cl"].result_list}


def test_the_list_is_filtered_by_workflow_group_and_parent(root: Client) -> None:
    add.delay(1, 1)
    (identity.si(1) | group(add.s(1), add.s(2)) | total.s()).apply_async()
    run_jobs()
    body = Job.objects.get(task=total.name)
    members = set(Job.objects.exclude(group_id=None).values_list("pk", flat=True))
    assert listed(root, root_id=body.root_id or "") == {body.root_id, body.pk, *members}
    assert listed(root, parent_id=body.root_id or "") == members
    group_id = JobGroup.objects.get().pk
    assert listed(root, group_id=group_id) == members
    assert "By group" in root.get(LIST, {"group_id": group_id}).text
    assert "By group" not in root.get(LIST).text


def test_replaced_jobs_can_be_listed_and_neither_cancelled_nor_retried_nor_deleted(root: Client) -> None:
    add_replaced.delay(1, 2)
    run_some(1)
    job = Job.objects.get(state=states.REPLACED)
    assert listed(root, state=states.REPLACED) == {job.pk}
    assert "state=REPLACED" in root.get(LIST).text
    assert [name for name, *_ in root.get(f"{LIST}{job.pk}/change/").context["buttons"]] == ["again"]
    for action in ("cancel", "retry", "delete"):
        root.post(f"{LIST}{job.pk}/{action}/")
        assert Job.objects.filter(pk=job.pk, state=states.REPLACED, revoked=False).exists()


@pytest.mark.parametrize("database", ["valkey"], indirect=True)
def test_what_waits_in_redis_is_said_to_wait(database: str, root: Client) -> None:
    (identity.si(1) | group(add.s(n) for n in range(10)) | total.s() | identity.s()).apply_async(task_id=new_id())
    run_some(1)
    assert drawn(first_job()) == [
        ("SUCCESS identity",),
        ("Group of 10", [("10 wait in Redis, without a row (gone)",)]),
        ("total (to come)",),
        ("identity (to come)",),
    ]
    run_some(4)
    html = page(root, first_job())
    assert "4 of 10 done" in text_of(html)
    assert "6 wait in Redis, without a row" in text_of(html)
    run_some(6)
    assert "total waits in Redis, without a row" in text_of(page(root, first_job()))
    run_jobs()
    assert [each[0] for each in drawn(first_job())[2:]] == ["SUCCESS total", "SUCCESS identity"]
