"""A job is run again with other arguments, by a form that its task's signature makes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from djtasks import encoding, registry, shared_task, states
from djtasks.models import Job

LIST = "/staff/djtasks/job/"


@pytest.fixture
def task() -> Iterator[Any]:
    @shared_task(name="tests.charge", bind=True)
    def charge(
        self: Any, amount: Decimal, card: str, *parts: int, password: str = "", note: str | None = None, **more: Any
    ) -> None: ...

    yield charge
    registry.unregister("tests.charge")


@pytest.fixture
def job(task: Any, make_job: Any) -> Job:
    args, kwargs = encoding.encode_arguments((Decimal("1.20"), "visa"), {"password": "concealed", "zone": "eu"})
    made: Job = make_job(states.FAILURE, task=task.name, args=args, kwargs=kwargs, queue="mail", priority=7)
    return made


def page(client: Client, job: Job) -> Any:
    return client.get(f"{LIST}{job.pk}/again/")


def shown(client: Client, job: Job) -> dict[str, str]:
    form = page(client, job).context["form"]
    return {each.html_name: each.value() if each.value() is not None else "" for each in form}


def send(client: Client, job: Job, **changed: str) -> Any:
    return client.post(f"{LIST}{job.pk}/again/", {**shown(client, job), **changed}, follow=True)


def new(job: Job) -> Job:
    return Job.objects.exclude(pk=job.pk).get()


def test_the_form_has_a_field_for_each_parameter_and_what_it_was(root: Client, job: Job) -> None:
    form = page(root, job).context["form"]
    assert [field.label for field in form] == [
        "amount", "card", "*parts", "password", "note", "**more", "Queue", "Priority", "Countdown (seconds)",
    ]  # fmt: skip
    assert list(shown(root, job).values()) == [
        Decimal("1.20"), "visa", "", '"********"', "", '{"zone":"eu"}', "mail", 7, "",
    ]  # fmt: skip
    assert "Decimal" in page(root, job).text


def test_a_new_job_is_sent_and_the_old_one_stays(root: Client, job: Job) -> None:
    response = send(root, job, argument_amount="5", argument_note="again")
    sent = new(job)
    assert response.redirect_chain == [(f"{LIST}{sent.pk}/change/", 302)]
    named = {"amount": Decimal(5), "card": "visa", "password": "concealed", "note": "again", "zone": "eu"}
    assert sent.arguments() == ([], named)
    assert (sent.queue, sent.priority, sent.state) == ("mail", 7, states.PENDING)
    assert sent.enqueued_by == f"root {LIST}{job.pk}/again/"
    assert "root /staff/djtasks/job/" in response.text
    assert "The job was sent" in response.text
    job.refresh_from_db()
    assert job.state == states.FAILURE
    assert LogEntry.objects.get().change_message == f"Run again as {sent.pk}."


def test_what_is_masked_stays_as_it_was_and_is_shown_nowhere(root: Client, job: Job) -> None:
    assert "concealed" not in page(root, job).text
    send(root, job, argument_password='"typed"')
    assert new(job).arguments()[1]["password"] == "typed"


def test_a_part_that_is_masked_cannot_be_kept_by_a_value_that_is_changed(
    root: Client, task: Any, make_job: Any
) -> None:
    args, kwargs = encoding.encode_arguments((1, "visa"), {"more": {"token": "concealed", "page": 1}})
    job = make_job(states.FAILURE, task=task.name, args=args, kwargs=kwargs)
    text = shown(root, job)["argument_more"]
    assert "********" in text
    assert "A part of it is not shown." in send(root, job, argument_more=text.replace("1", "2")).text
    assert Job.objects.count() == 1
    send(root, job)
    assert new(job).arguments()[1]["more"] == {"token": "concealed", "page": 1}


@pytest.mark.parametrize(
    ("field", "text", "told"),
    [
        ("argument_amount", "much", "Enter a number."),
        ("argument_card", "", "This field is required."),
        ("argument_password", "typed", "This is no JSON:"),
        ("argument_parts", "{}", "Write a JSON list"),
        ("argument_more", "[]", "Write a JSON object"),
        ("argument_more", '{"amount":1}', "has a field of its own"),
        ("queue", "a\x01b", "queue"),
        ("priority", "101", "less than or equal to 100"),
    ],
)
def test_what_does_not_fit_is_said_and_not_sent(root: Client, job: Job, field: str, text: str, told: str) -> None:
    response = send(root, job, **{field: text})
    assert response.redirect_chain == []
    assert told in response.text
    assert Job.objects.count() == 1


def test_of_a_task_that_nobody_knows_there_are_args_and_kwargs(root: Client, make_job: Any) -> None:
    job = make_job(states.FAILURE, task="gone.task", args="[1]", kwargs='{"x":2}')
    assert "does not know the task" in page(root, job).text
    send(root, job, argument_args="[1, 3]")
    assert new(job).arguments() == ([1, 3], {"x": 2})


@pytest.mark.parametrize(
    "value", [True, 3, 2**70, 0.1, "a\nb", "", " x ", "********", None, date(2026, 1, 31), time(9, 30), UUID(int=7),
              datetime(2026, 1, 31, 9, 30, tzinfo=UTC), datetime(2026, 1, 31, 9, 30, 1, 2, tzinfo=UTC),
              datetime(2026, 1, 31, 9, 30), Decimal("1.20"), Decimal("1E+3"), [1], {"$": 1}],
)  # fmt: skip
def test_whatever_a_value_is_it_stays_so_unless_it_is_changed(root: Client, make_job: Any, value: Any) -> None:
    names = {"int": int, "str": str, "bool": bool, "float": float, "decimal": Decimal, "date": date, "time": time,
             "datetime": datetime, "uuid": UUID, "any": Any}  # fmt: skip

    def take(**given: Any) -> None: ...

    parameters = [
        inspect.Parameter(f"as_{name}", inspect.Parameter.KEYWORD_ONLY, annotation=hint) for name, hint in names.items()
    ]
    take.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    take.__annotations__ = {each.name: each.annotation for each in parameters}
    shared_task(name="tests.take")(take)
    try:
        args, kwargs = encoding.encode_arguments((), {each.name: value for each in parameters})
        job = make_job(states.FAILURE, task="tests.take", args=args, kwargs=kwargs)
        send(root, job)
        assert repr(new(job).arguments()) == repr(job.arguments())
    finally:
        registry.unregister("tests.take")


def test_positional_parameters_stay_so(root: Client, make_job: Any) -> None:
    @shared_task(name="tests.positional")
    def positional(a: int, /, b: int = 2, *rest: int) -> None: ...

    job = make_job(states.FAILURE, task="tests.positional", args="[1,2,3]")
    try:
        send(root, job, argument_a="9")
        assert new(job).arguments() == ([9, 2, 3], {})
    finally:
        registry.unregister("tests.positional")


@pytest.mark.parametrize("missing", ["send_task", "view_job_arguments", "view_job"])
def test_it_takes_three_permissions(log_in: Any, job: Job, missing: str) -> None:
    client = log_in(*({"send_task", "view_job_arguments", "view_job"} - {missing}))
    assert page(client, job).status_code == 403
    assert client.post(f"{LIST}{job.pk}/again/", {"argument_amount": "1", "argument_card": "x"}).status_code == 403
    assert Job.objects.count() == 1
    if missing != "view_job":
        assert "/again/" not in client.get(f"{LIST}{job.pk}/change/").text


def test_arguments_that_were_not_kept_are_nothing_to_start_from(root: Client, make_job: Any) -> None:
    job = make_job(states.FAILURE, args="null", kwargs="null")
    assert "Its arguments were not kept" in page(root, job).text
    root.post(f"{LIST}{job.pk}/again/", {})
    assert Job.objects.count() == 1


def test_what_takes_a_permission_of_its_own_is_not_sent_by_hand(root: Client, make_job: Any) -> None:
    job = make_job(states.SUCCESS, task="djtasks.act_on_all", kwargs='{"action":"delete","filters":{}}')
    assert "not by hand" in page(root, job).text
    root.post(f"{LIST}{job.pk}/again/", {"argument_action": "delete", "argument_filters": "{}", "argument_until": "1"})
    assert "/again/" not in root.get(f"{LIST}{job.pk}/change/").text
    assert Job.objects.count() == 1


def test_a_unique_job_that_waits_is_not_sent_twice(root: Client, make_job: Any) -> None:
    @shared_task(name="tests.single", unique=True)
    def single(a: int) -> None: ...

    try:
        holder = single.delay(1)
        job = make_job(states.FAILURE, task="tests.single", args="[1]")
        response = send(root, job)
        assert response.redirect_chain == [(f"{LIST}{holder.id}/change/", 302)]
        assert "has the same unique key" in response.text
        assert Job.objects.count() == 2
    finally:
        registry.unregister("tests.single")
