"""`manage.py djtasks from_celery`: what a Celery project's settings and tables mean here."""

import re
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from types import ModuleType, SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from djtasks import crontab, schedule
from djtasks.conf import Settings
from djtasks.from_celery import as_source, found_in
from djtasks.models import PeriodicTask
from djtasks.schedules import clocked

TABLES = """
CREATE TABLE django_celery_beat_crontabschedule (id integer PRIMARY KEY, minute text, hour text, day_of_week text,
    day_of_month text, month_of_year text, timezone text);
CREATE TABLE django_celery_beat_intervalschedule (id integer PRIMARY KEY, every integer, period text);
CREATE TABLE django_celery_beat_clockedschedule (id integer PRIMARY KEY, clocked_time datetime);
CREATE TABLE django_celery_beat_periodictask (id integer PRIMARY KEY, name text, task text, args text, kwargs text,
    queue text, exchange text, routing_key text, headers text, priority integer, expires datetime,
    expire_seconds integer, one_off bool, start_time datetime, enabled bool, last_run_at datetime,
    total_run_count integer, date_changed datetime, description text, crontab_id integer, interval_id integer,
    solar_id integer, clocked_id integer);
INSERT INTO django_celery_beat_crontabschedule VALUES (1, '30', '4', 'mon,wed', '*', '*', 'Europe/Berlin');
INSERT INTO django_celery_beat_crontabschedule VALUES (2, '*/7, 3', '4', '*', '*', '*', 'UTC');
INSERT INTO django_celery_beat_intervalschedule VALUES (1, 10, 'minutes');
INSERT INTO django_celery_beat_clockedschedule VALUES (1, '2031-01-02 03:04:05');
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, queue, headers, priority, expire_seconds,
    one_off, enabled, crontab_id) VALUES (1, 'nightly', 'shop.report', '[1]', '{"a": 2}', 'slow', '{}', 3, 60, 0, 1, 1);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, headers, one_off, enabled, interval_id,
    start_time, expires)
    VALUES (2, 'often', 'shop.sync', '[]', '{}', '{}', 0, 0, 1, '2030-01-01 00:00:00', '2031-01-01');
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, headers, one_off, enabled, clocked_id)
    VALUES (3, 'once', 'shop.sync', '[]', '{}', '{}', 1, 1, 1);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, headers, one_off, enabled, solar_id)
    VALUES (4, 'at sunset', 'shop.sync', '[]', '{}', '{}', 0, 1, 1);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, headers, one_off, enabled, crontab_id)
    VALUES (5, 'celery.backend_cleanup', 'celery.backend_cleanup', '[]', '{}', '{}', 0, 1, 1);
INSERT INTO django_celery_beat_periodictask (id, name, task, args, kwargs, headers, one_off, enabled, crontab_id)
    VALUES (6, 'broken', 'shop.sync', '{}', '{}', '{}', 0, 1, 2);
"""


@pytest.fixture
def celery_tables(transactional_db):
    """The tables of django-celery-beat, as its migrations make them on SQLite, with a few rows."""
    with connection.cursor() as cursor:
        for statement in filter(str.strip, TABLES.split(";\n")):
            cursor.execute(statement)
    yield
    with connection.cursor() as cursor:
        for name in ("crontabschedule", "intervalschedule", "clockedschedule", "periodictask"):
            cursor.execute(f"DROP TABLE django_celery_beat_{name}")


@pytest.fixture
def celery_settings(settings):
    settings.CELERY_BROKER_URL = "redis://:secret@queue:6379/1"
    settings.CELERY_RESULT_BACKEND = "django-db"
    settings.CELERY_TASK_TIME_LIMIT = 30
    settings.CELERY_BEAT_SCHEDULE = {"tidy": {"task": "shop.tidy", "schedule": 30.0}}


def run(*arguments):
    out = StringIO()
    call_command("djtasks", "from_celery", *arguments, stdout=out)
    return out.getvalue()


@contextmanager
def module(name, **values):
    sys.modules[name] = made = ModuleType(name)
    vars(made).update(values)
    try:
        yield
    finally:
        del sys.modules[name]


# Settings


