"""Connections whose other end has gone without a word: nobody waits on them for ever."""

import socket
import time
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest
from django.db import InternalError, OperationalError, connections

from djtasks import half_open, states
from djtasks.half_open import Waiting
from djtasks.models import Job, Queue, Worker
from tests import servers, tasks
from tests.proxy import Proxy

pytestmark = pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)


@pytest.fixture(autouse=True)
def a_quick_look(monkeypatch):
    monkeypatch.setattr(half_open, "LOOK_EVERY", 0.05)


SLEEP = {"postgresql": "SELECT pg_sleep(0.15)", "mysql": "SELECT SLEEP(0.15)"}


@contextmanager
def proxy_to(alias):
    given = connections.settings[alias]
    proxy = Proxy(given["HOST"], int(given["PORT"]))
    proxy.open()
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def connection_by(port, alias):
    connection = connections[alias].copy()
    connection.settings_dict = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": port, "OPTIONS": {}}
    with closing(connection):
        yield connection


def ask(connection, sql="SELECT 1"):
    """Returns after how many seconds there was an answer, or an error."""
    began = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute(sql)
    return time.monotonic() - began


def test_a_question_that_nobody_answers_ends_as_if_the_server_had_hung_up(database):
    with proxy_to(database) as proxy, connection_by(proxy.port, database) as connection:
        waiting = Waiting(connection, 0.5)
        ask(connection)
        proxy.mute()
        began = time.monotonic()
        with waiting.asking(), pytest.raises(OperationalError):
            ask(connection)
        assert 0.5 <= time.monotonic() - began < 10
        connection.close()
        ask(connection)


def test_who_looks_after_connections_sleeps_as_long_as_none_can_have_waited_too_long(database):
    with connection_by(connections.settings[database]["PORT"], database) as connection:
        waiting = Waiting(connection, 60.0)
        assert waiting.cut_if_stuck() == 60.0  # even if it begins to wait now
        with waiting.asking():
            assert 55 < waiting.cut_if_stuck() <= 60


def test_a_connection_is_looked_after_that_comes_while_others_can_wait(database):
    with proxy_to(database) as proxy, connection_by(proxy.port, database) as connection:
        patient = Waiting(connection.copy(), 60.0)
        with patient.asking():
            time.sleep(3 * half_open.LOOK_EVERY)  # it sleeps for as long as this one may wait
            waiting = Waiting(connection, 0.5)
            ask(connection)
            proxy.mute()
            with waiting.asking(), pytest.raises(OperationalError):
                ask(connection)


