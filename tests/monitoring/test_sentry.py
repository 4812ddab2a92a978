"""Errors of jobs, as Sentry gets them."""

import json
import logging

import pytest
import sentry_sdk

from djtasks import shared_task
from djtasks.masking import MASK
from tests import tasks
from tests.executing import execute
from tests.monitoring.reporting import report_into
from tests.site import Site
from tests.waiting import wait_until


def events_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def events(tmp_path, own_tasks):
    """What is reported meanwhile."""
    path = tmp_path / "events"
    with sentry_sdk.isolation_scope(), sentry_sdk.new_scope():
        report_into(path)
        yield lambda: events_in(path)
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)


@pytest.mark.every_broker
def test_a_job_that_fails_in_a_real_child_is_one_event_with_its_job(start_worker, settings, tmp_path):
    path = tmp_path / "events"
    imports = [*settings.DJTASKS["IMPORTS"], "tests.monitoring.reporting"]
    worker = start_worker("-c", "1", env={"DJTASKS_TEST_EVENTS": str(path)}, IMPORTS=imports)
    result = tasks.fail.delay("out of stock")
    wait_until(lambda: events_in(path))
    assert worker.stop() == 0
    (event,) = events_in(path)
    assert event["exception"]["values"][-1]["value"] == "('out of stock', 42)"
    assert event["exception"]["values"][-1]["mechanism"] == {"type": "djtasks", "handled": False}
    assert event["transaction"] == "tests.tasks.fail"
    about = event["contexts"]["djtasks"]
    assert (about["task"], about["id"], about["root_id"]) == ("tests.tasks.fail", result.id, result.id)
    assert (about["queue"], about["retries"], about["args"]) == ("default", 0, ["out of stock"])
    assert about["worker"].startswith("worker@")
    assert event["tags"]["djtasks.task"] == "tests.tasks.fail"


def test_what_is_sensitive_is_nowhere_in_the_event(events):
    @shared_task(name="tests.pay", sensitive_arguments=["iban"])
    def pay(iban, password, card=None):
        copied = f"payment from {iban}"
        logging.getLogger("shop").warning("paying with %s", password)
        raise RuntimeError(f"{copied} with {password} failed", card)

    execute(pay, "DE00 1234", "tr0ub4dor", kwargs={"card": {"token": "4111-1111"}})
    (event,) = events()
    text = json.dumps(event)
    assert not [secret for secret in ("DE00 1234", "tr0ub4dor", "4111-1111") if secret in text]
    assert event["contexts"]["djtasks"]["args"] == [MASK, MASK]
    assert event["contexts"]["djtasks"]["kwargs"] == {"card": {"token": MASK}}
    assert event["exception"]["values"][-1]["value"].startswith(f"('payment from {MASK} with {MASK} failed'")
    assert "execution.py" not in {
        frame["filename"] for frame in event["exception"]["values"][-1]["stacktrace"]["frames"]
    }


def test_arguments_can_be_left_out(tmp_path, events):
    report_into(tmp_path / "without", arguments=False)
    execute(tasks.fail, "no business of theirs")
    (event,) = events_in(tmp_path / "without")
    assert not {"args", "kwargs"} & event["contexts"]["djtasks"].keys()


def test_retries_and_errors_that_are_expected_are_no_events(events, tmp_path):
    @shared_task(name="tests.expected", throws=(ValueError,))
    def expected():
        raise ValueError("as foreseen")

    execute(expected)
    execute(tasks.succeed_at, str(tmp_path / "journal"), 2)
    assert events() == []


def test_what_one_job_has_noted_is_not_in_the_events_of_the_next(events):
    @shared_task(name="tests.noting")
    def noting(text):
        sentry_sdk.set_tag("noted", text)
        sentry_sdk.add_breadcrumb(message=text)
        if text == "second":
            raise RuntimeError

    @shared_task(name="tests.failing")
    def failing():
        raise RuntimeError

    execute(noting, "first")
    execute(noting, "second")
    execute(failing)
    second, third = events()
    assert second["tags"]["noted"] == "second"
    assert [each["message"] for each in second["breadcrumbs"]["values"]] == ["second"]
    assert "noted" not in third["tags"]


def test_what_the_task_itself_reports_has_the_job_too(events):
    @shared_task(name="tests.telling")
    def telling():
        sentry_sdk.capture_message("look here")

    execute(telling)
    (event,) = events()
    assert (event["message"], event["contexts"]["djtasks"]["task"]) == ("look here", "tests.telling")


def test_it_can_be_named_in_the_settings_where_no_model_is_loaded_yet(tmp_path):
    site = Site(tmp_path)
    init = "import sentry_sdk\nfrom djtasks.monitoring.sentry import DjtasksIntegration\n"
    site.settings(more=f"{init}sentry_sdk.init(integrations=[DjtasksIntegration()])\n")
    finished = site.manage("check")
    assert finished.returncode == 0, finished.stderr


def test_the_parameters_of_a_line_of_the_log_are_masked_too(events, own_tasks):
    @shared_task(name="tests.logs_a_secret")
    def logs(password):
        logging.getLogger("shop").error("card %s refused", password)

    execute(logs, "hunter2")
    (event,) = events()
    assert "hunter2" not in json.dumps(event)
    assert event["logentry"]["params"] == [MASK]
