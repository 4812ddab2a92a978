"""Rows of jobs, and people with and without permissions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from djtasks import states
from djtasks.message import new_id
from djtasks.models import Job

MakeJob = Callable[..., Job]
LogIn = Callable[..., Client]


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
