"""Lines of the log that name their job."""

import json
import logging

import pytest

from djtasks import shared_task
from djtasks.monitoring.logs import JobFilter, JSONFormatter
from tests import tasks
from tests.executing import execute


class Lines(logging.Handler):
    """Keeps what it is given, as JSON."""

    def __init__(self):
        super().__init__()
        self.addFilter(JobFilter())
        self.setFormatter(JSONFormatter())
        self.all = []

    def emit(self, record):
        self.all.append(json.loads(self.format(record)))


@pytest.fixture
def lines():
    handler = Lines()
    loggers = [logging.getLogger(name) for name in ("shop", "djtasks.execution")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.all
    for logger in loggers:
        logger.removeHandler(handler)


def test_a_line_of_a_job_names_it_and_what_it_came_from(lines, own_tasks):
    @shared_task(name="tests.logging")
    def telling():
        logging.getLogger("shop").warning("sold %d", 3, extra={"customer": 7})

    execution = execute(telling, root_id="the-root")
    line = lines[0]
    assert line.pop("time").endswith("+00:00")
    assert line.pop("process")
    assert line == {
        "level": "WARNING",
        "logger": "shop",
        "message": "sold 3",
        "task_id": execution.message.id,
        "task_name": "tests.logging",
        "root_id": "the-root",
        "worker": "here",
        "customer": 7,
    }


def test_a_line_about_an_error_has_its_traceback_in_one_line(lines):
    execute(tasks.fail, "broken")
    (line,) = [each for each in lines if each["level"] == "ERROR"]
    assert "ValueError: ('broken', 42)" in line["error"]
    assert line["task_name"] == "tests.tasks.fail"


def test_outside_of_a_job_there_is_none(lines):
    logging.getLogger("shop").warning("hello %s", object)
    assert not {"task_id", "task_name", "root_id", "worker"} & lines[0].keys()


def test_what_json_does_not_know_is_written_as_text(lines):
    logging.getLogger("shop").warning("x", extra={"what": {1, 2}.__class__})
    assert lines[0]["what"] == "<class 'set'>"


def test_no_line_is_lost_for_what_json_cannot_hold(lines):
    circle = []
    circle.append(circle)
    extra = {"keys": {("a", 1): 2}, "circle": circle, "rate": float("nan"), "count": 3}
    logging.getLogger("shop").warning("sold", extra=extra)
    (line,) = lines
    assert (line["message"], line["count"], line["rate"]) == ("sold", 3, "nan")
    assert line["keys"] == "{('a', 1): 2}"
