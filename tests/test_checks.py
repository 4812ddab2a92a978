"""What `manage.py check` says of settings and tasks."""

import pytest
from django.core import checks
from django.core.checks import run_checks

from djtasks import checks as ours
from djtasks import shared_task
from tests.site import Site


def said(settings, **djtasks):
    settings.DJTASKS = djtasks
    return [(each.id, each.msg, each.hint) for each in ours.check_settings()]


def test_good_settings_are_passed_in_silence(settings):
    assert said(settings, BROKER_URL="database://", TASK_ROUTES={"a": "b"}) == []


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
        ("WORKER_CONCURRENCY", "4"),
        ("WORKER_CONCURRENCY", 0),
        ("RESULT_EXPIRES", "7d"),
        ("TASK_DEFAULT_PRIORITY", 101),
        ("TASK_DEFAULT_PRIORITY", True),
        ("TASK_DEFAULT_QUEUE", None),
        ("RUNSERVER_WORKER", "no"),
        ("TASK_ACKS_LATE", "false"),
        ("WORKER_HEARTBEAT", 0),
        ("IMPORTS", [1]),
        ("MAX_MESSAGE_BYTES", 1.5),
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


def test_a_setting_that_does_nothing_yet_is_told(settings):
    ((which, text, _),) = said(settings, TRACE_ENQUEUE=True)
    assert (which, text) == ("djtasks.W003", "DJTASKS['TRACE_ENQUEUE'] does nothing in this version.")
