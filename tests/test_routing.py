"""TASK_ROUTES: which queue and priority a job gets."""

import json
import re

import pytest

from djtasks import publish, routing, shared_task
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


class Older:
    def route_for_task(self, name, args=None, kwargs=None):
        return f"of {args}"


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


def test_one_pair_in_a_list_is_a_router_too(routes):
    assert routes([("nobody", "x"), ("tests.*", {"queue": "pair"})]) == ("pair", 0)


def test_a_class_of_celerys_older_kind_routes(routes):
    assert routes(Older()) == ("of (1, 2)", 0)
    assert routes("tests.test_routing.Older") == ("of (1, 2)", 0)


def test_the_route_may_depend_on_the_arguments(routes):
    def by_size(name, args, kwargs, options, task=None):
        return "large" if args[1] > 1 else None

    assert routes(by_size) == ("large", 0)


QUEUES = {
    "call": "of the call",
    "task": "of the task",
    "route": "of the route",
    "setting": "of the setting",
}
PRIORITIES = {"call": 4, "task": 3, "route": 2, "setting": 1}


@pytest.mark.parametrize("last", range(4))
def test_the_call_goes_before_the_task_that_before_the_route_and_that_before_the_settings(settings, last):
    """Each step of the table in docs/routing.md: who comes first of those that say something."""
    steps = list(QUEUES)[last:]
    options = {"name": "declared"}
    if "task" in steps:
        options |= {"queue": QUEUES["task"], "priority": PRIORITIES["task"]}
    declared = shared_task(**options)(lambda: None)
    route = {"queue": QUEUES["route"], "priority": PRIORITIES["route"]} if "route" in steps else None
    settings.DJTASKS = {
        "TASK_ROUTES": {"declared": route} if route else {},
        "TASK_DEFAULT_QUEUE": QUEUES["setting"],
        "TASK_DEFAULT_PRIORITY": PRIORITIES["setting"],
    }
    call = {"queue": QUEUES["call"], "priority": PRIORITIES["call"]} if "call" in steps else {}
    message = publish.build("declared", (), {}, call, declared)
    assert (message.queue, message.priority) == (QUEUES[steps[0]], PRIORITIES[steps[0]])
    assert message.prioritized is (last < 3)


def test_each_option_is_decided_for_itself(routes):
    @shared_task(name="declared", queue="of the task")
    def declared(x, y):
        pass

    route = {"*": {"queue": "of the route", "priority": 2}}
    assert routes(route, declared) == ("of the task", 2)
    assert routes(route, queue="of the call") == ("of the call", 2)


def test_a_router_is_told_what_the_call_and_the_task_say(routes):
    @shared_task(name="declared", queue="of the task")
    def declared(x, y):
        pass

    def see(name, args, kwargs, options, task=None):
        seen.update(options)

    seen = {}
    routes(see, declared, priority=3)
    assert seen == {"queue": "of the task", "priority": 3}


@pytest.mark.parametrize("option", ["time_limit", "soft_time_limit", "expires"])
def test_a_route_may_set_limits_and_expiry_where_call_and_task_do_not(settings, option):
    settings.DJTASKS = {"TASK_ROUTES": {"*": {option: 30}}}

    def sent(task=None, **call):
        message = publish.build("declared", (), {}, call, task)
        return message.expires_in if option == "expires" else json.loads(message.options).get(option)

    plain = shared_task(name="plain")(lambda: None)
    with_own = shared_task(name="with own", **{option: 20})(lambda: None)
    assert sent() == sent(plain) == 30
    assert sent(with_own) == (20 if option == "expires" else None)  # the worker asks the task for its limits
    assert sent(plain, **{option: 10}) == 10


def test_celerys_words_for_exchanges_are_taken_and_do_nothing(routes):
    route = {"queue": "feeds", "exchange": "feeds", "exchange_type": "topic", "routing_key": "feed.#"}
    assert routes({"*": route}) == ("feeds", 0)


def test_a_priority_of_zero_is_one(routes):
    assert routes({"*": {"priority": 9}}, priority=0) == ("default", 0)


def test_a_router_that_cannot_be_is_an_error(routes):
    with pytest.raises(ImproperlyConfigured, match="TASK_ROUTES takes a dict of patterns"):
        routes(5)
    with pytest.raises(ImproperlyConfigured, match=r"'no\.such\.router', which cannot be imported"):
        routes("no.such.router")


def test_a_bad_queue_in_a_route_is_an_error_that_names_the_route(routes):
    with pytest.raises(ImproperlyConfigured, match=r"TASK_ROUTES\['tests.\*'\] is .*queue must be 1 to 128"):
        routes({"tests.*": "x" * 129})


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (
            {"que": "x"},
            ImproperlyConfigured,
            "astray gave, for tests.tasks.add, .*cannot set 'que'. Did you mean 'queue'",
        ),
        (5, ImproperlyConfigured, "astray gave, for tests.tasks.add, 5, which is neither a queue's name nor a dict"),
        ({"queue": "x" * 129}, ValueError, "queue must be 1 to 128 printable characters"),
        ({"priority": "high"}, ValueError, "priority must be a whole number from -100 to 100"),
    ],
)
def test_a_bad_answer_of_a_router_is_an_error_at_the_caller(routes, answer, error, why):
    def astray(name, args, kwargs, options, task=None):
        return answer

    with pytest.raises(error, match=why):
        routes(astray)


def test_the_queues_that_routes_name_are_known(settings):
    settings.DJTASKS = {"TASK_ROUTES": [silent, {"a": "x", "b.*": {"queue": "y"}, "c": {"priority": 1}}, ("d", "z")]}
    assert routing.queues() == {"x", "y", "z"}
