"""A job as Python that can be copied: the call, and the test."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User

from djtasks import encoding, registry, shared_task, states
from djtasks.admin.source import copies
from djtasks.models import Job
from tests.tasks import add

VALUES = [
    7, -1.5, True, None, "it's \"quoted\"\n\x00\u202e", b"\x00", (1,), (), [], {}, {1, 2}, frozenset({3}), set(),
    {"a": [1, {"b": (2, 3)}], 4: "x"}, Decimal("1.20"), UUID(int=7), datetime.date(2026, 1, 2), datetime.time(1, 2),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(days=1, seconds=2), float("inf"),
]  # fmt: skip
SEEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = []


@dataclass
class Order:
    number: int


@shared_task
def take(*args: Any, **kwargs: Any) -> None:
    SEEN.append((args, kwargs))


@shared_task
def take_order(order: Order) -> int:
    SEEN.append(((order,), {}))
    return order.number


@shared_task
async def wait_for(seconds: int) -> None:
    SEEN.append(((seconds,), {}))


@pytest.fixture(autouse=True)
def _nothing_seen(db: None) -> None:
    SEEN.clear()


def job(task: Any, *args: Any, **kwargs: Any) -> Job:
    name = task if isinstance(task, str) else task.name
    written = encoding.encode_arguments(args, kwargs)
    return Job(id="job-1", task=name, args=written[0], kwargs=written[1], state=states.FAILURE, exception="ValueError")


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def run_test(code: str) -> None:
    names = run(code)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test()


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_test_calls_the_task_with_the_same_values(value: Any) -> None:
    run_test(copies(job(take, value, x=value)).test)
    assert [((value,), {"x": value})] == SEEN


def test_the_call_sends_such_a_job() -> None:
    code = copies(job(take, 1, "two", x=Decimal(3))).call
    assert code == "from decimal import Decimal\nfrom tests.admin.test_admin_source import take\n\n\n" + (
        "take.delay(1, 'two', x=Decimal('3'))\n"
    )
    run(code)
    assert Job.objects.get().arguments() == ([1, "two"], {"x": Decimal(3)})


def test_the_test_names_the_job_and_its_error() -> None:
    assert copies(job(add, 1, 2)).test == (
        "import pytest\nfrom tests.tasks import add\n\n\n"
        "@pytest.mark.django_db\ndef test_add() -> None:\n"
        "    # Job job-1 ended as FAILURE with ValueError.\n"
        "    add(1, 2)\n"
    )


def test_long_calls_have_an_argument_a_line() -> None:
    code = copies(job(take, "x" * 90, y="z" * 90)).test
    assert f"    take(\n        '{'x' * 90}',\n        y='{'z' * 90}',\n    )\n" in code
    run_test(code)


def test_what_a_worker_makes_of_arguments_the_test_does_too() -> None:
    run_test(copies(job(take_order, {"number": 7})).test)
    assert [((Order(7),), {})] == SEEN
    run_test(copies(job(wait_for, 1)).test)
    assert SEEN[-1] == ((1,), {})


def test_an_object_is_fetched_from_its_table() -> None:
    user = User.objects.create(username="ann")
    run_test(copies(job(take, user)).test)
    assert [((user,), {})] == SEEN


def test_names_that_are_no_identifiers_are_given_too() -> None:
    run_test(copies(job(take, **{"a b": 1, "class_": 2})).test)
    assert SEEN == [((), {"a b": 1, "class_": 2})]


def test_a_task_that_cannot_be_imported_is_sent_by_its_name() -> None:
    code = copies(job("gone.task", 1, x=2)).call
    assert code == "from djtasks import send_task\n\n\nsend_task('gone.task', [1], {'x': 2})\n"
    assert copies(job("gone.task")).test == ""


def test_a_task_of_another_name_is_taken_from_the_registry() -> None:
    @shared_task(name="tests.named-otherwise")
    def other() -> None:
        SEEN.append(((), {}))

    try:
        code = copies(job(other)).test
        assert "registry.get('tests.named-otherwise')()" in code
        run_test(code)
    finally:
        registry.unregister("tests.named-otherwise")


def test_a_hostile_name_stays_a_text() -> None:
    code = copies(job('x\')\nimport os #"""', 1)).call
    assert "send_task('x\\')\\nimport os #\"\"\"', [1], {})" in code


def test_there_is_nothing_to_copy_of_what_was_not_kept_or_cannot_be_read() -> None:
    assert copies(Job(id="x", task=add.name, args="null", kwargs="null")).call == ""
    assert copies(Job(id="x", task=add.name, args="{", kwargs="{}")).test == ""
    assert copies(job(add, "x" * 100_000)).call == ""
