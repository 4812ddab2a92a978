"""What `manage.py check` says of settings and tasks."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.core import checks
from django.core.checks import run_checks
from django.db import connections
from psycopg import IsolationLevel

from djtasks import checks as ours
from djtasks import shared_task, store_checks
from djtasks.worker import pools
from tests.site import Site


def said(settings, **djtasks):
    settings.DJTASKS = djtasks
    return [(each.id, each.msg, each.hint) for each in ours.check_settings()]


def test_good_settings_are_passed_in_silence(settings):
    assert said(settings, BROKER_URL="database://", TASK_ROUTES={"a": "b"}) == []


@pytest.mark.parametrize(
    ("alias", "options", "level"),
    [
        ("postgresql", {"isolation_level": IsolationLevel.SERIALIZABLE}, "SERIALIZABLE"),
        ("postgresql", {"isolation_level": IsolationLevel.REPEATABLE_READ}, "REPEATABLE READ"),
        ("postgresql", {"options": "-c default_transaction_isolation=serializable -c lock_timeout=1"}, "serializable"),
        ("postgresql", {"options": r"-c default_transaction_isolation=repeatable\ read"}, "repeatable read"),
        ("mariadb", {"isolation_level": "repeatable read"}, "repeatable read"),
        ("mariadb", {"isolation_level": None}, "whatever is the server's default"),
        ("default", {"isolation_level": "not of SQLite"}, None),
        ("postgresql", {"isolation_level": IsolationLevel.READ_COMMITTED}, None),
        ("postgresql", {"options": r"-c default_transaction_isolation=read\ committed -c lock_timeout=1"}, None),
        ("mariadb", {"isolation_level": "READ COMMITTED"}, None),
        ("mariadb", {}, None),
    ],
)
def test_another_isolation_level_than_read_committed_is_an_error(settings, monkeypatch, alias, options, level):
    if alias not in connections.settings:
        pytest.skip(f"{alias} is missing")
    monkeypatch.setitem(connections.settings[alias], "OPTIONS", options)
    found = said(settings, DATABASE=alias)
    if level is None:
        assert found == []
        return
    ((which, text, hint),) = found
    assert which == "djtasks.E011"
    assert text.endswith(f"than READ COMMITTED: {level}.")
    assert "isolation_level" in hint


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_server_whose_default_is_another_isolation_level_is_an_error(database):
    assert ours.check_server_isolation(databases=[database]) == []
    set_level = {
        "postgresql": "SET default_transaction_isolation TO 'serializable'",
        "mysql": "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    }
    with connections[database].cursor() as cursor:
        cursor.execute(set_level[connections[database].vendor])
    (error,) = ours.check_server_isolation(databases=[database])
    assert (error.id, error.msg.lower().endswith("serializable.")) == ("djtasks.E011", True)


def test_the_checks_run_with_those_of_django():
    assert [each for each in run_checks() if each.id and each.id.startswith("djtasks")] == []


def test_an_unknown_setting_is_an_error_that_names_the_nearest(settings):
    ((which, text, hint), (_, other, _)) = said(settings, TASK_ACK_LATE=True, zzzzzz=1)
    assert (which, text) == ("djtasks.E002", "DJTASKS has an unknown setting 'TASK_ACK_LATE'.")
    assert hint == "Did you mean 'TASK_ACKS_LATE'?"
    assert "'zzzzzz'" in other


def test_a_setting_in_small_letters_is_told_its_name(settings):
    ((_, _, hint),) = said(settings, broker_url="database://")
    assert hint == "Did you mean 'BROKER_URL'?"


def test_what_is_no_dict_is_an_error(settings):
    settings.DJTASKS = "database://"
    (error,) = ours.check_settings()
    assert (error.id, error.msg) == ("djtasks.E001", "DJTASKS must be a dict, not str.")


def test_an_unknown_database_is_an_error_that_names_those_that_there_are(settings):
    ((which, text, hint),) = said(settings, DATABASE="jobs")
    assert (which, text) == ("djtasks.E003", "DJTASKS['DATABASE'] is 'jobs', which DATABASES does not have.")
    assert "default" in hint


@pytest.mark.parametrize(
    ("pool", "why"),
    [
        ({"WORKER_POOL": "eventlet"}, "gevent or asyncio"),
        ({"WORKER_POOL": "threds"}, "There are: prefork, threads"),
        ({"WORKER_POOL": "threads", "WORKER_CONCURRENCY": "2x"}, "2x8"),
        ({"WORKER_POOL": "prefork", "WORKER_CONCURRENCY": "2x8"}, "-P threads"),
        ({"WORKER_CONCURRENCY": 0}, "WORKER_CONCURRENCY"),
    ],
)
def test_a_pool_that_cannot_be_is_an_error(settings, pool, why):
    ((which, text, _),) = said(settings, **pool)
    assert which == "djtasks.E007"
    assert why in text


def test_a_pool_that_only_the_workers_machine_may_have_is_no_error(settings, monkeypatch):
    monkeypatch.setattr(pools, "find_spec", lambda name: None)
    assert said(settings, WORKER_POOL="gevent", WORKER_CONCURRENCY="2x100") == []


@pytest.mark.parametrize("url", ["amqp://guest@localhost//", "database://other"])
def test_a_broker_that_cannot_be_is_an_error(settings, url):
    ((which, text, _),) = said(settings, BROKER_URL=url)
    assert which == "djtasks.E004"
    assert "BROKER_URL" in text


@pytest.mark.parametrize(
    ("routes", "why"),
    [
        (5, "its dotted path"),
        ("no.such.router", "'no.such.router', which cannot be imported"),
        ([{"a": "b"}, 5], "not 5"),
        ({"a": {"que": "b"}}, "cannot set 'que'. Did you mean 'queue'?"),
        ({"a": {"countdown": 5}}, "There are: queue, priority, expires, time_limit, soft_time_limit."),
        ({"a": {"priority": 101}}, "priority must be a whole number from -100 to 100"),
        ({"a": "x" * 129}, "queue must be 1 to 128 printable characters"),
        ({"a": 5}, "neither a queue's name nor a dict"),
        ({"a": {}}, "neither a queue's name nor a dict"),
    ],
)
def test_routes_that_cannot_be_are_an_error(settings, routes, why):
    ((which, text, _),) = said(settings, TASK_ROUTES=routes)
    assert which == "djtasks.E005"
    assert why in text


def test_mail_that_would_be_queued_for_ever_is_an_error(settings):
    ((which, _, _),) = said(settings, EMAIL_BACKEND="djtasks.mail.EmailBackend")
    assert which == "djtasks.E006"


@pytest.mark.usefixtures("own_tasks")
def test_what_is_nearly_an_option_of_a_task_is_warned_of():
    @shared_task(name="misspelt", max_retry=5, team="billing", queues="x")
    def misspelt():
        pass

    found = {each.msg.split("'")[1]: each for each in ours.check_tasks()}
    assert set(found) == {"max_retry", "queues"}
    assert (found["max_retry"].id, found["max_retry"].hint) == ("djtasks.W002", "Did you mean 'max_retries'?")
    assert "The task misspelt has" in found["queues"].msg


def test_the_tasks_of_djtasks_and_of_the_tests_are_not_warned_of():
    assert ours.check_tasks() == []


def test_sqlite_without_its_options_is_warned_of_with_the_exact_options(tmp_path):
    site = Site(tmp_path)
    site.settings()
    finished = site.manage("check", "--database", "default")
    assert finished.returncode == 0
    assert "djtasks.W001" in finished.stderr
    assert '"OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"' in finished.stderr
    assert "W001" not in site.manage("check").stderr


def test_sqlite_with_its_options_is_passed_in_silence():
    assert ours.check_sqlite_options(databases=["default"]) == []
    assert ours.check_sqlite_options(databases=None) == []


def test_each_error_has_a_hint(settings):
    settings.DJTASKS = {"UNKNOWN": 1, "DATABASE": "no", "TASK_ROUTES": 5}
    assert all(each.hint and isinstance(each, checks.Error) for each in ours.check_settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_CONCURRENCY", 4.5),
        ("WORKER_CONCURRENCY", 0),
        ("RESULT_EXPIRES", "7d"),
        ("ERROR_EMAILS", ["nobody"]),
        ("ERROR_EMAILS", 5),
        ("TASK_DEFAULT_PRIORITY", 101),
        ("TASK_DEFAULT_PRIORITY", True),
        ("TASK_DEFAULT_QUEUE", None),
        ("RUNSERVER_WORKER", "no"),
        ("TASK_ACKS_LATE", "false"),
        ("WORKER_HEARTBEAT", 0),
        ("IMPORTS", [1]),
        ("MAX_MESSAGE_BYTES", 1.5),
        ("BROKER_TIMEOUT", float("inf")),
        ("RESULT_EXPIRES", timedelta(days=1_000_000)),
    ],
)
def test_a_value_that_does_not_fit_its_setting_is_an_error_that_names_both(settings, name, value):
    ((which, text, _),) = said(settings, **{name: value})
    assert which == "djtasks.E007"
    assert f"DJTASKS[{name!r}] must be" in text
    assert repr(value) in text


def test_workers_must_beat_more_often_than_they_are_given_up(settings):
    ((which, text, _),) = said(settings, WORKER_HEARTBEAT=20, WORKER_LOST_AFTER=10)
    assert which == "djtasks.E007"
    assert "at least 3 times" in text


def test_the_defaults_are_right(settings):
    assert said(settings) == []


def test_a_route_with_a_misspelt_key_is_an_error(settings):
    ((which, text, _),) = said(settings, TASK_ROUTES={"shop.*": {"que": "mail"}})
    assert which == "djtasks.E005"
    assert "shop.*" in text


def test_a_soft_time_limit_that_never_comes_is_warned_of(settings):
    ((which, text, hint),) = said(settings, TASK_TIME_LIMIT=30, TASK_SOFT_TIME_LIMIT=30)
    assert (which, "(30 s) is not below" in text, "some seconds" in hint) == ("djtasks.W008", True, True)
    assert said(settings, TASK_TIME_LIMIT=30, TASK_SOFT_TIME_LIMIT=25) == []
    assert said(settings, TASK_SOFT_TIME_LIMIT=25) == []


@pytest.mark.usefixtures("own_tasks")
def test_a_task_whose_time_limits_contradict_one_another_or_the_settings_is_warned_of(settings):
    @shared_task(name="impossible", soft_time_limit=60)
    def impossible():
        pass

    assert ours.check_tasks() == []
    settings.DJTASKS = {"TASK_TIME_LIMIT": 30}
    (warning,) = ours.check_tasks()
    assert (warning.id, "The task impossible: soft_time_limit" in warning.msg) == ("djtasks.W010", True)
    assert "TASK_TIME_LIMIT" in warning.hint


@pytest.mark.parametrize(
    ("product", "version", "is_too_old"),
    [
        ("SQLite", (3, 34, 1), True),
        ("SQLite", (3, 35, 0), False),
        ("MySQL", (5, 7, 44), True),
        ("MySQL", (8, 0, 11), False),
        ("MariaDB", (10, 5, 27), True),
        ("MariaDB", (10, 6, 1), False),
        ("postgresql", (), False),
    ],
)
def test_a_database_that_cannot_claim_jobs_is_an_error(product, version, is_too_old):
    found = store_checks.too_old(product, version)
    assert [each.id for each in found] == ["djtasks.E013"] * is_too_old
    assert all(f"{product} {'.'.join(map(str, version))}; djtasks needs" in each.msg and each.hint for each in found)


def test_the_databases_of_the_tests_are_new_enough(database):
    assert store_checks.check_version(databases=[database]) == []
    assert store_checks.check_version(databases=None) == []


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_another_database_with_tables_is_passed_in_silence(database):
    assert store_checks.check_tables(databases=[database]) == []


def test_another_database_without_tables_is_warned_of(tmp_path):
    site = Site(tmp_path)
    site.settings(more='DATABASES["jobs"] = {**DATABASES["default"], "NAME": "jobs.sqlite3"}', DATABASE="jobs")
    said = site.manage("check", "--database", "jobs").stderr
    assert "djtasks.W009" in said
    assert "manage.py migrate djtasks --database=jobs" in said
    assert "W009" not in site.manage("check").stderr


def test_each_check_is_in_the_list_of_the_documents():
    root = Path(ours.__file__).parent
    found = [re.findall(r'id="(djtasks\.[EW]\d+)"', path.read_text()) for path in root.rglob("*.py")]
    listed = re.findall(r"^\| `(djtasks\.[EW]\d+)`", (root.parent / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert sorted({code for each in found for code in each}) == sorted(listed)


def test_a_token_that_is_refused_is_not_shown(settings):
    settings.DJTASKS = {**settings.DJTASKS, "METRICS_TOKEN": "tooshort"}
    (problem,) = ours.check_settings()
    assert "DJTASKS['METRICS_TOKEN'] must be a text of 16 or more ASCII characters" in problem.msg
    assert "tooshort" not in problem.msg


def test_a_default_queue_that_no_call_could_name_is_an_error(settings):
    ((which, text, _),) = said(settings, TASK_DEFAULT_QUEUE="q" * 300)
    assert (which, "TASK_DEFAULT_QUEUE" in text) == ("djtasks.E007", True)


@pytest.mark.parametrize("options", [None, [], "prefix"])
def test_options_of_the_broker_that_are_no_dict_are_told_though_databases_are_asked(tmp_path, options):
    site = Site(tmp_path)
    site.settings(BROKER_OPTIONS=options)
    said = site.manage("check", "--database", "default").stderr
    assert "(djtasks.E007) DJTASKS['BROKER_OPTIONS'] must be a dict" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa[ss"])
def test_a_password_that_is_not_encoded_is_told_how_and_not_shown(settings, password):
    ((which, text, _),) = said(settings, BROKER_URL=f"redis://:{password}@127.0.0.1/7")
    assert which == "djtasks.E004"
    assert "%2F" in text
    assert password not in text


@pytest.mark.parametrize(
    "routes",
    [{1: "q"}, "./routes.f", {"a": {"time_limit": "x"}}, {"a": {"expires": "x"}}],
)
def test_routes_that_would_fail_at_each_call_are_an_error(settings, routes):
    ((which, _, _),) = said(settings, TASK_ROUTES=routes)
    assert which == "djtasks.E005"


def test_a_schedule_whose_task_is_no_text_is_an_error(settings):
    settings.DJTASKS = {"BEAT_SCHEDULE": {"odd": {"task": ["x"], "schedule": 5}}}
    assert [each.id for each in ours.check_schedules()] == ["djtasks.E010"]
