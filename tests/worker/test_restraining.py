"""Slots that are kept: by who is far from the store, and whatever stands between a decision and its job."""

import threading
import time
from urllib.parse import urlsplit

import pytest
from django.db import OperationalError
from django.test.utils import override_settings

from djtasks import control, shared_task
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Message, new_id
from djtasks.models import Limit, statements
from djtasks.worker.consumer import Consumer
from djtasks.worker.options import WorkerOptions
from tests.proxy import Proxy
from tests.waiting import wait_until
from tests.worker.test_rates import scheduled

pytestmark = pytest.mark.every_broker

LATENCY = 0.006  # seconds each way, for a statement or what goes through a proxy


@pytest.fixture
def far_away(database, settings):
    """Each question to the store takes some time."""
    if get_broker().transactional:

        def late(execute, *arguments):
            time.sleep(2 * LATENCY)
            return execute(*arguments)

        with get_broker().connection.execute_wrapper(late):
            yield
        return
    url = settings.DJTASKS["BROKER_URL"]
    address = urlsplit(url)
    proxy = Proxy(address.hostname, address.port)
    proxy.latency = LATENCY
    proxy.open()
    url = url.replace(f":{address.port}", f":{proxy.port}")
    with override_settings(DJTASKS={**settings.DJTASKS, "BROKER_URL": url, "TEST_BROKER_URL": url}):
        yield
        get_broker().close()
    proxy.close()


@pytest.fixture
def paced(own_tasks):
    @shared_task(name="tests.paced_here", rate_limit="100/s")
    def paced_here():
        pass

    @shared_task(name="tests.paced_by_key_here", rate_limit="100/s", rate_limit_key="key")
    def paced_by_key_here(key):
        pass


def consumer(runs=1):
    return Consumer(get_broker(), "w.1", WorkerOptions(queues=("default",), processes=1, runs=runs))


def send(task, *arguments):
    get_broker().enqueue([Message(id=new_id(), task=task, args=f"[{each}]" if each else "[]") for each in arguments])


def taken(ours, count):
    """Who runs jobs takes so many, while the I/O thread (this one) claims. Returns how often slots were missed."""
    found, missed = [], 0

    def run():
        while len(found) < count:
            call = ours.next()
            if call is None:
                return
            found.append(call)
            ours.done(call, 0.0001)

    runner = threading.Thread(target=run)
    runner.start()
    try:
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            missed += ours.has_missed
            get_broker().promote()
            ours.fill()
            time.sleep(0.001)
    finally:
        ours.stopping = True
        ours.notify()
        runner.join()
    assert len(found) == count
    return missed


def test_a_slot_is_kept_however_far_away_the_store_is(far_away, paced):
    send("tests.paced_here", None, None, None)
    assert taken(consumer(), 3) < 20  # at first nobody knows how far it is


def test_a_job_keeps_its_slot_while_those_of_other_keys_get_theirs(far_away, paced):
    ours = consumer(runs=8)
    send("tests.paced_by_key_here", *range(1, 9))
    assert taken(ours, 8) < 20


def test_who_could_not_call_what_waits_by_an_old_rate_does_so_soon(paced, broker, monkeypatch, caplog):
    control.set_rate("tests.paced_here", "1/h")
    ours = consumer()
    send("tests.paced_here", None, None)
    wait_until(lambda: ours.fill() == 0 and scheduled() == 1)
    assert ours.next() is not None
    Limit.objects.filter(pk="tests.paced_here").update(rate="none")  # as control does, of which we hear late

    def hang_up(limit):
        raise BrokerUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(broker, "recall", hang_up)
        ours._restraints.look(every=0.0)
    assert scheduled() == 1
    assert "Limits that an operator has set cannot be read" in caplog.text
    wait_until(lambda: ours.fill() == 0 and scheduled() == 0)


def test_who_cannot_read_the_limits_goes_on_by_those_read_before(paced, broker, monkeypatch):
    ours = consumer()
    ours.fill()

    def hang_up(connection):
        raise OperationalError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(statements, "limits_set", hang_up)
        ours._restraints.look(every=0.0)
        send("some.task", None)
        assert ours.fill() == 1
        with pytest.raises(OperationalError):
            consumer().fill()  # who has never read any
