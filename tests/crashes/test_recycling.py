"""Children that are replaced again and again leave nothing behind: no process, descriptor, connection, lease."""

import os
import random
import time
from pathlib import Path

import pytest
from django.db import connections

from djtasks import states
from djtasks.brokers import get_broker
from djtasks.models import Job
from tests import tasks
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker

RESTARTS = int(os.environ.get("DJTASKS_TEST_RESTARTS", "40"))  # 10000 take half an hour a store
BATCH = 200
ENDINGS = ("return", "return", "return", "kill", "limit", "leave")


def test_a_child_that_has_taken_too_much_memory_is_replaced_after_its_job(start_worker):
    worker = start_worker("-c", "1", "--max-memory-per-child", "300000")
    first = tasks.process.delay().get(timeout=20)
    assert tasks.process.delay().get(timeout=20) == first
    assert tasks.take_memory.delay(400).get(timeout=20) == first
    assert tasks.process.delay().get(timeout=20) != first
    assert "it has taken" in worker.output
    assert set(Job.objects.values_list("losses", "token")) == {(0, 1)}


def test_the_solo_pool_does_not_recycle_itself(start_worker):
    start_worker("-P", "solo", "--max-tasks-per-child", "1", "--max-memory-per-child", "1")
    assert tasks.process.delay().get(timeout=20) == tasks.process.delay().get(timeout=20)


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def field(pid, name):
    """A number from /proc/<pid>/status, such as VmRSS (KiB)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def is_zombie(pid):
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has gone meanwhile
        return False


def server_connections(alias):
    """How many connections the database's server sees."""
    table, name = {
        "postgresql": ("pg_stat_activity", "datname = current_database()"),
        "mysql": ("information_schema.processlist", "db = database()"),
    }.get(connections[alias].vendor, (None, None))
    if table is None:
        return 0
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE {name}")
        return cursor.fetchone()[0]


class Seen:
    """What a worker holds, as the system and the servers see it."""

    def __init__(self, worker, alias):
        self.worker, self.alias = worker, alias
        self.keeper = worker.children()[0]

    def at_rest(self):
        """What it holds once nothing has changed for a second, with all its processes there."""
        looks = []

        def is_still():
            now = self.look()
            if not looks or looks[-1][0] != now:
                looks.append((now, time.monotonic()))
            return now["processes"] == 3 and time.monotonic() - looks[-1][1] > 1.0

        wait_until(is_still, what="rest")
        return looks[-1][0]

    def look(self):
        family = self.worker.children()
        return {
            "processes": len(family),
            "zombies": sum(map(is_zombie, family)),
            "descriptors": descriptors(self.worker.pid),
            "keeper's descriptors": descriptors(self.keeper),
            "keeper's threads": field(self.keeper, "Threads"),
            "connections": server_connections(self.alias),
        }


def send(chance, path, count):
    sent = []
    for _ in range(count):
        how = chance.choice(ENDINGS)
        limit = 0.05 if how == "limit" else None
        sent.append(tasks.end_somehow.apply_async((str(path), how), time_limit=limit))
    return sent


@pytest.mark.timeout(120 + RESTARTS)
def test_children_that_are_replaced_leave_nothing_behind(start_worker, database, tmp_path):
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    worker = start_worker("-c", "2", "--max-tasks-per-child", "1", "-l", "ERROR")
    path = tmp_path / "killed"
    for each in send(chance, path, 10):
        wait_until(each.ready, seconds=60)
    seen = Seen(worker, database)
    before, memory = seen.at_rest(), field(worker.pid, "VmRSS")
    print(before, memory)
    for start in range(0, RESTARTS, BATCH):
        for each in send(chance, path, min(BATCH, RESTARTS - start)):
            wait_until(each.ready, seconds=120)
            assert each.state in (states.SUCCESS, states.FAILURE)
    after = seen.at_rest()
    print(after, field(worker.pid, "VmRSS"))
    assert all(after[name] <= before[name] for name in before)
    assert field(worker.pid, "VmRSS") < memory + 8 * 1024
    wait_until(lambda: not get_broker().owners(), what="no leases")
    assert not Job.objects.running().exists()
