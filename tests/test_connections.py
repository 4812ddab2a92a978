"""What a site may say of its connections, and what may become of these between two jobs."""

import json
from contextlib import suppress
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import OperationalError, connections

from djtasks import chord, states
from djtasks.brokers.database.wakeup import Wakeup
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job
from tests import own_servers, servers, tasks
from tests.own_servers import NotInstalled
from tests.redis_servers import skip_or_fail
from tests.waiting import wait_until

WAYS = {
    "closed after each job": {"CONN_MAX_AGE": 0},
    "kept for a minute": {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True},
    "kept for ever": {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
}
POOLED = {"OPTIONS": {"pool": {"min_size": 1, "max_size": 2}}, "CONN_HEALTH_CHECKS": True}


def end_all_connections(alias):
    """Let the server end all connections to the test's database but ours. Returns how many there were."""
    pick, end = {
        "postgresql": (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
            "SELECT pg_terminate_backend(%s)",
        ),
        "mysql": (
            "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
            "KILL %s",
        ),
    }[connections[alias].vendor]
    with connections[alias].cursor() as cursor:
        cursor.execute(pick)
        found = [pid for (pid,) in cursor.fetchall()]
        for pid in found:
            with suppress(Exception):  # it has gone meanwhile
                cursor.execute(end, [pid])
    return len(found)


def databases(alias, more):
    return {"DJTASKS_TEST_DATABASES": json.dumps({alias: more})}


def answers_of(results):
    return [each.get(timeout=30)[0] for each in results]


def works_through(start_worker, alias, more):
    """Jobs that use the database, before and after the server has ended all connections while nothing ran."""
    worker = start_worker("-c", "2", env=databases(alias, more))
    assert answers_of([tasks.ask_database.delay(alias) for _ in range(20)]) == [42] * 20
    assert end_all_connections(alias) >= 3
    later = [tasks.ask_database.apply_async((alias,), countdown=1.5) for _ in range(20)]
    assert answers_of(later) == [42] * 20
    assert set(Job.objects.values_list("state", "losses")) == {(states.SUCCESS, 0)}
    assert worker.stop() == 0
    return worker


@pytest.mark.parametrize(
    ("database", "way"), [*(("postgresql", way) for way in WAYS), ("mariadb", "kept for ever")], indirect=["database"]
)
def test_connections_that_the_server_ended_between_two_jobs_are_no_jobs_failure(start_worker, database, way):
    works_through(start_worker, database, WAYS[way])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_connections_may_come_from_a_pool_of_psycopg(start_worker, database):
    worker = works_through(start_worker, database, POOLED)
    assert "PythonFinalizationError" not in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_connection_that_was_lost_while_its_worker_was_about_to_wait_is_the_databases_error(database):
    connection = connections[database].copy()
    wakeup = Wakeup(connection)
    wakeup.fileno()
    end_all_connections(database)
    with pytest.raises(OperationalError):
        connection.cursor().execute("SELECT 1")
    with pytest.raises(OperationalError):
        wakeup.fileno()
    connection.close()


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_who_watches_on_a_connection_that_was_lost_meanwhile_says_so(database):
    connection = connections[database].copy()
    watcher = Wakeup(connection).watcher(["default"])
    assert not watcher.may_be_ready()
    end_all_connections(database)
    with pytest.raises(BrokerUnavailable):
        watcher.may_be_ready()
    connection.close()


PGBOUNCER = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
ignore_startup_parameters = extra_float_digits
"""


@pytest.fixture
def pgbouncer(database):
    """PgBouncer in transaction mode before the PostgreSQL of the tests; three connections are enough for all."""
    server = servers.find("postgresql")

    def command(program, folder, runner, port):
        settings = folder / "pgbouncer.ini"
        settings.write_text(PGBOUNCER.format(host=server.host, port=server.port, user=server.user, own=port))
        runner.take(folder)
        return [program, settings]

    try:
        process = own_servers.launch("pgbouncer", command=command)
    except NotInstalled as error:
        skip_or_fail(f"{error}. `apt-get install pgbouncer`")
    wait_until(lambda: answers(server, process.port), what="PgBouncer")
    yield process
    process.stop()


def answers(server, port):
    try:
        psycopg.connect(f"postgres://{server.user}@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_worker_may_stand_behind_a_pgbouncer_in_transaction_mode(start_worker, database, pgbouncer, tmp_path):
    through = urlsplit(servers.find(database).url)
    through = through._replace(netloc=f"{through.username}@127.0.0.1:{pgbouncer.port}").geturl()
    env = databases(database, {"DISABLE_SERVER_SIDE_CURSORS": True}) | {servers.variable(database): through}
    worker = start_worker("-c", "2", env=env, BROKER_OPTIONS={"listen": False})
    for _ in range(2):
        body = chord(tasks.add.s(number, 1) for number in range(30))(tasks.total.s())
        retried = tasks.succeed_at.delay(str(tmp_path / "tries"), 3)
        # In the second round the tasks' own connections are dead, as is seen to once a second.
        plain = [tasks.ask_database.apply_async((database,), countdown=1.5) for _ in range(100)]
        assert body.get(timeout=30) == sum(range(31))
        assert retried.get(timeout=30) == 2
        assert answers_of(plain) == [42] * 100
        pgbouncer.signal(own_servers.STOP_SIGNALS["pgbouncer"])
        pgbouncer.start_again()
    assert set(Job.objects.values_list("state", "losses")) == {(states.SUCCESS, 0)}
    assert worker.stop() == 0