def test_settings_of_the_same_meaning_keep_their_names(db):
    found = found_in({"task_acks_late": True, "worker_concurrency": 4, "imports": ("a.b",), "result_expires": 60})
    assert found.settings == {
        "TASK_ACKS_LATE": True,
        "WORKER_CONCURRENCY": 4,
        "IMPORTS": ["a.b"],
        "RESULT_EXPIRES": 60,
    }
    assert found.remarks == []


def test_what_is_not_needed_any_more_is_said_with_the_reason(db):
    found = found_in({"result_backend": "django-db", "broker_transport_options": {"visibility_timeout": 3600}})
    assert [name for name, _ in found.needless] == ["broker_transport_options", "result_backend"]
    assert "heartbeat" in dict(found.needless)["broker_transport_options"]


def test_what_is_not_known_is_said(db):
    (remark,) = found_in({"security_key": "x"}).remarks
    assert "security_key" in remark


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("redis://host/1", "redis://host/1"),
        ("rediss://host/1", "rediss://host/1"),
        ("redis+socket:///run/redis.sock", "unix:///run/redis.sock"),
        ("sentinel://a:26379;sentinel://b:26379", "redis+sentinel://a:26379,b:26379/0?service=mymaster"),
        ("amqp://guest@host//", None),
    ],
)
def test_the_broker_is_taken_over_where_there_is_one_of_its_kind(db, given, taken):
    found = found_in({"broker_url": given})
    assert found.settings.get("BROKER_URL") == taken
    assert bool(found.remarks) == (taken is None or "mymaster" in taken)


def test_priorities_are_turned_round_on_redis_alone(db):
    routes = {"a.*": {"queue": "q", "priority": 0}, "b": "other"}
    on_redis = found_in({"broker_url": "redis://", "task_routes": routes, "task_default_priority": 6})
    assert on_redis.settings["TASK_ROUTES"] == {"a.*": {"queue": "q", "priority": 9}, "b": {"queue": "other"}}
    assert on_redis.settings["TASK_DEFAULT_PRIORITY"] == 3
    assert "turned round" in on_redis.remarks[0]
    elsewhere = found_in({"broker_url": "amqp://", "task_routes": routes})
    assert elsewhere.settings["TASK_ROUTES"]["a.*"]["priority"] == 0


def test_routes_come_as_one_and_routers_are_named(db):
    found = found_in({"task_routes": ([{"a": {"queue": "x", "exchange": "e"}}, print])})
    assert found.settings["TASK_ROUTES"] == {"a": {"queue": "x"}}
    assert len(found.remarks) == 2


def test_schedules_of_celery_become_ours(db):
    names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
    theirs = type("crontab", (), {f"_orig_{name}": "*" for name in names} | {"_orig_hour": "3", "_orig_minute": 0})()
    interval = type("schedule", (), {"run_every": timedelta(seconds=5)})()
    solar = type("solar", (), {})()
    entries = {
        "a": {"task": "t", "schedule": theirs, "args": (1,)},
        "b": {"task": "t", "schedule": interval},
        "c": {"task": "t", "schedule": 30.0},
        "d": {"task": "t", "schedule": solar},
    }
    found = found_in({"beat_schedule": entries})
    taken = {name: entry["schedule"] for name, entry in found.settings["BEAT_SCHEDULE"].items()}
    assert taken == {"a": crontab(minute="0", hour="3"), "b": schedule(5), "c": 30.0}
    assert "beat_schedule['d']" in found.remarks[0]


def test_what_is_printed_is_python_that_djtasks_takes(db):
    given = {
        "broker_url": "redis://host/1",
        "task_routes": {"a.*": {"queue": "q"}},
        "beat_schedule": {"a": {"task": "t", "schedule": timedelta(hours=1)}},
        "worker_pool": "threads",
    }
    namespace = {}
    exec("\n".join(as_source(found_in(given).settings)), namespace)
    read = Settings(namespace["DJTASKS"])
    assert (read.unknown, list(read.problems())) == ([], [])


# The tables


