"""Statements that PostgreSQL keeps prepared."""

import pytest
from django.db import DataError, connections

from djtasks.models.statements import prepared

pytestmark = [
    pytest.mark.every_broker,
    pytest.mark.parametrize("database", ["postgresql"], indirect=True),
]
QUESTION = "SELECT %s::int + 1"


@pytest.fixture
def connection(database):
    """A connection of our own session."""
    connection = connections[database].copy()
    yield connection
    connection.close()


def kept(connection):
    """How many statements the session has prepared."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        return cursor.fetchone()[0]


def use(connection, times):
    for number in range(times):
        assert prepared.execute(connection, QUESTION, [number]) == [(number + 1,)]


def test_a_statement_that_is_used_often_is_prepared(connection):
    use(connection, 1)
    assert kept(connection) == 0
    use(connection, 50)
    assert kept(connection) >= 1


def test_a_connection_that_sends_little_is_not_asked_whether_it_has_a_session_of_its_own(connection, monkeypatch):
    monkeypatch.setattr(prepared, "SERVER_PID", "SELECT 1 / 0")
    use(connection, prepared.FIRST)
    with pytest.raises(DataError):
        use(connection, 1)


def test_plans_are_made_anew_and_the_old_ones_are_given_up(connection, monkeypatch):
    for second in range(20):
        monkeypatch.setattr(prepared.time, "monotonic", lambda second=second: float(second))
        use(connection, prepared.USES + 1)
    assert 1 <= kept(connection) <= prepared.KEPT + 1


def test_nothing_is_prepared_where_a_pooler_may_give_the_next_transaction_another_session(connection, monkeypatch):
    # What a pooler tells as the pid is not the one of the server that answers.
    monkeypatch.setattr(prepared, "SERVER_PID", "SELECT -1")
    use(connection, 50)
    assert kept(connection) == 0


def test_who_looks_on_at_queries_sees_these_too(connection):
    connection.force_debug_cursor = True
    use(connection, 50)
    assert len(connection.queries) == 50
    connection.force_debug_cursor = False
    seen = []
    with connection.execute_wrapper(lambda run, sql, *rest: (seen.append(sql), run(sql, *rest))[1]):
        use(connection, 1)
    assert seen == [QUESTION]


def test_an_error_is_djangos(connection):
    with pytest.raises(DataError):
        prepared.execute(connection, "SELECT 1 / %s::int", [0])
