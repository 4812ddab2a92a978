"""Workers on hosts of their own, one of which is cut off from the stores and comes back."""

import json
import os
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from django.db import connections

from djtasks import chord, states
from djtasks.brokers import get_broker
from djtasks.models import Job, JobGroup, Worker
from tests import tasks
from tests.canvas.tasks import identity
from tests.namespaces import Host
from tests.waiting import wait_until

LOST_AFTER = 2.0
STORES = ["postgresql", "mariadb", "redis"] if os.environ.get("DJTASKS_TEST_EVERY_STORE") else ["postgresql", "redis"]


@pytest.fixture
def hosts():
    with ExitStack() as stack:
        yield [stack.enter_context(Host(name)) for name in ("alpha", "beta")]


@pytest.fixture
def start_on(start_worker, database, settings):
    """Start a worker for two jobs at a time on a host, from where it reaches the stores by that host's cable."""

    def start(host, **more):
        given = connections.settings[database]
        address, port = host.way_to(given["HOST"], int(given["PORT"]))
        env = {"DJTASKS_TEST_DATABASES": json.dumps({database: {"HOST": address, "PORT": port}})}
        if url := settings.DJTASKS.get("BROKER_URL"):
            parts = urlsplit(url)
            address, port = host.way_to(parts.hostname, parts.port)
            more["BROKER_URL"] = parts._replace(netloc=f"{address}:{port}").geturl()
        return start_worker("-c", "2", "-n", "worker@%h", at=host, env=env, **{"WORKER_LOST_AFTER": LOST_AFTER, **more})

    return start


class Notes:
    """What `name_host` has noted."""

    def __init__(self, path):
        self.path = path

    def of(self, word, host):
        """The processes there that began, or ended, one after the other."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [pid for found, name, pid in map(str.split, lines) if (found, name) == (word, host)]


@pytest.mark.parametrize("database", STORES, indirect=True)
def test_what_a_cut_off_worker_ran_runs_elsewhere_and_what_it_brings_back_is_dropped(hosts, start_on, tmp_path):
    alpha, beta = hosts
    notes, later = Notes(tmp_path / "notes"), Notes(tmp_path / "later")
    worker = start_on(alpha)
    body = chord([tasks.name_host.s(str(notes.path), 1.0) for _ in range(2)])(identity.s())
    wait_until(lambda: len(notes.of("begin", "alpha")) == 2, what="two jobs on alpha")
    alpha.pull()
    start_on(beta)
    assert body.get(timeout=30) == ["beta", "beta"]
    wait_until(lambda: len(notes.of("end", "alpha")) == 2, what="the end of what alpha ran")
    assert Worker.objects.get(hostname="worker@alpha").lost_at is not None
    before = list(Job.objects.order_by("pk").values())
    alpha.plug()
    wait_until(lambda: worker.output.count("outcome dropped") == 2, what="the end of what alpha brought back")
    wait_until(lambda: _runs_on_alpha(later), seconds=60, what="another job on alpha")
    assert list(Job.objects.filter(pk__in=[row["id"] for row in before]).order_by("pk").values()) == before
    members = Job.objects.filter(task=tasks.name_host.name, group_id__isnull=False)
    assert {(each.state, each.losses, each.token) for each in members} == {(states.SUCCESS, 1, 2)}
    assert Job.objects.filter(task=identity.name).count() == 1
    assert set(Job.objects.values_list("state", flat=True)) == {states.SUCCESS}
    assert JobGroup.objects.unfinished().count() == 0
    wait_until(lambda: get_broker().owners() == set(), what="the end of all leases")
    assert (len(notes.of("begin", "alpha")), len(notes.of("begin", "beta"))) == (2, 2)


def _runs_on_alpha(notes):
    return tasks.name_host.delay(str(notes.path), 0.05).get(timeout=20) == "alpha"


@pytest.mark.parametrize("database", STORES[-1:], indirect=True)
def test_who_is_cut_off_for_less_than_the_time_to_be_lost_keeps_its_jobs(hosts, start_on, tmp_path):
    alpha, beta = hosts
    notes = Notes(tmp_path / "notes")
    for host in (alpha, beta):
        start_on(host, WORKER_LOST_AFTER=15.0)
    results = [tasks.name_host.delay(str(notes.path), 3.0) for _ in range(4)]
    wait_until(lambda: len(notes.of("begin", "alpha")) == 2, what="two jobs on alpha")
    alpha.pull()
    wait_until(lambda: len(notes.of("end", "alpha")) == 2, what="the end of what alpha ran")
    alpha.plug()
    assert sorted(each.get(timeout=30) for each in results) == ["alpha", "alpha", "beta", "beta"]
    assert set(Job.objects.values_list("token", "losses")) == {(1, 0)}
    assert not Worker.objects.exclude(lost_at=None).exists()