def test_rows_of_django_celery_beat_become_schedules(celery_tables):
    found = found_in({"broker_url": "redis://"})
    rows = {row.name: row for row in found.rows}
    assert rows.keys() == {"nightly", "often", "once"}
    nightly = rows["nightly"]
    assert (nightly.schedule, nightly.timezone) == (str(crontab("30", "4", "mon,wed")), "Europe/Berlin")
    assert (nightly.args, nightly.kwargs, nightly.queue) == ("[1]", '{"a": 2}', "slow")
    assert (nightly.priority, nightly.expires, nightly.enabled, nightly.one_off) == (6, 60.0, True, False)
    assert (rows["often"].schedule, rows["often"].enabled) == (str(schedule(600)), False)
    assert rows["often"].start_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert rows["often"].end_at == datetime(2031, 1, 1, tzinfo=UTC)
    assert rows["once"].schedule == str(clocked(datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)))
    assert [remark.split(" is left out")[0] for remark in found.remarks] == [
        "The periodic task 'at sunset'",
        "The periodic task 'broken'",
        "Schedules name tasks that are not registered here, or not yet: shop.report, shop.sync.",
    ]


def test_an_interval_goes_on_from_its_last_run_and_what_is_left_behind_is_said(celery_tables):
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_celery_beat_periodictask SET start_time = NULL, expires = NULL, enabled = 1, "
            "last_run_at = '2026-01-01 00:03:00', description = 'why', exchange = 'e' WHERE name = 'often'"
        )
    assert "The periodic task 'often': description, exchange has no place here, and is left behind." in run("--write")
    often = PeriodicTask.objects.get(name="often")
    assert often.start_at == datetime(2026, 1, 1, 0, 3, tzinfo=UTC)
    assert (often.next_run_at - often.start_at) % timedelta(minutes=10) == timedelta(0)
    assert often.next_run_at - datetime.now(UTC) <= timedelta(minutes=10)


def test_schedules_are_listed_with_all_that_is_not_as_usual(celery_tables):
    said = run()
    assert 'shop.report, 30 4 * * 1,3 (Europe/Berlin), args [1], kwargs {"a": 2}, queue slow, priority' in said
    assert "expires after 60 s" in said
    assert "counted from 2030-01-01 00:00:00 UTC, until 2031-01-01 00:00:00 UTC, disabled" in said


def test_the_master_that_sentinels_name_is_read_from_the_options_of_the_transport(db):
    url = "sentinel://:pw@a:26379/2;sentinel://b:26379"
    found = found_in({"broker_url": url, "broker_transport_options": {"master_name": "main"}})
    assert found.settings["BROKER_URL"] == "redis+sentinel://:pw@a:26379,b:26379/2?service=main"
    assert found.remarks == []


def test_annotations_are_said_to_belong_to_the_tasks(db):
    found = found_in({"task_annotations": {"shop.sync": {"rate_limit": "10/s"}, "*": {"time_limit": 5}}})
    assert found.remarks == [
        "task_annotations['shop.sync']: give rate_limit to that task's @shared_task(…).",
        "task_annotations['*']: give time_limit to a class that tasks have as `base`.",
    ]


def test_nothing_is_stored_unless_asked_for_and_nothing_twice(celery_tables, celery_settings):
    assert "Nothing was stored yet" in run()
    assert not PeriodicTask.objects.exists()
    assert "3 stored" in run("--write")
    assert set(PeriodicTask.objects.values_list("name", flat=True)) == {"nightly", "often", "once"}
    assert PeriodicTask.objects.get(name="nightly").next_run_at is not None
    assert "0 stored; 3 have names that are taken" in run("--write")


# The command


def test_it_prints_the_settings_without_the_password(db, celery_settings):
    said = run()
    assert "'TASK_TIME_LIMIT': 30" in said
    assert "'tidy': {'task': 'shop.tidy', 'schedule': 30.0}" in said
    assert "result_backend: results are rows" in said
    assert "secret" not in said
    assert "No schedules of django-celery-beat were found" in said


def test_it_reads_another_namespace_or_an_app(db, settings):
    settings.JOBS_TASK_ACKS_LATE = True
    assert "'TASK_ACKS_LATE': True" in run("--namespace", "JOBS")
    with module("celery_project", app=SimpleNamespace(conf=SimpleNamespace(changes={"worker_concurrency": 7}))):
        assert "'WORKER_CONCURRENCY': 7" in run("--app", "celery_project:app")


