"""Rows of jobs, people with and without permissions, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Permission, User
from django.test import Client

from demo_project.shop.middleware import POLICY
from djtasks import states
from djtasks.message import new_id
from djtasks.models import Job

MakeJob = Callable[..., Job]
LogIn = Callable[..., Client]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(autouse=True)
def _two_sites(settings: Any, db: None) -> None:
    settings.ROOT_URLCONF = "tests.admin.urls"


@pytest.fixture
def make_job() -> MakeJob:
    def make(state: str = states.PENDING, **columns: Any) -> Job:
        now = datetime.now(UTC)
        defaults: dict[str, Any] = {"id": new_id(), "task": "shop.tasks.export", "queue": "default"}
        if state in states.FINISHED:
            defaults |= {
                "started_at": now - timedelta(minutes=2),
                "finished_at": now - timedelta(minutes=1),
                "seconds": 60.0,
                "token": 1,
            }
        return Job.objects.create(**{**defaults, "state": state, **columns})

    return make


@pytest.fixture
def log_in() -> LogIn:
    """A client whose user is staff with these permissions of the app; `log_in(superuser=True)` has all."""

    def enter(*codenames: str, superuser: bool = False, name: str = "ann") -> Client:
        user = User.objects.create(username=name, is_staff=True, is_superuser=superuser)
        permissions = Permission.objects.filter(content_type__app_label="djtasks", codename__in=codenames)
        assert permissions.count() == len(codenames)
        user.user_permissions.set(permissions)
        client = Client(enforce_csrf_checks=False)
        client.force_login(user)
        return client

    return enter


@pytest.fixture
def root(log_in: LogIn) -> Client:
    return log_in(superuser=True, name="root")


@pytest.fixture
def page(live_server: Any, root: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page of a browser that is signed in. All answers come with a policy that forbids inline scripts and styles."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
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


@pytest.fixture
def failures(page: Any) -> list[str]:
    """What the console complains of, requests that fail, and answers that are errors."""
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if said.type in ("error", "warning") else None)
    # What is left for another page before it has come is aborted, and no failure.
    page.on("requestfailed", lambda failed: None if "ABORTED" in (failed.failure or "") else found.append(failed.url))
    page.on("response", lambda answer: found.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    return found


def _with_policy(route: Any) -> None:
    answer = route.fetch(max_redirects=0)
    route.fulfill(response=answer, headers={**answer.headers, "content-security-policy": POLICY})
