"""What the app does for itself: it deletes what has expired."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import OperationalError

from djtasks import builtin, chord, code_schedules, plan, registry, states, upkeep
from djtasks.canvas import streaming
from djtasks.message import new_id
from djtasks.models import Job, JobGroup, Limit, Metric, PeriodicTask, Worker
from djtasks.models.fields import utc_now
from djtasks.testing import run_jobs
from tests.tasks import add, total

pytestmark = pytest.mark.every_broker("redis")


def finished_job(days_ago, state=states.SUCCESS, **fields):
    ended = utc_now() - timedelta(days=days_ago)
    return Job.objects.create(
        **{"task": "some.task", "queue": "default", "state": state, "finished_at": ended, **fields}
    )


def ids():
    return set(Job.objects.values_list("pk", flat=True))


def test_what_has_expired_is_deleted_batch_by_batch_and_nothing_else(database, monkeypatch):
    monkeypatch.setattr(upkeep, "BATCH", 2)
    for number in range(5):
        finished_job(8, id=f"old {number}", state=states.FAILURE if number % 2 else states.SUCCESS)
    finished_job(6, id="young")
    Job.objects.create(id="waiting", task="some.task", queue="default", created_at=utc_now() - timedelta(days=99))
    assert list(upkeep.prune()) == [2, 2, 1]
    assert ids() == {"young", "waiting"}


def test_nothing_is_deleted_when_results_never_expire(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "RESULT_EXPIRES": None}
    finished_job(999, id="old")
    assert upkeep.prune_for() == 0


def test_members_of_an_unfinished_group_are_kept(database):
    JobGroup.objects.create(id="open", size=2, remaining=1)
    JobGroup.objects.create(id="closed", size=1, remaining=0)
    finished_job(8, id="kept", group_id="open")
    finished_job(8, id="gone", group_id="closed")
    assert upkeep.prune_for() == 1
    assert ids() == {"kept"}


def test_rows_of_keys_that_nobody_uses_any_more_go_however_many(database, monkeypatch):
    monkeypatch.setattr(upkeep, "BATCH", 2)
    Limit.objects.bulk_create([Limit(key=f"some.task[{number}]", next_slot=1) for number in range(7)])
    Limit.objects.create(key="some.task", is_task=True, rate="1/s")
    upkeep.prune_for()
    assert list(Limit.objects.values_list("key", flat=True)) == ["some.task"]


def test_groups_go_after_their_last_member(database, monkeypatch):
    monkeypatch.setattr(upkeep, "BATCH", 2)
    for number, days in enumerate((8, 8, 8, 6)):
        JobGroup.objects.create(id=f"{number}", size=1, remaining=0, finished_at=utc_now() - timedelta(days=days))
    upkeep.prune_for()
    assert JobGroup.objects.count() == 1


def test_a_group_whose_sender_died_while_it_sent_fails_instead_of_waiting_for_ever(database, monkeypatch):
    class Died(BaseException):
        pass

    def header():
        yield add.si(1, 1)
        monkeypatch.setattr(plan, "abandon", lambda _group_id: None)  # a process that is killed does nothing more
        raise Died

    monkeypatch.setattr(streaming, "SLOW", 0.0)
    with pytest.raises(Died):
        chord(header(), total.s()).apply_async()
    monkeypatch.undo()
    run_jobs()
    upkeep.prune_for()
    assert JobGroup.objects.get().remaining == 1
    JobGroup.objects.update(open_at=utc_now() - timedelta(hours=25))
    upkeep.prune_for()
    run_jobs()
    body = Job.objects.get(task=total.name)
    assert (body.state, body.exception) == ("FAILURE", "djtasks.exceptions.ChordError")
    assert (JobGroup.objects.get().remaining, JobGroup.objects.get().open_at) == (0, None)


def test_that_an_unknown_id_was_revoked_is_forgotten_after_a_day(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "RESULT_EXPIRES": None}
    for name, hours in (("old", 25), ("new", 23)):
        Job.objects.create(id=name, state=states.REVOKED, revoked=True, finished_at=utc_now() - timedelta(hours=hours))
    upkeep.prune_for()
    assert ids() == {"new"}


def test_of_workers_that_live_no_more_the_newest_are_kept(database, monkeypatch):
    monkeypatch.setattr(upkeep, "LOST_WORKERS_KEPT", 2)
    for number in range(4):
        begun = utc_now() - timedelta(hours=number)
        Worker.objects.create(
            id=f"{number}", hostname="h", pid=1, concurrency=1, started_at=begun, stopped_at=utc_now()
        )
    Worker.objects.create(id="lives", hostname="h", pid=1, concurrency=1, started_at=utc_now() - timedelta(days=9))
    upkeep.prune_for()
    assert set(Worker.objects.values_list("pk", flat=True)) == {"0", "1", "lives"}


def test_a_long_heap_is_left_to_the_next_time(database, monkeypatch):
    monkeypatch.setattr(upkeep, "BATCH", 2)
    for number in range(5):
        finished_job(8, id=f"old {number}")
    assert upkeep.prune_for(longest=0.0) == 2
    assert upkeep.prune_for() == 3


@pytest.mark.upkeep
def test_it_is_scheduled_as_other_tasks_are(database):
    code_schedules.sync()
    rows = PeriodicTask.objects.filter(name__in=(builtin.prune.name, builtin.count.name))
    assert [(row.source, row.enabled, row.priority) for row in rows] == [("task", True, 100)] * 2


def test_its_jobs_do_it(broker):
    old, new = finished_job(8, id=new_id()), finished_job(0, id=new_id())
    for name in (builtin.prune.name, builtin.count.name, builtin.end_stranded.name):
        registry.get(name).delay()
    run_jobs()
    assert old.pk not in ids()
    assert new.pk in ids()
    assert Metric.objects.exists()


def test_the_command_deletes_all_of_it_now(database, monkeypatch):
    monkeypatch.setattr(upkeep, "BATCH", 2)
    for number in range(5):
        finished_job(8, id=f"old {number}")
    call_command("djtasks", "prune", stdout=(out := StringIO()))
    assert "5 jobs deleted, which had ended more than 7 days ago." in out.getvalue()
    assert ids() == set()


def test_the_command_says_so_if_nothing_expires(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "RESULT_EXPIRES": None}
    call_command("djtasks", "prune", stdout=(out := StringIO()))
    assert "No job expires" in out.getvalue()


@pytest.mark.upkeep
def test_it_is_no_news_in_the_log(broker, caplog):
    caplog.set_level("DEBUG", "djtasks")
    registry.get(builtin.count.name).delay()
    run_jobs()
    (line,) = [record for record in caplog.records if "succeeded" in record.message]
    assert line.levelname == "DEBUG"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_upkeep_that_meets_a_server_that_restarts_is_tried_again_soon(database, monkeypatch):
    def prune_for():
        tries.append(len(tries))
        if len(tries) == 1:
            raise OperationalError("server closed the connection unexpectedly")
        return 0

    tries = []
    monkeypatch.setattr(upkeep, "prune_for", prune_for)
    result = builtin.prune.delay()
    run_jobs(until=timedelta(seconds=30))
    assert tries == [0, 1]
    assert result.state == states.SUCCESS