def test_of_an_app_neither_its_defaults_are_read_nor_what_else_stands_in_djangos_settings(db):
    """`app.conf.changes` gives all of that, where the app reads `django.conf:settings`."""
    usual = {"task_acks_late": False, "task_time_limit": None}
    changes = {**usual, "task_time_limit": 30, "CELERY_TASK_TIME_LIMIT": 30, "SECRET_KEY": "nobody's business"}
    app = SimpleNamespace(conf=SimpleNamespace(changes=changes, maps=[changes, usual]))
    with module("celery_project", app=app):
        said = run("--app", "celery_project:app")
    assert "'TASK_TIME_LIMIT': 30" in said
    assert "ACKS_LATE" not in said
    assert "SECRET_KEY" not in said


def test_the_value_of_a_setting_that_it_does_not_know_is_not_shown(db, settings):
    settings.CELERY_BROKER_READ_URL = "redis://:nobodys-business@host/1"
    said = run()
    assert "broker_read_url has no counterpart" in said
    assert "nobodys-business" not in said


def test_modules_to_import_add_up(db):
    found = found_in({"imports": ("shop.a", "shop.b"), "include": ["shop.b", "shop.c"]})
    assert found.settings["IMPORTS"] == ["shop.a", "shop.b", "shop.c"]


def test_routes_given_as_pairs_keep_their_order_and_have_their_priorities_turned(db):
    pairs = [("shop.mail_*", {"queue": "mail"}), ("shop.add", {"queue": "fast", "priority": 0})]
    found = found_in({"broker_url": "redis://", "task_routes": (pairs,)})
    assert list(found.settings["TASK_ROUTES"].items()) == [
        ("shop.mail_*", {"queue": "mail"}),
        ("shop.add", {"queue": "fast", "priority": 9}),
    ]


def test_options_of_an_entry_that_mean_nothing_here_are_named_and_left_out(db):
    entry = {"task": "shop.a", "schedule": 30.0, "relative": True, "options": {"countdown": 3, "queue": "slow"}}
    found = found_in({"beat_schedule": {"often": entry}})
    assert found.settings["BEAT_SCHEDULE"]["often"] == {
        "task": "shop.a",
        "schedule": 30.0,
        "options": {"queue": "slow"},
    }
    assert found.remarks == ["beat_schedule['often']: countdown, relative means nothing here."]


def test_an_app_that_there_is_not_is_an_error(db):
    with pytest.raises(CommandError, match=r"There is no Celery app 'no\.such:app'"):
        run("--app", "no.such:app")


def test_what_djtasks_would_refuse_is_left_out_or_becomes_what_it_takes(db):
    found = found_in(
        {
            "result_expires": 0,
            "worker_concurrency": 0,
            "timezone": ZoneInfo("Europe/Berlin"),
            "task_time_limit": "x",
            "beat_schedule": [1],
            "imports": 5,
            "task_routes": {re.compile(r"feed\..*"): {"queue": "feeds"}, "b": {"routing_key": "y"}},
        }
    )
    assert found.settings == {
        "RESULT_EXPIRES": None,
        "WORKER_CONCURRENCY": None,
        "TIMEZONE": "Europe/Berlin",
        "TASK_ROUTES": {re.compile(r"feed\..*"): {"queue": "feeds"}},
    }
    assert len(found.remarks) == 4
    assert Settings(found.settings).problems() == []
    made = {}
    exec("\n".join(as_source(found.settings)), made)
    assert made["DJTASKS"] == found.settings


def test_an_interval_beyond_all_time_is_left_out(celery_tables):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_celery_beat_intervalschedule SET every = 2147483647, period = 'days'")
    assert "'often' is left out" in run()


@pytest.mark.parametrize("url", ["redis://u:pw1/x@h/0", "sentinel://:pw1@a;sentinel://:pw1@b", "redis://:pw1[@h"])
def test_no_password_is_printed_however_malformed_the_url_is(db, settings, url):
    settings.CELERY_BROKER_URL = url
    assert "pw1" not in run()
