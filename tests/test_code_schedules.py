"""Schedules of the code: what an entry may hold, and what becomes of its row when the code changes."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DataError, connections

from djtasks import checks, code_schedules, encoding, shared_task
from djtasks.beat import Beat
from djtasks.models import PeriodicTask
from djtasks.schedules import crontab, schedule
from tests.test_beat import once, sent

PAST = datetime(2020, 1, 1, tzinfo=UTC)
NIGHTLY = {"task": "tests.tasks.add", "schedule": crontab(30, 2), "args": (1, 2)}


@pytest.fixture
def code(settings):
    """Set BEAT_SCHEDULE and sync: `code(nightly={…})`."""

    def write(**entries):
        settings.DJTASKS = {**settings.DJTASKS, "BEAT_SCHEDULE": entries}
        code_schedules.sync()

    return write


def read(name="nightly"):
    return PeriodicTask.objects.get(name=name)


def force(**values):
    """Write past the model, as beat does."""
    PeriodicTask.objects.update(**{"next_run_at": PAST, **values})


# What an entry may hold


def test_an_entry_of_the_settings_becomes_a_row(database, code):
    code(
        nightly={
            **NIGHTLY,
            "kwargs": {"when": PAST},
            "options": {
                "queue": "mail",
                "priority": 5,
                "expires": timedelta(minutes=2),
                "headers": {"a": 1},
                "time_limit": 60,
                "exchange": "of Celery's",
            },
            "relative": True,
            "timezone": "Asia/Seoul",
            "catch_up": "skip",
            "overlap": False,
            "jitter": timedelta(seconds=3),
            "start_at": datetime(2021, 1, 1, tzinfo=UTC),
            "end_at": datetime(2090, 1, 1, tzinfo=UTC),
            "max_runs": 7,
            "misfire_grace": 60,
        }
    )
    row = read()
    assert (row.task, row.schedule, row.source, row.status) == ("tests.tasks.add", "30 2 * * *", "settings", "live")
    assert row.arguments() == ([1, 2], {"when": PAST})
    assert (row.queue, row.priority, row.expires, encoding.decode(row.headers)) == ("mail", 5, 120.0, {"a": 1})
    assert row.further_options() == {"time_limit": 60}
    assert (row.timezone, row.catch_up, row.overlap, row.jitter) == ("Asia/Seoul", "skip", False, 3.0)
    assert (row.start_at.year, row.end_at.year, row.max_runs, row.misfire_grace) == (2021, 2090, 7, 60.0)


@pytest.mark.parametrize("given", [crontab(30, 2), schedule(90), 90, timedelta(minutes=1), "@daily", "every 5 minutes"])
def test_a_schedule_may_be_whatever_is_one(database, code, given):
    code(nightly={"task": "t", "schedule": given})
    assert read().status == "live"


def test_a_schedule_beside_a_task_becomes_a_row_of_its_name(database, own_tasks, code):
    @shared_task(name="clean.up", schedule=crontab(0, 4))
    def clean_up(): ...

    @shared_task(name="look.around", schedule={"schedule": 90, "args": [1], "options": {"queue": "slow"}})
    def look_around(): ...

    code()
    row = read("clean.up")
    assert (row.task, row.schedule, row.source) == ("clean.up", "0 4 * * *", "task")
    row = read("look.around")
    assert (row.task, row.schedule, row.args, row.queue) == ("look.around", "every 90 seconds", "[1]", "slow")


def test_the_settings_may_take_the_place_of_a_schedule_beside_a_task(database, own_tasks, code):
    @shared_task(name="clean.up", schedule=crontab(0, 4))
    def clean_up(): ...

    code(**{"clean.up": {"task": "clean.up", "schedule": 60}})
    assert (read("clean.up").schedule, read("clean.up").source) == ("every minute", "settings")


class Strange:
    """What its user has not thought of."""

    def __iter__(self):
        raise KeyError("strange")


WRONG = [
    ({**NIGHTLY, "args": Strange()}, "strange", ""),
    ({"schedule": 60}, "has no 'task'", ""),
    ({"task": "t"}, "has no 'schedule'", ""),
    (60, "must be a dict", ""),
    ({**NIGHTLY, "kwarg": {}}, "has an unknown key 'kwarg'", "'kwargs'"),
    ({**NIGHTLY, "queue": "mail"}, "has an unknown key 'queue'", 'into "options"'),
    ({**NIGHTLY, "options": {"prioriti": 1}}, "['options'] has an unknown key 'prioriti'", "'priority'"),
    ({**NIGHTLY, "schedule": "99 * * * *"}, "schedule: ", ""),
    ({**NIGHTLY, "schedule": object()}, "schedule: A schedule is a crontab", ""),
    ({**NIGHTLY, "timezone": "Europe/Berln"}, "timezone: There is no time zone", ""),
    ({**NIGHTLY, "args": "ab"}, "args must be a list", ""),
    ({**NIGHTLY, "kwargs": [1]}, "kwargs must be a dict", ""),
    ({**NIGHTLY, "args": [object()]}, "JSON cannot carry", ""),
    ({**NIGHTLY, "catch_up": "never"}, "catch_up: ", ""),
    ({**NIGHTLY, "jitter": -1}, "jitter: ", ""),
    ({**NIGHTLY, "max_runs": "many"}, "max_runs: ", ""),
    ({**NIGHTLY, "start_at": datetime(2026, 1, 1)}, "is naive", ""),
    ({**NIGHTLY, "options": {"expires": PAST}}, "end_at", ""),
    ({**NIGHTLY, "options": 5}, "options must be a dict", ""),
    ({**NIGHTLY, "options": {"priority": 1000}}, "priority: ", ""),
    ({**NIGHTLY, "options": {"headers": [1]}}, "headers must be a dict", ""),
    ({**NIGHTLY, "options": {"time_limit": "long"}}, "time_limit must be a number", ""),
]


@pytest.mark.parametrize(("given", "text", "hint"), WRONG, ids=[text for _, text, _ in WRONG])
def test_what_is_wrong_is_said_by_the_checks_and_leaves_the_others_alone(database, code, given, text, hint, caplog):
    code(wrong=given, nightly=NIGHTLY)
    (error,) = [each for each in checks.check_schedules() if each.id == "djtasks.E010"]
    assert error.msg.startswith("DJTASKS['BEAT_SCHEDULE']['wrong']")
    assert text in error.msg
    assert hint in error.hint
    assert text in caplog.text
    assert [row.name for row in PeriodicTask.objects.all()] == ["nightly"]


@pytest.mark.parametrize("name", ["of two\nlines", "with\0 in it", "half a character \ud83d"])
def test_a_name_that_databases_or_logs_cannot_hold_is_said_by_the_checks(database, code, name):
    code(**{name: NIGHTLY, "nightly": NIGHTLY})
    (error,) = checks.check_schedules()
    assert "name: Write a name without control characters" in error.msg
    assert [row.name for row in PeriodicTask.objects.all()] == ["nightly"]


def test_a_wrong_schedule_beside_a_task_is_said_by_the_checks(own_tasks):
    @shared_task(name="clean.up", schedule="99 * * * *")
    def clean_up(): ...

    (error,) = checks.check_schedules()
    assert error.msg.startswith("The schedule of the task clean.up")


def test_a_task_that_nobody_knows_is_warned_of(settings):
    settings.DJTASKS = {**settings.DJTASKS, "BEAT_SCHEDULE": {"x": {"task": "tests.tasks.ad", "schedule": 60}}}
    (warning,) = checks.check_schedules()
    assert (warning.id, warning.hint) == ("djtasks.W006", "Did you mean 'tests.tasks.add'?")


@pytest.mark.parametrize("given", [{"args": [1, 2, 3]}, {"kwargs": {"z": 1}}, {}])
def test_arguments_that_the_task_does_not_take_are_warned_of(settings, given):
    entry = {"task": "tests.tasks.add", "schedule": 60, **given}
    settings.DJTASKS = {
        **settings.DJTASKS,
        "BEAT_SCHEDULE": {"wrong": entry, "right": {**entry, **NIGHTLY, "kwargs": {}}},
    }
    (warning,) = checks.check_schedules()
    assert warning.id == "djtasks.W007"
    assert warning.msg.startswith("DJTASKS['BEAT_SCHEDULE']['wrong']: tests.tasks.add() cannot be called so")


def test_a_zone_that_there_is_not_is_said_by_the_checks(settings):
    settings.DJTASKS = {**settings.DJTASKS, "TIMEZONE": "Europe/Berln"}
    assert [each.id for each in checks.check_settings()] == ["djtasks.E009"]


# When the code changes


def test_an_unchanged_definition_keeps_its_next_run(database, code):
    code(nightly=NIGHTLY)
    force()
    before = read().changed_at
    code(nightly={**NIGHTLY, "schedule": "30 2 * * *", "args": [1, 2]})
    assert (read().next_run_at, read().changed_at) == (PAST, before)


def test_ticks_that_were_missed_during_a_deployment_are_caught_up_with(database, code, settings):
    code(nightly=NIGHTLY)
    force()
    once(Beat())
    assert [name for name, _ in sent()] == ["nightly"]


def test_a_changed_schedule_is_reckoned_from_now(database, code):
    code(nightly=NIGHTLY)
    force()
    code(nightly={**NIGHTLY, "schedule": 60})
    assert read().schedule == "every minute"
    assert read().next_run_at > PAST


def test_changed_arguments_keep_the_next_run(database, code):
    code(nightly=NIGHTLY)
    force()
    code(nightly={**NIGHTLY, "args": [3, 4], "options": {"queue": "mail"}})
    assert (read().args, read().queue, read().next_run_at) == ("[3,4]", "mail", PAST)
    code(nightly=NIGHTLY)
    assert (read().args, read().queue) == ("[1,2]", "")


def test_what_the_admin_has_disabled_stays_so(database, code):
    code(nightly=NIGHTLY)
    PeriodicTask.objects.update(enabled=False)
    code(nightly={**NIGHTLY, "schedule": 60})
    assert (read().enabled, read().next_run_at, read().schedule) == (False, None, "every minute")


def test_an_entry_may_begin_disabled_and_be_enabled_by_the_admin(database, code):
    code(nightly={**NIGHTLY, "enabled": False})
    assert read().status == "disabled"
    PeriodicTask.objects.update(enabled=True)
    code(nightly={**NIGHTLY, "enabled": False})
    assert read().status == "live"


def test_what_is_gone_from_the_code_rests_and_is_not_deleted(database, code):
    code(nightly=NIGHTLY, other=NIGHTLY)
    code(other=NIGHTLY)
    row = read()
    assert (row.status, row.next_run_at, row.enabled) == ("gone", None, True)
    assert read("other").status == "live"


def test_what_comes_back_goes_on_without_what_was_missed(database, code):
    code(nightly=NIGHTLY)
    force()
    code()
    code(nightly=NIGHTLY)
    assert read().status == "live"
    assert read().next_run_at > PAST
    once(Beat())
    assert sent() == []


def test_a_name_that_the_admin_has_taken_is_left_to_it(database, code, caplog):
    PeriodicTask.objects.create(name="nightly", task="of.the.admin", schedule="every hour")
    code(nightly=NIGHTLY)
    assert (read().task, read().source) == ("of.the.admin", "admin")
    assert "The schedule nightly of the code is not used" in caplog.text


def test_rows_of_the_admin_are_never_gone(database, code):
    PeriodicTask.objects.create(name="mine", task="t", schedule="every hour")
    code()
    assert read("mine").status == "live"


def test_an_entry_that_is_wrong_now_lets_its_row_rest_until_it_is_right(database, code):
    code(nightly=NIGHTLY)
    code(nightly={**NIGHTLY, "schedule": "99 * * * *"})
    assert (read().status, read().next_run_at) == ("broken", None)
    assert "99" in read().problem
    once(Beat())
    assert read().status == "broken"
    code(nightly={**NIGHTLY, "schedule": "59 * * * *"})
    assert read().status == "live"


def test_a_schedule_may_move_from_the_task_to_the_settings(database, own_tasks, code):
    @shared_task(name="clean.up", schedule=crontab(0, 4))
    def clean_up(): ...

    code()
    force()
    clean_up.schedule = None
    code(**{"clean.up": {"task": "clean.up", "schedule": crontab(0, 4)}})
    assert (read("clean.up").source, read("clean.up").next_run_at) == ("settings", PAST)


def test_many_that_start_at_once_make_each_row_once(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "BEAT_SCHEDULE": {f"{number}": NIGHTLY for number in range(20)}}
    barrier = threading.Barrier(4)
    failed = []

    def start():
        barrier.wait(10)
        try:
            code_schedules.sync()
        except BaseException as error:
            failed.append(error)
        connections.close_all()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert PeriodicTask.objects.live().count() == 20


def test_what_has_a_row_runs_on_though_the_database_refuses_a_schedule_of_the_code(database, code, monkeypatch, caplog):
    code(nightly=NIGHTLY)
    force()

    def refused():
        raise DataError("too long")

    monkeypatch.setattr(code_schedules, "sync", refused)
    once(Beat())
    assert [name for name, _id in sent()] == ["nightly"]
    assert "cannot be brought up to date" in caplog.text


def test_a_beat_that_starts_brings_the_rows_up_to_date(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "BEAT_SCHEDULE": {"nightly": NIGHTLY}}
    once(Beat())
    assert read().status == "live"
