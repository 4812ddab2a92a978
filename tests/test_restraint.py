"""Limits as they are declared: rates, how many at a time, and by which key."""

import pytest

from djtasks import Task, checks, rates, restraint, shared_task
from djtasks.message import Message, new_id
from djtasks.models import Limit
from djtasks.publish import build

pytestmark = pytest.mark.usefixtures("own_tasks")


@pytest.mark.parametrize(
    ("rate", "interval"),
    [
        ("10/s", 0.1),
        ("10/m", 6.0),
        ("10/h", 360.0),
        ("2/d", 43200.0),
        (" 10 / m ", 6.0),
        ("0.5/s", 2.0),
        ("5", 0.2),
        (5, 0.2),
        (None, None),
        ("", None),
        ("none", None),
    ],
)
def test_a_rate_is_an_interval(rate, interval):
    assert rates.interval_of(rate) == interval


@pytest.mark.parametrize("rate", ["10/x", "ten/m", "-1/s", "0/m", 0, True, [], "1/s/s", "1e9/s", "10001/s", "0.0001/d"])
def test_what_is_no_rate_is_an_error_that_says_how_one_is_written(rate):
    with pytest.raises(ValueError, match="A rate is written as '10/s'"):
        rates.interval_of(rate)


def declare(**options):
    @shared_task(name="shop.tasks.sync", **options)
    def sync(account_id, *rest, full=False, **more):
        pass

    return sync


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rate_limit": "10/x"}, "rate_limit. A rate is written"),
        ({"max_concurrency": 0}, "max_concurrency is how many"),
        ({"max_concurrency": "3"}, "max_concurrency is how many"),
        ({"max_concurrency": True}, "max_concurrency is how many"),
        ({"rate_limit": "1/s", "rate_limit_key": 5}, "rate_limit_key is the name of an argument"),
    ],
)
def test_a_limit_that_cannot_be_is_an_error_where_the_task_is_declared(options, told):
    with pytest.raises(ValueError, match=f"sync.*{told}"):
        declare(**options)


def test_a_key_that_is_no_argument_is_an_error_that_names_those_there_are():
    with pytest.raises(ValueError, match="Its arguments: account, page"):

        @shared_task(rate_limit="1/s", rate_limit_key="acount")
        def sync(account, page=1):
            pass


@pytest.mark.parametrize(
    ("key", "args", "kwargs", "expected"),
    [
        (None, (1,), {}, "shop.tasks.sync"),
        ("account_id", (17,), {}, "shop.tasks.sync[17]"),
        ("account_id", (), {"account_id": "a b"}, "shop.tasks.sync[a b]"),
        ("full", (17,), {}, "shop.tasks.sync[False]"),
        ("region", (17,), {"region": "eu"}, "shop.tasks.sync[eu]"),
        ("region", (17,), {}, "shop.tasks.sync[None]"),
        (lambda account_id, *rest, **more: account_id % 3, (17,), {}, "shop.tasks.sync[2]"),
        (lambda account_id, *rest, **more: 1 / 0, (17,), {}, "shop.tasks.sync[?]"),
    ],
)
def test_the_key_of_a_job_is_its_task_with_the_value(key, args, kwargs, expected):
    task = declare(rate_limit="1/s", rate_limit_key=key)
    limits = restraint.restraint_on(task, {})
    assert limits.key_of_rate(build(task.name, args, kwargs, {}, task)) == expected


def test_a_key_whose_arguments_cannot_be_read_is_a_key_of_its_own():
    task = declare(max_concurrency=1, max_concurrency_key="account_id")
    message = Message(id=new_id(), task=task.name, args="no json")
    assert restraint.restraint_on(task, {}).key_of_places(message) == "shop.tasks.sync[?]"


@pytest.mark.parametrize("error", [ValueError, RecursionError, SystemExit, KeyboardInterrupt])
def test_a_function_that_raises_does_no_harm_and_is_told_of(error, caplog):
    def key(*args, **kwargs):
        raise error("no key")

    task = declare(rate_limit="1/s", rate_limit_key=key)
    message = build(task.name, (5,), {}, {}, task)
    assert restraint.restraint_on(task, {}).key_of_rate(message) == "shop.tasks.sync[?]"
    assert "no key" in caplog.text


def test_long_keys_are_shortened_and_stay_apart():
    keys = {restraint.shortened("t[" + "x" * 500 + str(number) + "]") for number in range(3)}
    assert len(keys) == 3
    assert max(map(len, keys)) <= restraint.LONGEST_KEY


def test_a_function_of_a_class_is_a_key_too():
    class Sync(Task):
        name = "shop.tasks.sync"
        max_concurrency = 2
        max_concurrency_key = staticmethod(lambda account: account)

        def run(self, account):
            pass

    message = build("shop.tasks.sync", (5,), {}, {})
    assert restraint.restraint_on(Sync(), {}).key_of_places(message) == "shop.tasks.sync[5]"


def test_an_operators_rate_goes_before_the_tasks_and_that_before_the_setting(settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_DEFAULT_RATE_LIMIT": "1/s"}
    own, general = declare(rate_limit="10/s"), declare()
    exempt = declare(rate_limit="none")
    assert restraint.restraint_on(own, {own.name: "5/s"}).interval == 0.2
    assert restraint.restraint_on(own, {own.name: "none"}) is None
    assert restraint.restraint_on(own, {}).interval == 0.1
    assert restraint.restraint_on(general, {}).interval == 1.0
    assert restraint.restraint_on(exempt, {}) is None


def test_a_queues_limits_count_where_a_task_has_none_of_that_kind(settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_DEFAULT_RATE_LIMIT": "1/s"}
    message = build("shop.tasks.sync", (5,), {}, {"queue": "mail"})
    plain = restraint.restraint_on(declare(), {}, ("20/s", 3))
    assert (plain.interval, plain.places) == (0.05, 3)
    assert (plain.key_of_rate(message), plain.key_of_places(message)) == ("queue:mail", "queue:mail")
    own = restraint.restraint_on(declare(rate_limit="10/s", max_concurrency=1), {}, ("20/s", 3))
    assert (own.interval, own.places) == (0.1, 1)
    assert (own.key_of_rate(message), own.key_of_places(message)) == ("shop.tasks.sync", "shop.tasks.sync")
    task = declare(rate_limit="none")
    assert restraint.restraint_on(task, {}, ("20/s", None)) is None
    assert restraint.restraint_on(declare(), {task.name: "5/s"}, ("20/s", None)).key_of_rate(message) == task.name


def test_a_task_without_limits_has_none():
    assert restraint.restraint_on(declare(), {}) is None


def test_a_default_rate_that_is_none_is_found_by_check(settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_DEFAULT_RATE_LIMIT": "many"}
    assert "djtasks.E014" in [each.id for each in checks.check_settings()]


@pytest.mark.django_db
def test_what_the_code_says_is_told_by_workers_and_forgotten_when_it_is_gone():
    Limit.objects.all().declare(restraint.declared([declare(rate_limit="10/m", max_concurrency=2)]))
    Limit.objects.create(key="shop.tasks.sync[7]", max_concurrency=2)
    assert Limit.objects.values_list("declared", "max_concurrency").get(pk="shop.tasks.sync") == ("10/m", 2)
    Limit.objects.all().declare(restraint.declared([declare()]))
    assert set(Limit.objects.values_list("declared", "max_concurrency")) == {("", None)}
