"""The admin's lists and its dashboard read from a replica, if routers say so; what decides never does."""

from contextlib import contextmanager

import psycopg
import pytest
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import User
from django.contrib.messages.storage.cookie import CookieStorage
from django.core.management import call_command
from django.db import connections
from django.test import RequestFactory

from djtasks import states
from djtasks.admin import dashboard
from djtasks.brokers import get_broker
from djtasks.models import Job, Queue, Task
from djtasks.result import AsyncResult
from tests import own_servers, servers, tasks
from tests.own_servers import NotInstalled
from tests.redis_servers import skip_or_fail
from tests.waiting import wait_until

ENGINE = "django.db.backends.postgresql"
PRIMARY, REPLICA = "own_primary", "own_replica"


class ToReplica:
    """The router of Django's documentation: it writes to one database and reads from another."""

    def db_for_read(self, model, **hints):
        return REPLICA

    def db_for_write(self, model, **hints):
        return PRIMARY


class OfAnotherApp(ToReplica):
    """A router that does not know where our tables are."""

    def db_for_write(self, model, **hints):
        return "default"


@contextmanager
def postgresql(command=None):
    try:
        own = servers.start("postgresql", command=command)
    except NotInstalled as error:
        skip_or_fail(str(error))
    try:
        yield own.server.port
    finally:
        own.stop()


@contextmanager
def alias(name, port):
    own = {"HOST": "127.0.0.1", "PORT": port, "NAME": "djtasks_replicated", "USER": "postgres", "OPTIONS": {}}
    connections.settings[name] = {**connections.settings["default"], "ENGINE": ENGINE, **own}
    try:
        yield
    finally:
        connections[name].close()
        del connections[name], connections.settings[name]


@pytest.fixture(scope="module")
def two_databases(django_db_setup, django_db_blocker):
    """A primary with our tables, and its replica, as two aliases."""
    with django_db_blocker.unblock(), postgresql() as port:
        with psycopg.connect(servers.URLS["postgresql"].format(port=port), autocommit=True) as connection:
            connection.execute("CREATE DATABASE djtasks_replicated")
        with alias(PRIMARY, port):
            call_command("migrate", database=PRIMARY, verbosity=0)
            root().save(using=PRIMARY)
            with postgresql(own_servers.postgresql_replica(port)) as port_of_replica, alias(REPLICA, port_of_replica):
                yield


@pytest.fixture
def replica_behind(two_databases, settings, django_db_blocker):
    """Three jobs on both; three more on the primary, of which the replica has not heard."""
    settings.DJTASKS = {**settings.DJTASKS, "DATABASE": PRIMARY}
    settings.DATABASE_ROUTERS = [ToReplica()]
    with django_db_blocker.unblock():
        send(3)
        wait_until(lambda: Job.objects.using(REPLICA).count() == 3)
        ask_replica("SELECT pg_wal_replay_pause()")
        wait_until(lambda: ask_replica("SELECT pg_get_wal_replay_pause_state()") == "paused")
        yield send(3)
        ask_replica("SELECT pg_wal_replay_resume()")
        Job.objects.all().delete()
        wait_until(lambda: not Job.objects.using(REPLICA).exists())


def root():
    return User(pk=1, username="root", is_staff=True, is_superuser=True)


def send(number):
    return [tasks.noop.delay() for _ in range(number)]


def ask_replica(sql):
    with connections[REPLICA].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def request(method="get", path="/", **more):
    made = getattr(RequestFactory(), method)(path, **more)
    made.user, made._dont_enforce_csrf_checks = root(), True
    made._messages = CookieStorage(made)
    return made


def page(model, view="changelist_view", *args, path="/"):
    """A page of the admin, rendered."""
    answer = getattr(admin.site._registry[model], view)(request(path=path), *args)
    return answer.render().content.decode() if hasattr(answer, "render") else answer


def jobs_in_list():
    answer = admin.site._registry[Job].changelist_view(request())
    answer.render()
    return len(answer.context_data["cl"].result_list)


def jobs_in_queue():
    answer = admin.site._registry[Queue].changelist_view(request())
    (line,) = answer.context_data["lines"]
    return line.ready


def jobs_on_dashboard():
    found = dashboard.context_of(admin.site._registry[Job], request())
    return {name: figure for name, _label, figure, _more in found["figures"]}["waiting"]


def test_lists_and_dashboard_read_where_routers_let_jobs_be_read(replica_behind):
    assert (jobs_in_list(), jobs_in_queue(), jobs_on_dashboard()) == (3, "3", "3")
    ask_replica("SELECT pg_wal_replay_resume()")
    wait_until(lambda: (jobs_in_list(), jobs_in_queue(), jobs_on_dashboard()) == (6, "6", "6"))


def test_pages_of_tasks_do_with_what_a_replica_can_do(replica_behind):
    assert "tests.tasks.noop" in page(Task, path="/?q=noop")
    assert "tests.tasks.noop" in page(Task, "change_view", "tests.tasks.noop")


def test_what_decides_asks_the_primary(replica_behind):
    newest = replica_behind[-1].id
    assert Job.objects.using(REPLICA).filter(pk=newest).exists() is False
    assert newest in page(Job, "change_view", newest)
    assert AsyncResult(newest).state == states.PENDING
    assert get_broker().sizes()["default"].ready == 6
    chosen = {"action": "cancel_jobs", ACTION_CHECKBOX_NAME: [newest], "confirmed": "1"}
    answer = admin.site._registry[Job].changelist_view(request("post", data=chosen))
    assert answer.status_code == 302
    assert Job.objects.get(pk=newest).revoked
    assert len(get_broker().claim("default", limit=100, worker="w.1")) == 6


@pytest.mark.parametrize("routers", [[], [OfAnotherApp()]])
def test_without_a_router_that_knows_our_tables_the_primary_is_read(replica_behind, settings, routers):
    settings.DATABASE_ROUTERS = routers
    assert (jobs_in_list(), jobs_in_queue(), jobs_on_dashboard()) == (6, "6", "6")
