"""Limits in the admin: how they stand on each broker, and a rate that is changed there."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from django.test import Client

from djtasks import restraint, shared_task
from djtasks.brokers.base import Broker
from djtasks.message import Message, new_id
from djtasks.models import Limit

pytestmark = [pytest.mark.every_broker, pytest.mark.django_db(databases="__all__")]

LIST = "/staff/djtasks/limit/"


@pytest.fixture
def limited(own_tasks: None, broker: Broker) -> list[str]:
    """A task of which one job may begin an hour, and two that wait."""

    @shared_task(name="shop.tasks.sync", rate_limit="1/h", max_concurrency=3)
    def sync() -> None:
        pass

    Limit.objects.all().declare(restraint.declared([sync]))
    messages = [Message(id=new_id(), task="shop.tasks.sync") for _ in range(3)]
    broker.enqueue(messages)
    claimed = broker.claim("default", limit=3, worker="w")
    broker.defer(claimed, "shop.tasks.sync", 3600.0, ahead=0.0, most=1)
    return [each.id for each in messages]


def text_of(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return unescape(response.content.decode())


def cells(html: str, name: str) -> str:
    return html.partition(f'class="field-{name}">')[2].partition("<")[0]


def test_the_list_says_how_often_each_task_may_begin_and_how_many_wait(limited: list[str], root: Client) -> None:
    html = text_of(root, LIST)
    assert (cells(html, "shown_rate"), cells(html, "at_a_time"), cells(html, "waiting")) == ("1/h", "3", "2")


def test_how_many_were_found_stands_there_only_where_something_was_sought(limited: list[str], root: Client) -> None:
    assert "Show all" not in text_of(root, LIST)
    assert "1 result" in text_of(root, f"{LIST}?q=sync")


def test_a_rate_is_changed_there_and_calls_back_what_waits(limited: list[str], root: Client, broker: Broker) -> None:
    address = f"{LIST}shop.tasks.sync/change/"
    assert "10/m is one in six seconds" in text_of(root, address)
    response = root.post(address, {"rate": "50/s"})
    assert response.status_code == 302
    assert Limit.objects.get(pk="shop.tasks.sync").rate == "50/s"
    assert len(broker.claim("default", limit=9, worker="w")) == 2
    root.post(address, {"rate": ""})
    assert Limit.objects.get(pk="shop.tasks.sync").rate == ""


@pytest.mark.parametrize("rate", ["fast", "0/s"])
def test_what_is_no_rate_is_said_beside_the_field(limited: list[str], root: Client, rate: str) -> None:
    response = root.post(f"{LIST}shop.tasks.sync/change/", {"rate": rate})
    assert "A rate is written as '10/s'" in unescape(response.content.decode())
    assert Limit.objects.get(pk="shop.tasks.sync").rate == ""


def test_a_task_without_a_limit_can_be_given_one(broker: Broker, root: Client, own_tasks: None) -> None:
    @shared_task(name="shop.tasks.free")
    def free() -> None:
        pass

    assert root.post(f"{LIST}add/", {"key": "shop.tasks.free", "rate": "5/m"}).status_code == 302
    assert Limit.objects.get(pk="shop.tasks.free").rate == "5/m"
    response = root.post(f"{LIST}add/", {"key": "shop.tasks.fre", "rate": "5/m"})
    assert "Did you mean 'shop.tasks.free'?" in unescape(response.content.decode())


def test_who_may_only_look_changes_nothing(limited: list[str], log_in: Any) -> None:
    client = log_in("view_limit")
    assert 'name="rate"' not in text_of(client, f"{LIST}shop.tasks.sync/change/")
    assert client.post(f"{LIST}shop.tasks.sync/change/", {"rate": "9/s"}).status_code == 403
    assert client.get(f"{LIST}add/").status_code == 403
    assert log_in(name="bob").get(LIST).status_code == 403


def test_the_page_of_the_queue_says_for_what_a_job_waits(limited: list[str], root: Client) -> None:
    html = text_of(root, "/staff/djtasks/queue/default/change/?scheduled=1")
    assert html.count("its turn by the rate of shop.tasks.sync") == 2


@pytest.mark.rows_that_wait
def test_the_page_of_a_job_says_for_what_it_waits(limited: list[str], root: Client, broker: Broker) -> None:
    (waiting, _other) = broker.waits(limited)
    assert "its turn by the rate of shop.tasks.sync" in text_of(root, f"/staff/djtasks/job/{waiting}/change/")
    broker.take_places(broker.claim("default", limit=1, worker="w"), "k", 1, most=1)
