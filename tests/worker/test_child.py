"""One process that runs jobs, as an object: what it does before a job's own code."""

import os
import signal
import threading
from contextlib import contextmanager, nullcontext

import pytest
from django.db import OperationalError, connections

from djtasks import chain, states
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job
from djtasks.worker.child import Child
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots
from tests import tasks
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker


@pytest.fixture
def child(database):
    child = Child("w.1", 0, Slots(1), WorkerOptions(pool="solo", queues=("default",)))
    child.slots.beat()
    return child


def test_a_job_taken_before_its_worker_was_stopped_for_long_does_not_begin_as_it_wakes(child, monkeypatch, tmp_path):
    journal = tmp_path / "journal"
    tasks.journal.delay(str(journal), "x", 0.0)
    (delivery,) = get_broker().claim("default", limit=1, worker="w.1")
    execution = child.execution((delivery,), 0)
    monkeypatch.setattr(child.slots, "beat_age", lambda: 3600.0)
    (outcome,) = execution.run()
    assert (outcome.state, journal.exists()) == (states.PENDING, False)
    monkeypatch.undo()
    (outcome,) = child.execution((delivery,), 0).run()
    assert (outcome.state, journal.exists()) == (states.SUCCESS, True)


def test_a_child_in_burst_stops_only_once_it_has_looked_into_the_queues(database):
    """While the keeper has not said that we live, nothing may begin here; so nothing is looked for, either."""
    child = Child("w.1", 0, Slots(1), WorkerOptions(pool="solo", queues=("default",), burst=True))
    tasks.add.delay(1, 2)
    ages = iter([3600.0, 3600.0])  # until after the look; then the keeper speaks
    child.slots.beat()
    child.slots.beat_age = lambda: next(ages, 0.0)
    child.exchange.turn()
    assert next(ages, None) is None
    while not child.consumer.held:
        assert not child.consumer.stopping
        child.exchange.turn()


@pytest.fixture
def working(child):
    """The child with its I/O thread at work; this thread runs its jobs."""
    child.exchange.start()
    yield child
    child.stop()
    assert child.exchange.finish(10)


def taken(child):
    """The next job, begun to be run, with the I/O thread at rest."""
    call = child.consumer.next()
    wait_until(lambda: not child.exchange._lending._turn.locked())
    return call


def test_who_has_run_the_only_job_stores_it_before_it_looks_for_another(working):
    mine = connections[settings.DATABASE]
    result = tasks.add.delay(1, 2)
    working.work(taken(working), 0)
    assert Job.objects.get(pk=result.id).state == states.SUCCESS
    assert connections[settings.DATABASE] is mine


def test_steps_of_a_chain_are_stored_where_they_run(working, monkeypatch):
    def hand_over(outcome):
        threads.append(threading.current_thread())
        return given(outcome)

    threads, given = [], working.ledger._writer._hand_over
    monkeypatch.setattr(working.ledger._writer, "_hand_over", hand_over)
    last = chain(tasks.add.s(0, 1), *[tasks.add.s(1)] * 39).delay()
    for _step in range(40):
        working.work(working.consumer.next(), 0)
    assert last.get(timeout=20) == 40
    assert threading.current_thread() in threads  # nearly always: but not while the other looks into the queue


def test_what_cannot_be_stored_there_is_stored_by_the_io_thread(working, monkeypatch):
    def write(*args, **kwargs):
        monkeypatch.undo()
        threads.append(threading.current_thread())
        raise OperationalError("for a moment")

    threads = []
    result = tasks.add.delay(1, 2)
    call = taken(working)
    monkeypatch.setattr(working.ledger._writer, "write", write)
    working.work(call, 0)
    assert threads == [threading.current_thread()]
    assert result.get(timeout=20) == 3


def test_what_ends_while_the_io_thread_is_at_work_is_stored_by_that(working, monkeypatch):
    result = tasks.add.delay(1, 2)
    call = taken(working)
    with monkeypatch.context() as patch:
        patch.setattr(working.exchange._lending, "borrowed", lambda: nullcontext(False))
        working.work(call, 0)
    assert result.get(timeout=20) == 3


@contextmanager
def meanwhile(condition, act):
    """Do something in another thread, once a condition holds."""

    def run():
        try:
            wait_until(condition)
            act()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_who_has_no_job_claims_the_next_one_itself(working, monkeypatch):
    """A hand-over from thread to thread takes as long as all that a job needs from its claim to its start."""

    def take(claimed):
        threads.append(threading.current_thread())
        return given(claimed)

    threads, given = [], working.consumer._take
    monkeypatch.setattr(working.consumer, "_take", take)
    with meanwhile(lambda: working.exchange._is_parked, lambda: tasks.add.delay(1, 2)):
        call = working.exchange.next()
    assert threads[-1] is threading.current_thread()
    working.work(call, 0)
    wait_until(lambda: Job.objects.get(pk=call[0].id).state == states.SUCCESS)


def test_who_sleeps_until_a_job_comes_does_not_wait_for_the_database(working):
    """However short the patience with that is: what is idle would lose its connection again and again."""
    wait_until(lambda: hasattr(working.exchange, "_waiting"))
    waiting = working.exchange._waiting
    wait_until(lambda: waiting._since is None)
    tasks.add.delay(1, 2)
    assert working.exchange.next() is not None
    wait_until(lambda: waiting._since is None)


def test_the_last_words_of_who_stops_do_not_wait_for_ever(child, monkeypatch):
    clocks = []
    monkeypatch.setattr(child.ledger, "finish", lambda: clocks.append(child.exchange._waiting._since))
    child.exchange.start()
    with meanwhile(lambda: child.exchange._is_parked, child.stop):
        assert child.exchange.next() is None
    assert child.exchange.finish(10)
    assert len(clocks) == 1
    assert clocks[0] is not None


@pytest.mark.parametrize("stopper", ["a signal", "another thread"])
def test_a_stop_ends_the_wait_of_who_does_the_io_threads_work(working, stopper):
    ways = {"a signal": lambda: os.kill(os.getpid(), signal.SIGUSR1), "another thread": working.stop}
    before = signal.signal(signal.SIGUSR1, working.stop)
    try:
        with meanwhile(lambda: working.exchange._is_parked, ways[stopper]):
            assert working.exchange.next() is None
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_outage_while_nobody_has_a_job_is_outlived(working, monkeypatch):
    """Whoever does the I/O thread's work then meets the error, and goes on as that would."""
    waits = iter([OperationalError("gone"), BrokerUnavailable("gone")])

    def listen():
        for error in waits:
            threads.append(threading.current_thread())
            raise error
        return given()

    threads, given = [], working.consumer.listen
    monkeypatch.setattr(working.consumer, "listen", listen)
    with meanwhile(lambda: len(threads) == 2, lambda: tasks.add.delay(1, 2)):
        call = working.exchange.next()
    assert call[0].message.task == tasks.add.name
    assert threading.current_thread() in threads


def test_an_error_that_nobody_expects_ends_who_runs_jobs(working, monkeypatch):
    """It may be that of a signal's handler, in the middle of anything: a new process is safer than this one."""
    monkeypatch.setattr(working.consumer, "is_stuck", lambda: threading.current_thread() is main and 1 / 0)
    main = threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        working.exchange.next()
    assert working.exchange._thread.is_alive()
