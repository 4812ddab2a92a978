"""The databases, the brokers and real workers, as fixtures."""

import os
import subprocess
import sys
from contextlib import contextmanager
from zlib import crc32

import pytest
import redis
from django.apps import apps
from django.conf import settings as django_settings
from django.db import connections
from django.test.utils import override_settings, setup_databases, teardown_databases

from djtasks import builtin, outbox, registry
from djtasks.brokers import get_broker
from djtasks.models import Worker
from tests import servers
from tests.processes import WorkerProcess, worker_environment
from tests.settings import SUFFIX
from tests.waiting import wait_until

ALIASES = {"sqlite": "default", "postgresql": "postgresql", "mariadb": "mariadb"}
QUEUES_IN_REDIS = {"redis": "postgresql", "valkey": "sqlite"}  # where the queues are → where the results are
PREFIX = f"djtasks-{SUFFIX}"


def pytest_terminal_summary(terminalreporter):
    for line in servers.summary_lines(("postgresql", "mariadb", "redis")):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment, django_db_blocker):
    """Make all databases, whatever marks say: our fixture `database` chooses among them."""
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False)
    yield
    with django_db_blocker.unblock():
        teardown_databases(made, verbosity=0)


def pytest_generate_tests(metafunc):
    """Run what uses the fixture `database` on each database; what is about brokers and workers in Redis, too."""
    if "database" not in metafunc.fixturenames or _is_parametrized(metafunc, "database"):
        return
    stores = list(ALIASES)
    brokers = metafunc.definition.get_closest_marker("every_broker")
    if brokers and not metafunc.definition.get_closest_marker("rows_that_wait"):
        stores += brokers.args or ["redis"]
    if _is_shortened(metafunc):
        stores = _some_of(stores, metafunc.definition)
    metafunc.parametrize("database", stores, indirect=True)


def _some_of(stores, definition):
    """One of them, another for each test; where processes are killed, one of the databases and the queues in Redis."""
    if definition.path.parent.name == "crashes":
        own = sorted(ALIASES)[crc32(definition.nodeid.encode()) % len(ALIASES)]
        return [each for each in stores if each == own or each not in ALIASES]
    return [sorted(stores)[crc32(definition.nodeid.encode()) % len(stores)]]


def _is_shortened(metafunc):
    """Whether it runs on some stores and not on each.

    What starts workers takes seconds, and is about processes; what stores do differently, the contract's tests tell.
    """
    if os.environ.get("DJTASKS_TEST_EVERY_STORE") or metafunc.definition.get_closest_marker("every_store"):
        return False
    return bool({"start_worker", "projects"} & set(metafunc.fixturenames))


def _is_parametrized(metafunc, name):
    return any(name in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))


@pytest.fixture(autouse=True)
def no_schedules_of_ours(request, monkeypatch):
    """Tests see the schedules that they make; those that are about ours are marked `upkeep`."""
    if not request.node.get_closest_marker("upkeep"):
        for task in (builtin.prune, builtin.count, builtin.end_stranded):
            monkeypatch.setattr(task, "schedule", None)


@pytest.fixture
def database(request, settings, django_db_setup, django_db_blocker):
    """A store, one of ALIASES or of QUEUES_IN_REDIS, with real transactions; the alias of our tables.

    Without a word of the test it is each database in turn, with the queues in it; tests that are marked
    `every_broker` run with the queues in Redis, too. Our tables and keys are emptied afterwards.
    """
    kind = QUEUES_IN_REDIS.get(request.param, request.param)
    alias = ALIASES[kind]
    if alias not in connections.settings:
        _missing(kind, servers.find(kind))
    settings.DJTASKS = {**django_settings.DJTASKS, "DATABASE": alias}
    if request.param in QUEUES_IN_REDIS:
        settings.DJTASKS = {**settings.DJTASKS, **_in_redis(request.param)}
    with django_db_blocker.unblock():
        yield alias
        outbox._Breather.until = (
            0.0  # who has met a server that was away leaves it alone for a moment: not the next test
        )
        for model in apps.get_app_config("djtasks").get_models():
            model.objects.using(alias).all().delete()
        connections[alias].close()
    if request.param in QUEUES_IN_REDIS:
        empty_redis(settings.DJTASKS["BROKER_URL"])
        get_broker().close()


def _in_redis(kind):
    server = servers.find(kind)
    if isinstance(server, servers.Missing):
        _missing(kind, server)
    return {"BROKER_URL": server.url, "TEST_BROKER_URL": server.url, "BROKER_OPTIONS": {"prefix": PREFIX}}


def _missing(kind, why):
    if servers.missing_is_failure():
        pytest.fail(f"{kind} is missing: {why}")
    pytest.skip(f"{kind} is missing: {why}")


@contextmanager
def in_redis(alias):
    """Within the block the queues are in Redis, and our tables on `alias`."""
    chosen = {**django_settings.DJTASKS, "DATABASE": alias, **_in_redis("redis")}
    with override_settings(DJTASKS=chosen):
        yield
        empty_redis(chosen["BROKER_URL"])
        get_broker().close()


def empty_redis(url):
    """Delete our keys."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(f"{{{PREFIX}}}:*", count=1000):
            client.unlink(key)


@pytest.fixture
def own_tasks(monkeypatch):
    """Tasks that a test declares are forgotten after it."""
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))


@pytest.fixture
def broker(database):
    """A broker of each kind in turn."""
    return get_broker()


@pytest.fixture
def start_worker(database, settings, tmp_path):
    """Start real workers on the test's database: `start_worker("-c", "2", DJTASKS_SETTING=…)`.

    `command="runbeat"` starts that; `at` is the host (`tests.namespaces`) on which it runs.
    """
    started = []

    def start(*arguments, command="runworker", env=None, wait=True, at=None, **djtasks_settings):
        chosen = {**settings.DJTASKS, "WORKER_HEARTBEAT": 0.2, "WORKER_LOST_AFTER": 2.0, **djtasks_settings}
        environment = worker_environment(chosen) | (env or {})
        log = tmp_path / f"worker{len(started)}.log"
        line = [sys.executable, "-m", "django", command, *arguments]
        with log.open("w") as sink:
            process = subprocess.Popen(
                line if at is None else at.command(*line),
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = WorkerProcess(process, log)
        started.append(worker)
        if wait:
            wait_until(
                lambda: process.poll() is not None or Worker.objects.filter(pid=worker.pid, beat__gt=0).exists(),
                what="the worker's first beat",
            )
            assert process.poll() is None, worker.output
        return worker

    yield start
    for worker in started:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # who is killed cannot tell what it ran
            worker.end()
        if worker.process.poll() is None:
            worker.kill_all()
        print(worker.output)
