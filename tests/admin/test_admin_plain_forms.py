"""Buttons of the admin work as what the HTML alone says: by links and by forms that are posted, with no script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import pytest
from django.test import Client

from djtasks import registry, shared_task, states
from djtasks.admin import worker_actions
from djtasks.models import Job, PeriodicTask, Worker
from djtasks.models.fields import utc_now

ADMIN = "/staff/djtasks/"


@dataclass
class Form:
    """What a browser would send, but for the button that is pressed."""

    method: str
    action: str
    values: dict[str, str] = field(default_factory=dict)
    buttons: list[dict[str, str]] = field(default_factory=list)


class Forms(HTMLParser):
    """The forms of a page, and where its links lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self._inside: Form | None = None
        self._select = self._text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(given.get("href", ""))
        if tag == "form":
            self._inside = Form(given.get("method", "get"), given.get("action", ""))
            self.forms.append(self._inside)
        elif self._inside:
            self._take(self._inside, tag, given)

    def _take(self, form: Form, tag: str, given: dict[str, str]) -> None:
        name, kind = given.get("name", ""), given.get("type", "")
        if tag == "button" or kind == "submit":
            form.buttons.append(given)
        elif tag == "input" and (kind not in ("checkbox", "radio") or "checked" in given):
            form.values[name] = given.get("value", "on" if kind == "checkbox" else "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and (self._select not in form.values or "selected" in given):
            form.values[self._select] = given.get("value", "")
        elif tag == "textarea":
            self._text, form.values[name] = name, ""

    def handle_data(self, data: str) -> None:
        if self._inside and self._text:
            self._inside.values[self._text] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = None
        elif tag == "textarea":
            self._text = ""


@pytest.fixture
def visitor(root: Client) -> Client:
    """Somebody who may do all, and whose forms need the token that the pages gave them."""
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = root.cookies
    return strict


@pytest.fixture
def task() -> Iterator[str]:
    @shared_task(name="tests.export")
    def export(number: int, note: str = "") -> None: ...

    yield export.name
    registry.unregister("tests.export")


def see(client: Client, address: str) -> Forms:
    response = client.get(address)
    assert response.status_code == 200
    return Forms(response.text)


def press(client: Client, page: str, form: Form, **values: str) -> Any:
    assert form.method == "post"
    response = client.post(urljoin(page, form.action), {**form.values, **values}, follow=True)
    assert response.status_code == 200
    return response


def the_form(client: Client, address: str, ending: str = "") -> Form:
    """The one form of the page that changes something: in it, that of a button whose address ends so."""
    posts = [each for each in see(client, address).forms if each.method == "post" and "logout" not in each.action]
    (form,) = [each for each in posts if each.action.endswith(ending) and each.action != "/i18n/setlang/"]
    return form


@pytest.mark.parametrize("name", [action.name for action in worker_actions.ALL])
def test_a_worker_is_told_by_a_link_and_a_form(visitor: Client, name: str) -> None:
    Worker.objects.create(
        pk="w1", hostname="w1@web", pid=1, queues='["mail"]', pool="prefork", concurrency=4, beat_at=utc_now()
    )
    (asks,) = [link for link in see(visitor, f"{ADMIN}worker/w1/change/").links if link.endswith(f"/{name}/")]
    form = the_form(visitor, asks)
    typed = {"queue": "mail" if name == "cancel_consumer" else "pdf"} if "queue" in form.values else {}
    press(visitor, asks, form, **typed)
    (command,) = json.loads(Worker.objects.get().command or "[]")
    assert command["order"] == name


def test_a_schedule_is_run_by_its_button(visitor: Client, task: str) -> None:
    row = PeriodicTask.objects.create(name="nightly", task=task, schedule="@daily", args="[1]")
    address = f"{ADMIN}periodictask/{row.pk}/change/"
    press(visitor, address, the_form(visitor, address, f"/{row.pk}/run/"))
    assert Job.objects.get().periodic_task == "nightly"


def test_a_job_that_waits_for_its_time_is_run_by_its_button(visitor: Client, make_job: Any) -> None:
    job = make_job(states.SCHEDULED, queue="mail", run_at=utc_now().replace(year=utc_now().year + 1))
    address = f"{ADMIN}queue/mail/change/?scheduled=1"
    form = the_form(visitor, address, "/run_now/")
    (button,) = form.buttons
    press(visitor, address, form, **{button["name"]: button["value"]})
    job.refresh_from_db()
    assert job.state == states.PENDING


def test_a_job_is_run_again_by_a_link_and_a_form(visitor: Client, make_job: Any, task: str) -> None:
    job = make_job(states.FAILURE, task=task, args='[17, "slowly"]')
    (asks,) = [link for link in see(visitor, f"{ADMIN}job/{job.pk}/change/").links if link.endswith("/again/")]
    form = the_form(visitor, asks)
    press(visitor, asks, form, argument_number="18")
    assert Job.objects.exclude(pk=job.pk).get().arguments() == ([], {"number": 18, "note": "slowly"})


@pytest.mark.parametrize("name", ["retry", "cancel", "stop", "delete"])
def test_what_is_done_to_one_job_is_done_by_a_link_and_a_form(visitor: Client, make_job: Any, name: str) -> None:
    state = {"cancel": states.PENDING, "stop": states.STARTED}.get(name, states.FAILURE)
    job = make_job(state, worker="w1.1" if name == "stop" else "")
    before = Job.objects.filter(pk=job.pk).values().get()
    (asks,) = [link for link in see(visitor, f"{ADMIN}job/{job.pk}/change/").links if link.endswith(f"/{name}/")]
    press(visitor, asks, the_form(visitor, asks))
    assert Job.objects.filter(pk=job.pk).values().first() != before