def test_a_connection_that_nobody_greets_is_given_up_in_the_time_to_connect(database, monkeypatch):
    monkeypatch.setattr(half_open, "CONNECT_TIMEOUT", 2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, connection_by(silent.getsockname()[1], database) as connection:
        half_open.make_own(connection)
        began = time.monotonic()
        with pytest.raises(OperationalError):
            ask(connection)
        assert time.monotonic() - began < 10


def test_a_connection_of_our_own_waits_for_answers_for_longer_than_for_the_greeting(database, monkeypatch):
    monkeypatch.setattr(half_open, "CONNECT_TIMEOUT", 2)
    sleep = {"postgresql": "SELECT pg_sleep(2.5)", "mysql": "SELECT SLEEP(2.5)"}[connections[database].vendor]
    with connection_by(connections.settings[database]["PORT"], database) as connection:
        half_open.make_own(connection)
        assert ask(connection, sleep) >= 2.5


def test_who_asks_nothing_keeps_its_connection(database):
    with proxy_to(database) as proxy, connection_by(proxy.port, database) as connection:
        waiting = Waiting(connection, 0.1)
        ask(connection)
        with waiting.asking():
            driver = connection.connection
        time.sleep(0.3)
        ask(connection)
        assert connection.connection is driver


def test_what_waits_for_something_else_meanwhile_keeps_its_connection(database):
    with connection_by(connections.settings[database]["PORT"], database) as connection:
        waiting = Waiting(connection, 0.1)
        ask(connection)
        with waiting.asking():
            driver = connection.connection
            elsewhere = waiting.elsewhere
            with elsewhere:
                with elsewhere:
                    time.sleep(0.3)
                time.sleep(0.3)
            ask(connection)
        assert connection.connection is driver


def test_what_was_waited_for_before_something_else_counts_afterwards(database):
    with connection_by(connections.settings[database]["PORT"], database) as connection:
        waiting = Waiting(connection, 60.0)
        with waiting.asking():
            waiting._since -= 50
            with waiting.elsewhere:
                assert waiting.cut_if_stuck() == 60
            assert waiting.cut_if_stuck() <= 10


def test_what_is_slow_is_given_more_time_at_each_try(database):
    sleep = {"postgresql": "SELECT pg_sleep(0.6)", "mysql": "SELECT SLEEP(0.6)"}[connections[database].vendor]
    with connection_by(connections.settings[database]["PORT"], database) as connection:
        waiting, tries = Waiting(connection, 0.1), 0
        while True:
            tries += 1
            assert tries < 12
            try:
                with waiting.asking():
                    ask(connection, sleep)
                break
            except OperationalError:
                connection.close()
        assert tries > 1


def test_more_time_is_given_until_an_answer_is_quick(database):
    with connection_by(connections.settings[database]["PORT"], database) as connection:
        waiting = Waiting(connection, 60.0)
        waiting._times = 4
        waiting.rests()
        waiting.begins()
        waiting.begins()  # a sleep has ended, a round begins: nothing was asked
        assert waiting._times == 4
        ask(connection)
        waiting.moves()
        assert waiting._times == 1


def test_more_time_is_given_while_one_of_several_questions_takes_long(database):
    with connection_by(connections.settings[database]["PORT"], database) as connection:
        waiting = Waiting(connection, 0.2)
        waiting._times = 64
        for slow, expected in ((True, 64), (False, 1)):
            with waiting.asking():
                ask(connection, SLEEP[connections[database].vendor] if slow else "SELECT 1")
                waiting.begins()
                ask(connection)
            assert waiting._times == expected


def test_who_stands_still_in_a_transaction_of_ours_holds_no_lock_for_long(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "WORKER_LOST_AFTER": 2}
    Queue.objects.create(name="mail")
    lock, port = "SELECT name FROM djtasks_queue WHERE name = 'mail' FOR UPDATE", connections.settings[database]["PORT"]
    with connection_by(port, database) as ours, connection_by(port, database) as theirs:
        half_open.make_own(ours)
        for each in (ours, theirs):
            each.set_autocommit(False)
        ask(ours, lock)
        assert ask(theirs, lock) < 10  # the server ends our transaction meanwhile
        theirs.rollback()
        with pytest.raises((OperationalError, InternalError)):
            ask(ours)


def test_a_pooler_that_refuses_the_limit_is_asked_without_it(database):
    def connect(params):
        asked.append(params)
        if "options" in params:
            raise OperationalError('FATAL: unsupported startup parameter in options: "idle_in_transaction_..."')
        return "a connection"

    asked = []
    connect_with_limit = half_open._asking_not_to_idle(connect)
    assert connect_with_limit({"host": "there"}) == "a connection"
    assert connect_with_limit({"host": "there"}) == "a connection"
    assert [sorted(each) for each in asked] == [["host", "options"], ["host"], ["host"]]


def test_a_connection_that_does_not_come_about_is_given_up(database, monkeypatch):
    monkeypatch.setattr(half_open, "CONNECT_TIMEOUT", 2)
    monkeypatch.setattr(half_open, "READ_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute, connection_by(mute.getsockname()[1], database) as connection:
        waiting = Waiting(connection, 1.0)
        began = time.monotonic()
        with waiting.asking(), pytest.raises(OperationalError):
            ask(connection)
        assert time.monotonic() - began < 10


def test_options_of_the_user_count(database):
    with connection_by(1, database) as connection:
        connection.settings_dict["OPTIONS"] = {"connect_timeout": 77, "read_timeout": 78}
        half_open.make_own(connection)
        assert connection.settings_dict["OPTIONS"] == {"connect_timeout": 77, "read_timeout": 78}
        half_open.make_own(other := connections[database].copy())
        assert other.settings_dict["OPTIONS"]
        assert connections.settings[database]["OPTIONS"] == {}


@pytest.mark.parametrize("way", ["mute", "mute_answers"])
def test_a_worker_whose_connections_are_all_half_open_comes_back_by_itself(database, start_worker, tmp_path, way):
    variable = servers.variable(database)
    with proxy_to(database) as proxy:
        address = urlsplit(servers.find(database).url)
        through = address._replace(netloc=f"{address.username}@127.0.0.1:{proxy.port}").geturl()
        worker = start_worker("-c", "2", env={variable: through})
        assert tasks.add.delay(1, 1).get(timeout=20) == 2
        running = tasks.journal.delay(str(tmp_path / "journal"), "x", 1.0)
        getattr(proxy, way)()
        results = [tasks.add.delay(number, 0) for number in range(50)]
        assert [each.get(timeout=20) for each in results] == list(range(50))
        assert running.get(timeout=20) == "x"
        assert worker.process.poll() is None
        assert "its connection is cut" in worker.output
        assert not Worker.objects.exclude(lost_at=None).exists()
        assert not Job.objects.exclude(state=states.SUCCESS).exists()
        assert worker.stop() == 0
