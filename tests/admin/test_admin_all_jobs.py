"""What is asked for all jobs that match: the number is typed, a job does it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.test import Client

from djtasks import builtin, selection, states
from djtasks.admin import JobAdmin, actions, all_jobs
from djtasks.models import Job, Worker
from tests.admin.urls import staff

LIST = "/staff/djtasks/job/"
ALL = [(action.name, action.choice, action.permission) for action in actions.ALL]
FITTING = {"cancel": states.PENDING, "stop": states.STARTED}  # what it is for, if not for finished jobs


def fields(html: str) -> dict[str, str]:
    """The hidden fields of the form that asks."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html))


def ask(client: Client, name: str, query: str = "") -> Any:
    return client.get(f"{LIST}all_jobs/{name}/{query}")


def confirm(client: Client, name: str, query: str = "", **typed: str) -> Any:
    given = fields(ask(client, name, query).text)
    return client.post(
        f"{LIST}all_jobs/{name}/{query}", {"number": given.get("count", ""), **given, **typed}, follow=True
    )


def sent() -> Job | None:
    return Job.objects.filter(task=builtin.act_on_all.name).first()


@pytest.mark.parametrize(("name", "choice", "permission"), ALL)
def test_it_asks_for_the_permission_of_the_action(
    log_in: Any, make_job: Any, name: str, choice: str, permission: str
) -> None:
    make_job(FITTING.get(name, states.FAILURE))
    others = {each for _, _, each in ALL} - {permission}
    for client in (log_in("view_job", *others), log_in(permission, name="bob")):
        assert ask(client, name).status_code == 403
        assert (
            client.post(f"{LIST}all_jobs/{name}/", {"confirmed": "1", "count": "1", "number": "1"}).status_code == 403
        )
    assert sent() is None
    assert ask(log_in("view_job", permission, name="eve"), name).status_code == 200


@pytest.mark.parametrize(("name", "choice", "permission"), ALL)
def test_a_job_does_it_once_the_number_was_typed(
    root: Client, make_job: Any, name: str, choice: str, permission: str
) -> None:
    state = FITTING.get(name, states.FAILURE)
    for _ in range(3):
        make_job(state, queue="mail")
    make_job(state)
    page = confirm(root, name, "?queue=mail")
    job = sent()
    assert job is not None
    assert page.redirect_chain == [(f"{LIST}{job.pk}/change/", 302)]
    assert f"by the job {job.pk}" in page.text
    assert job.enqueued_by == f"root {LIST}all_jobs/{name}/"
    args, kwargs = job.arguments()
    assert (args, kwargs["action"], kwargs["filters"]) == ([], name, {"queue": "mail"})
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.action_flag) == (job.pk, DELETION if name == "delete" else CHANGE)
    assert "queue=mail" in entry.change_message


def test_what_was_asked_for_is_done(root: Client, make_job: Any) -> None:
    failed = [make_job(states.FAILURE, task="tests.nobody") for _ in range(3)]
    other = make_job(states.SUCCESS)
    confirm(root, "delete", "?state=FAILURE")
    job = sent()
    assert job is not None
    builtin.act_on_all.apply((), job.arguments()[1], throw=True)
    assert not Job.objects.filter(pk__in=[each.pk for each in failed]).exists()
    assert Job.objects.filter(pk=other.pk).exists()


@pytest.mark.parametrize("typed", ["", "2", "33", "three", "1"])
def test_without_the_right_number_nothing_is_sent(root: Client, make_job: Any, typed: str) -> None:
    for _ in range(3):
        make_job(states.FAILURE)
    assert "This is not the number of jobs." in confirm(root, "retry", number=typed).text
    assert sent() is None


def test_a_big_number_may_be_typed_as_it_is_shown(root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MOST_COUNTED", 2)
    monkeypatch.setattr(all_jobs, "MOST_COUNTED", 2)
    for _ in range(3):
        make_job(states.FAILURE)
    page = ask(root, "retry").text
    assert "<strong>2+</strong> jobs" in page
    assert "There may be more than were counted." in page
    confirm(root, "retry", number=" 2+ ")
    assert sent() is not None


def test_where_nothing_matches_there_is_nothing_to_type(root: Client, make_job: Any) -> None:
    make_job(states.PENDING)
    page = ask(root, "retry").text
    assert "There is nothing to do." in page
    assert "<form method" not in page.partition('id="content-main"')[2]


def test_it_is_said_when_nobody_would_do_it(root: Client, make_job: Any) -> None:
    make_job(states.FAILURE)
    assert "No worker lives at this moment" in ask(root, "retry").text
    Worker.objects.create(pk="w", hostname="w", pid=1, queues="null", pool="solo", concurrency=1)
    assert "No worker lives at this moment" not in ask(root, "retry").text


def test_the_list_leads_there_with_its_filters_and_to_what_fits_them(root: Client, make_job: Any) -> None:
    make_job(states.FAILURE)
    assert f'href="{LIST}all_jobs/retry/?state=FAILURE"' in root.get(LIST, {"state": "FAILURE"}).text
    assert "all_jobs/cancel/" not in root.get(LIST, {"state": "FAILURE"}).text
    assert "all_jobs" not in root.get(LIST, {"state": "SUCCESS"}).text, "There are none."


def test_the_box_that_takes_all_pages_asks_for_the_number_too(root: Client, make_job: Any) -> None:
    make_job(states.FAILURE), make_job(states.FAILURE)
    data = {"action": "retry_jobs", "_selected_action": "x", "select_across": "1", "index": "0"}
    page = root.post(f"{LIST}?state=FAILURE", data)
    assert sent() is None
    assert f'action="{LIST}all_jobs/retry/?state=FAILURE"' in page.text
    assert fields(page.text)["count"] == "2"


def test_who_may_not_read_arguments_does_not_seek_in_them(log_in: Any, make_job: Any) -> None:
    make_job(states.FAILURE, args='["for Ann"]')
    assert "There is nothing to do." in ask(log_in("view_job", "retry_job"), "retry", "?q=for+Ann").text
    client = log_in("view_job", "retry_job", "view_job_arguments", name="bob")
    confirm(client, "retry", "?q=for+Ann")
    job = sent()
    assert job is not None
    assert job.arguments()[1]["reads_arguments"] is True


def test_where_a_site_shows_each_his_own_jobs_nothing_is_done_to_all(
    root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OwnJobs(JobAdmin):
        def get_queryset(self, request: Any) -> Any:
            return super().get_queryset(request).filter(queue="own")

    make_job(states.FAILURE)
    assert JobAdmin(Job, admin.site).shows_all_jobs
    monkeypatch.setattr(JobAdmin, "get_queryset", OwnJobs.get_queryset)
    assert not staff._registry[Job].shows_all_jobs  # type: ignore[attr-defined]
    assert ask(root, "retry").status_code == 403


def test_asking_takes_the_same_queries_however_many_there_are(
    root: Client, make_job: Any, django_assert_num_queries: Any
) -> None:
    for _ in range(5):
        make_job(states.FAILURE)
    with django_assert_num_queries(5):
        ask(root, "retry", "?queue=default")
