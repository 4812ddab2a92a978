"""Retry, cancel and delete."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.models import User
from django.test import Client

from djtasks import bulk, control, states
from djtasks.admin import actions
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, Worker

LIST = "/staff/djtasks/job/"
ALL = [(action.name, action.choice, action.permission) for action in actions.ALL]
FITTING = {"cancel": states.PENDING, "stop": states.STARTED}  # what it is offered for, if not for finished jobs


def run(client: Client, choice: str, *jobs: Job, confirmed: bool = True, **more: str) -> Any:
    data = {"action": choice, "_selected_action": [job.pk for job in jobs], **more}
    return client.post(LIST, {**data, "confirmed": "1"} if confirmed else {**data, "index": "0"}, follow=True)


def state_of(job: Job) -> str | None:
    return Job.objects.filter(pk=job.pk).values_list("state", flat=True).first()


def untouched(*jobs: Job) -> bool:
    return all(state_of(job) == job.state and not Job.objects.get(pk=job.pk).revoked for job in jobs)


@pytest.mark.parametrize(("name", "choice", "permission"), ALL)
def test_each_action_asks_for_its_permission(
    log_in: Any, make_job: Any, name: str, choice: str, permission: str
) -> None:
    finished, waiting = make_job(states.FAILURE), make_job()
    others = {each for _, _, each in ALL} - {permission}
    for client in (Client(), log_in("view_job", *others)):
        for job in (finished, waiting):
            assert client.get(f"{LIST}{job.pk}/{name}/").status_code in (302, 403)
            assert client.post(f"{LIST}{job.pk}/{name}/").status_code in (302, 403)
        run(client, choice, finished, waiting)
    assert untouched(finished, waiting)
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(("name", "choice", "permission"), ALL)
def test_the_permission_alone_without_viewing_is_not_enough(
    log_in: Any, make_job: Any, name: str, choice: str, permission: str
) -> None:
    finished, waiting, client = make_job(states.FAILURE), make_job(), log_in(permission)
    for job in (finished, waiting):
        assert client.post(f"{LIST}{job.pk}/{name}/").status_code == 403
    run(client, choice, finished, waiting)
    assert untouched(finished, waiting)


@pytest.mark.parametrize(("name", "choice", "permission"), ALL)
def test_each_action_is_offered_only_to_those_who_may(
    log_in: Any, make_job: Any, name: str, choice: str, permission: str
) -> None:
    job = make_job(FITTING.get(name, states.FAILURE))
    allowed, other = log_in("view_job", permission), log_in("view_job", name="bob")
    for client, is_offered in ((allowed, True), (other, False)):
        assert (f'value="{choice}"' in client.get(LIST).text) is is_offered
        assert (f'href="{LIST}{job.pk}/{name}/"' in client.get(f"{LIST}{job.pk}/change/").text) is is_offered


@pytest.mark.parametrize(("name", "choice", "permission"), ALL)
def test_nothing_is_done_before_it_is_confirmed(
    root: Client, make_job: Any, name: str, choice: str, permission: str
) -> None:
    finished = make_job(states.FAILURE, task="the.finished")
    waiting = make_job(FITTING.get(name, states.PENDING), task="the.waiting")
    html = run(root, choice, finished, waiting, confirmed=False).text
    touched, rest = (waiting, finished) if name in FITTING else (finished, waiting)
    assert str(touched) in html
    assert str(rest) not in html
    assert "left alone" in html
    assert "csrfmiddlewaretoken" in html
    for job in (finished, waiting):
        assert "csrfmiddlewaretoken" in root.get(f"{LIST}{touched.pk}/{name}/").text
        root.get(f"{LIST}{job.pk}/{name}/")
    assert untouched(finished, waiting)


def test_a_forged_form_is_refused(make_job: Any) -> None:
    user = User.objects.create(username="root", is_staff=True, is_superuser=True)
    job, client = make_job(states.FAILURE), Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.post(f"{LIST}{job.pk}/retry/").status_code == 403
    assert client.post(LIST, {"action": "retry_jobs", "_selected_action": job.pk, "confirmed": 1}).status_code == 403
    assert untouched(job)


def test_retry_runs_finished_jobs_once_more(log_in: Any, make_job: Any) -> None:
    jobs = [make_job(state) for state in states.FINISHED]
    running = make_job(states.STARTED)
    response = run(log_in("view_job", "retry_job"), "retry_jobs", *jobs, running)
    assert "4 jobs will run once more." in response.text
    assert {state_of(job) for job in jobs} == {states.PENDING}
    assert untouched(running)
    entries = LogEntry.objects.all()
    assert {entry.object_id for entry in entries} == {job.pk for job in jobs}
    assert {(entry.action_flag, entry.change_message) for entry in entries} == {(CHANGE, "Retried.")}


def test_cancel_revokes_what_has_not_ended(log_in: Any, make_job: Any) -> None:
    jobs = [make_job(state) for state in (*states.WAITING, *states.RUNNING)]
    done = make_job(states.SUCCESS)
    response = run(log_in("view_job", "revoke_job"), "cancel_jobs", *jobs, done)
    assert "5 jobs were cancelled;" in response.text
    assert Job.objects.filter(revoked=True).count() == 5
    assert untouched(done)
    assert LogEntry.objects.count() == 5


@pytest.mark.django_db(transaction=True)
def test_stop_asks_the_worker_that_runs_a_job_to_end_it(log_in: Any, make_job: Any) -> None:
    Worker.objects.create(pk="w", hostname="w", pid=1, queues="null", pool="prefork", concurrency=1)
    running = make_job(states.STARTED, worker="w.3", token=2, revoked=True)
    waiting, done = make_job(), make_job(states.SUCCESS)
    client = log_in("view_job", "revoke_job")
    assert (
        "2 jobs do not run and are left alone" in run(client, "stop_jobs", running, waiting, done, confirmed=False).text
    )
    assert "1 job was cancelled; its worker ends it" in run(client, "stop_jobs", running).text
    (command,) = json.loads(Worker.objects.get().command or "[]")
    assert command == {"terminate": [[running.pk, 2]], "signal": "SIGTERM"}
    assert untouched(waiting, done)


def test_delete_never_takes_an_unfinished_job(log_in: Any, make_job: Any) -> None:
    finished = [make_job(state) for state in states.FINISHED]
    unfinished = [make_job(state) for state in (*states.WAITING, *states.RUNNING)]
    client = log_in("view_job", "delete_job")
    response = run(client, "delete_selected", *finished, *unfinished)
    assert "4 finished jobs were deleted." in response.text
    assert set(Job.objects.values_list("pk", flat=True)) == {job.pk for job in unfinished}
    for job in unfinished:
        client.post(f"{LIST}{job.pk}/delete/", {"post": "yes"})
    assert untouched(*unfinished)
    assert set(LogEntry.objects.values_list("action_flag", flat=True)) == {DELETION}


def test_a_form_of_djangos_own_deletion_is_asked_about_once_more(root: Client, make_job: Any) -> None:
    job = make_job(states.SUCCESS)
    run(root, "delete_selected", job, confirmed=False, post="yes")
    assert untouched(job)


def test_one_job_is_retried_from_its_page(root: Client, make_job: Any) -> None:
    job = make_job(states.FAILURE)
    response = root.post(f"{LIST}{job.pk}/retry/", follow=True)
    assert response.redirect_chain == [(f"{LIST}{job.pk}/change/", 302)]
    assert "1 job will run once more." in response.text
    assert state_of(job) == states.PENDING
    assert "Retried." in root.get(f"{LIST}{job.pk}/history/").text


def test_one_job_is_cancelled_from_its_page(root: Client, make_job: Any) -> None:
    job = make_job()
    assert "1 job was cancelled;" in root.post(f"{LIST}{job.pk}/cancel/", follow=True).text
    assert Job.objects.get(pk=job.pk).revoked


def test_one_job_is_deleted_from_its_page(root: Client, make_job: Any) -> None:
    job = make_job(states.SUCCESS)
    response = root.post(f"{LIST}{job.pk}/delete/", follow=True)
    assert response.redirect_chain == [(LIST, 302)]
    assert "1 finished job was deleted." in response.text
    assert state_of(job) is None


def test_what_has_changed_since_it_was_shown_is_left_alone(root: Client, make_job: Any) -> None:
    job = make_job(states.PENDING)
    assert "0 jobs will run once more." in root.post(f"{LIST}{job.pk}/retry/", follow=True).text
    assert untouched(job)
    assert not LogEntry.objects.exists()


def test_only_so_many_are_done_at_once(root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MOST_AT_ONCE", 2)
    jobs = [make_job(states.SUCCESS) for _ in range(4)]
    html = run(root, "delete_selected", *jobs, confirmed=False).text
    assert "Only the newest 2 are done at a time." in html
    run(root, "delete_selected", *jobs)
    assert [state_of(job) for job in jobs] == [states.SUCCESS, states.SUCCESS, None, None]


def test_a_long_confirmation_names_only_some(root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djtasks.admin.job.LONGEST_SUMMARY", 2)
    jobs = [make_job(states.SUCCESS) for _ in range(5)]
    html = run(root, "delete_selected", *jobs, confirmed=False).text
    assert "and 3 more" in html
    assert all(f'value="{job.pk}"' in html for job in jobs)


def test_filters_hold_over_the_confirmation(root: Client, make_job: Any) -> None:
    failed, other = make_job(states.FAILURE), make_job(states.SUCCESS)
    data = {"action": "delete_selected", "_selected_action": [failed.pk, other.pk], "confirmed": "1"}
    response = root.post(f"{LIST}?state=FAILURE", data, follow=True)
    assert response.redirect_chain == [(f"{LIST}?state=FAILURE", 302)]
    assert state_of(failed) is None
    assert untouched(other)


def test_a_broker_that_is_down_is_told_in_a_message(
    root: Client, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ids: object) -> int:
        raise BrokerUnavailable("The broker does not answer.")

    monkeypatch.setattr(control, "revoke", fail)
    job = make_job()
    assert "The broker does not answer." in root.post(f"{LIST}{job.pk}/cancel/", follow=True).text
    assert not LogEntry.objects.exists()
