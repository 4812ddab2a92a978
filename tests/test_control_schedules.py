"""Running a schedule now, and `manage.py djtasks schedule`."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from djtasks import control, encoding
from djtasks.models import PeriodicTask, Worker
from djtasks.models.fields import utc_now
from djtasks.periodic import tick_id
from tests.test_beat import message, sent


def make(name="nightly", **values):
    return PeriodicTask.objects.create(**{"name": name, "task": "a.task", "schedule": "every hour", **values})


def read(name="nightly"):
    return PeriodicTask.objects.get(name=name)


def asked(*arguments):
    out = StringIO()
    call_command("djtasks", "schedule", *arguments, stdout=out)
    return out.getvalue().strip()


@pytest.mark.every_broker
def test_a_schedule_is_run_now_beside_its_ticks(database):
    before = make(args="[1]", jitter=3600, queue="mail").next_run_at
    job = control.run_schedule("nightly")
    assert sent() == [("nightly", job)]
    assert (message().args, message().queue) == ("[1]", "mail")
    assert job != tick_id("nightly", before)
    row = read()
    assert (row.next_run_at, row.total_run_count, row.last_job) == (before, 0, job)
    assert utc_now() - row.last_run_at < timedelta(seconds=60)
    assert "scheduled_for" in encoding.decode(message().headers)


def test_a_disabled_schedule_can_be_run_and_stays_disabled(database):
    make(enabled=False)
    control.run_schedule("nightly")
    assert len(sent()) == 1
    assert read().status == "disabled"


def test_each_run_is_another_job(database):
    make()
    assert control.run_schedule("nightly") != control.run_schedule("nightly")
    assert len(sent()) == 2


def test_a_schedule_that_there_is_not_cannot_be_run(database):
    with pytest.raises(PeriodicTask.DoesNotExist):
        control.run_schedule("nightly")


def test_a_schedule_that_cannot_be_sent_is_not_noted_as_run(database):
    make()
    PeriodicTask.objects.update(args="nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        control.run_schedule("nightly")
    assert read().last_job is None


# The command


def test_the_list_shows_the_next_to_run_first(database):
    make("b", schedule="every 2 hours", timezone="Asia/Seoul")
    make("a", schedule="every hour")
    make("rests", enabled=False)
    lines = asked("list").splitlines()
    assert lines[0].split()[:3] == ["name", "schedule", "zone"]
    assert [line.split()[0] for line in lines[1:4]] == ["a", "b", "rests"]
    assert "Asia/Seoul" in lines[2]
    assert "disabled" in lines[3]


def test_the_list_says_what_is_broken_and_that_nobody_sends(database):
    make("bad", schedule="99 * * * *")
    assert "bad is broken: schedule: " in asked("list")
    assert "Nobody sends what is due" in asked("list")
    Worker.objects.create(id="w", hostname="h", pid=1, queues="[]", pool="beat", concurrency=0, scheduler_at=utc_now())
    assert "Nobody" not in asked("list")


def test_without_schedules_it_says_so(database):
    assert asked("list") == "There are no schedules."


def test_the_list_says_what_stands_in_the_code_and_waits_for_a_beat(database, settings):
    entry = {"task": "tests.tasks.add", "schedule": 60}
    settings.DJTASKS = {**settings.DJTASKS, "BEAT_SCHEDULE": {"nightly": entry, "new": entry}}
    make("nightly", source="settings")
    assert "not here before a beat starts that knows it: new\n" in asked("list") + "\n"


def test_the_list_says_in_which_zone_a_crontab_is_meant(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TIMEZONE": "Europe/Berlin"}
    make("daily", schedule="@daily")
    make("even", schedule="every hour")
    assert [line for line in asked("list").splitlines() if "Europe/Berlin" in line and line.startswith("daily")]
    assert asked("list").count("Europe/Berlin") == 1


def test_the_list_for_programs(database):
    row = make()
    (found,) = json.loads(asked("list", "--json"))
    assert (found["name"], found["status"], found["next_run_at"]) == ("nightly", "live", row.next_run_at.isoformat())
    assert (found["problem"], found["timezone"], found["runs"]) == (None, None, 0)


def test_run_prints_the_id(database):
    make()
    assert asked("run", "nightly") == sent()[0][1]


def test_disable_and_enable(database):
    make()
    assert asked("disable", "nightly") == "nightly is disabled."
    assert read().status == "disabled"
    assert asked("enable", "nightly").startswith("nightly is enabled. Next run: 20")
    assert read().status == "live"


def test_what_is_enabled_and_yet_does_not_run_says_why(database):
    make(schedule="at 2020-01-01T00:00:00+00:00")
    assert asked("enable", "nightly") == "nightly is enabled, but ended: it has no further run."


@pytest.mark.parametrize("action", ["run", "enable", "disable"])
def test_a_name_that_there_is_not_is_told_the_nearest(database, action):
    make()
    with pytest.raises(CommandError, match=r"There is no schedule 'nightli'\. Did you mean 'nightly'"):
        asked(action, "nightli")


def test_a_schedule_that_cannot_be_sent_says_why(database):
    make()
    PeriodicTask.objects.update(args="nonsense")
    with pytest.raises(CommandError, match="nightly cannot be run"):
        asked("run", "nightly")
