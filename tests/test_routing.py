"""TASK_ROUTES: which queue and priority a job gets."""

import re

import pytest

from djtasks import publish, shared_task
from djtasks.exceptions import ImproperlyConfigured
from tests import tasks

pytestmark = pytest.mark.usefixtures("own_tasks")


@pytest.fixture
def routes(settings):
    """Set TASK_ROUTES, and say what a job of `tests.tasks.add` gets."""

    def place(given, task=tasks.add, **options):
        settings.DJTASKS = {"TASK_ROUTES": given}
        message = publish.build(task.name, (1, 2), {}, options, task)
        return message.queue, message.priority

    return place


def by_name(name, args, kwargs, options, task=None, **more):
    return {"queue": f"{name}/{args}/{kwargs}/{options.get('shadow')}/{task.name}", "priority": 4}


def silent(name, args, kwargs, options, task=None):
    return None


def test_without_routes_the_defaults_count(routes):
    assert routes({}) == ("default", 0)


def test_the_defaults_are_settings(settings):
    settings.DJTASKS = {"TASK_DEFAULT_QUEUE": "main", "TASK_DEFAULT_PRIORITY": -3}
    message = publish.build("x", (), {}, {})
    assert (message.queue, message.priority) == ("main", -3)


def test_a_name_is_routed(routes):
    assert routes({"tests.tasks.add": {"queue": "sums", "priority": 5}}) == ("sums", 5)


def test_a_route_may_be_just_the_queue(routes):
    assert routes({"tests.tasks.add": "sums"}) == ("sums", 0)


def test_a_glob_fits_the_whole_name(routes):
    assert routes({"tests.*": "t"}) == ("t", 0)
    assert routes({"*.add": "t"}) == ("t", 0)
    assert routes({"tests": "t"}) == ("default", 0)


def test_a_regex_fits_the_beginning_of_the_name(routes):
    assert routes({re.compile(r"(tests|shop)\.tasks"): "t"}) == ("t", 0)
    assert routes({re.compile(r"tasks"): "t"}) == ("default", 0)


def test_an_exact_name_goes_before_patterns_and_the_first_pattern_before_others(routes):
    assert routes({"tests.*": "glob", "tests.tasks.add": "exact"}) == ("exact", 0)
    assert routes({"tests.*": "first", "*": "second"}) == ("first", 0)


def test_a_function_routes_and_is_told_of_the_call(routes):
    expected = "tests.tasks.add/(1, 2)/{}/shown/tests.tasks.add"
    assert routes(by_name, shadow="shown") == (expected, 4)
    assert routes("tests.test_routing.by_name", shadow="shown") == (expected, 4)


def test_of_several_routers_the_first_that_answers_decides(routes):
    assert routes([silent, {"nobody": "x"}, {"tests.*": "third"}, {"*": "fourth"}]) == ("third", 0)


def test_pairs_of_pattern_and_route_are_a_router_too(routes):
    assert routes([[("tests.*", {"queue": "pairs"}), ("*", "rest")]]) == ("pairs", 0)


def test_the_call_goes_before_the_task_and_the_task_before_the_routes(routes):
    @shared_task(name="declared", queue="of the task", priority=1)
    def declared(x, y):
        pass

    route = {"*": {"queue": "of the route", "priority": 2}}
    assert routes(route, declared) == ("of the task", 1)
    assert routes(route, declared, queue="of the call", priority=3) == ("of the call", 3)
    assert routes(route, queue="of the call") == ("of the call", 2)


def test_a_priority_of_zero_is_one(routes):
    assert routes({"*": {"priority": 9}}, priority=0) == ("default", 0)


def test_a_router_that_cannot_be_is_an_error(routes):
    with pytest.raises(ImproperlyConfigured, match="TASK_ROUTES takes a dict of patterns"):
        routes(5)


def test_a_router_that_gives_a_bad_queue_is_an_error_at_the_caller(routes):
    with pytest.raises(ValueError, match="queue must be 1 to 128 printable characters"):
        routes({"*": {"queue": "x" * 129}})
