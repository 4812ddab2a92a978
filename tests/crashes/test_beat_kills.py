"""Workers and beats are killed and started anew at random: each second's tick is one job, neither lost nor doubled."""

import os
import random
import signal
import time
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connections

from djtasks.models import Job, PeriodicTask, statements
from djtasks.periodic import tick_id
from tests.waiting import wait_until

pytestmark = [pytest.mark.every_broker, pytest.mark.every_store]

SECONDS = float(os.environ.get("DJTASKS_TEST_BEAT_SECONDS", "12"))
SECOND = timedelta(seconds=1)


class Fleet:
    """Two workers and two beats; `strike` ends one of them in some way and starts another in its place."""

    def __init__(self, start_worker, dice):
        self.start_worker = start_worker
        self.dice = dice
        self.members = [self.start(command) for command in ("runworker", "runbeat") * 2]

    def start(self, command):
        arguments = ["-c", "1"] if command == "runworker" else []
        return command, self.start_worker(*arguments, command=command, wait=False)

    def strike(self):
        place = self.dice.randrange(len(self.members))
        command, victim = self.members[place]
        assert victim.process.poll() is None, victim.output  # nobody ends unasked
        way = self.dice.choice(["all at once", "one process", "stop"])
        if way == "all at once":
            victim.kill_all()
        elif way == "one process" and (children := victim.children()):
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(children), signal.SIGKILL)
            return
        else:
            victim.process.terminate()
        self.members[place] = self.start(command)


@pytest.mark.timeout(SECONDS + 120)
def test_each_seconds_tick_is_one_job(database, start_worker):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    first = PeriodicTask.objects.create(
        name="often", task="tests.tasks.add", args="[1, 2]", schedule="* * * * * */1"
    ).next_run_at
    fleet = Fleet(start_worker, dice)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(dice.uniform(0.1, 1.5))
        fleet.strike()
    until = statements.now(connections[database]).replace(microsecond=0)
    expected = [first + number * SECOND for number in range((until - first) // SECOND + 1)]
    wait_until(lambda: PeriodicTask.objects.get(source="admin").next_run_at > until, 60, what="the last tick")
    ids = {tick_id("often", tick): tick for tick in expected}
    jobs = Job.objects.filter(periodic_task="often")
    wait_until(lambda: jobs.finished().filter(pk__in=ids).count() >= len(ids), 60, what="the end of all jobs")
    PeriodicTask.objects.update(enabled=False)
    count = PeriodicTask.objects.get(source="admin").total_run_count
    wait_until(lambda: jobs.finished().count() >= count, what="the end of what was sent meanwhile")
    states = dict(jobs.values_list("pk", "state"))
    assert len(expected) >= SECONDS - 1
    assert {tick for job, tick in ids.items() if job not in states} == set()
    assert (len(states), set(states.values())) == (count, {"SUCCESS"})
