"""The statements on places under a limit, each against plain ORM code that does the same, on each database."""

import pytest
from django.db import connections, transaction

from djtasks import states
from djtasks.brokers import get_broker
from djtasks.message import Message, new_id
from djtasks.models import Job, Limit, Ticket, statements

LIMIT = "concurrency:k"
STANDINGS = (Ticket.WAITS, Ticket.CALLED, Ticket.HOLDS)
STATES = (states.SCHEDULED, states.PENDING, states.RECEIVED, states.STARTED, states.SUCCESS)


@pytest.fixture
def connection(database):
    return connections[database]


@pytest.fixture
def crowd(connection):
    """A job in each state with a ticket of each standing, for this limit and another; and a ticket of no job."""
    Limit.objects.create(key="k", max_concurrency=4, parked=True)
    for number in range(60):
        state, standing = STATES[number % 5], STANDINGS[number % 3]
        limit = LIMIT if number % 4 else "concurrency:other"
        Job.objects.create(id=f"job{number:02}", task="t", queue=f"q{number % 2}", state=state, worker="w")
        Ticket.objects.create(job=f"job{number:02}", limit=limit, standing=standing, rank=number % 2, slot=100 - number)
    Ticket.objects.create(job="gone", limit=LIMIT)


def of(standing, but=()):
    return Ticket.objects.all().of(LIMIT, standing).exclude(pk__in=but)


def rows(model):
    return sorted(model.objects.values_list(*(field.name for field in model._meta.fields)))


def test_locking_tells_how_a_limit_is_set_and_makes_one_that_is_not_there(connection):
    Limit.objects.create(key="k", max_concurrency=3, parked=True)
    Limit.objects.create(key="any", next_slot=7, interval=2)
    with transaction.atomic(using=connection.alias):
        assert statements.lock_limit(connection, "k") == (3, True, 0, 0)
        assert statements.lock_limit(connection, "any") == (None, False, 7, 2)
        assert statements.lock_limit(connection, "none") == (None, False, 0, 0)
        assert Limit.objects.get(pk="none").declared == ""


@pytest.mark.parametrize("most", [0, 1, 100])
def test_places_are_counted_as_the_orm_would(connection, crowd, most):
    others = [of(standing).first().pk for standing in STANDINGS]
    counts = statements.count_places(connection, LIMIT, others, most)
    expected = (
        of(Ticket.HOLDS, others).count(),
        min(most, of(Ticket.CALLED, others).count()),
        min(most, of(Ticket.WAITS, others).count()),
    )
    assert counts == expected
    assert expected[0] > 0


def test_a_ticket_takes_the_place_of_the_one_before(connection, crowd):
    statements.put_tickets(connection, [("job01", "rate:k", 0, -5, 2**60), ("new", LIMIT, 2, 0, 0)])
    found = rows(Ticket)
    Ticket.objects.filter(pk__in=["job01", "new"]).delete()
    Ticket.objects.create(job="job01", limit="rate:k", standing=0, rank=-5, slot=2**60)
    Ticket.objects.create(job="new", limit=LIMIT, standing=2)
    assert found == rows(Ticket)


def call_by_orm(places, most):
    free = places - of(Ticket.HOLDS).count() - of(Ticket.CALLED).count()
    first = list(of(Ticket.WAITS).values_list("pk", flat=True)[: max(0, min(free, most))])
    Ticket.objects.filter(pk__in=first).update(standing=Ticket.CALLED)
    jobs = Job.objects.filter(pk__in=first)
    queues = list(jobs.values_list("queue", flat=True))
    jobs.update(state=states.PENDING)
    return sorted(queues)


@pytest.mark.parametrize(("places", "most"), [(0, 10), (7, 10), (10, 10), (11, 10), (100, 2), (100, 500)])
def test_those_are_called_whom_the_orm_would_call(connection, crowd, places, most):
    with transaction.atomic(using=connection.alias):
        queues = sorted(statements.call_next(connection, LIMIT, places, most))
        found = rows(Ticket), rows(Job)
        transaction.set_rollback(True, using=connection.alias)
    assert queues == call_by_orm(places, most)
    assert found == (rows(Ticket), rows(Job))


def test_a_line_is_closed_once_nobody_waits_in_it(connection, crowd):
    statements.close_line(connection, "k", LIMIT)
    assert Limit.objects.get(pk="k").parked
    Job.objects.filter(pk__in=list(of(Ticket.WAITS).values_list("pk", flat=True))).update(state=states.PENDING)
    statements.close_line(connection, "k", LIMIT)
    assert not Limit.objects.get(pk="k").parked


def test_a_place_costs_few_round_trips(connection, django_assert_max_num_queries):
    broker = get_broker()
    broker.enqueue([Message(id=new_id(), task="t") for _ in range(9)])

    def take(most, *claimed):
        with django_assert_max_num_queries(most, connection=connection):
            return broker.take_places(claimed, "k", 2, most=9)

    first = take(10, *claim(broker, 1))  # the limit is new
    assert len(take(5, *claim(broker, 1))) == 1  # nobody waits
    take(9, *claim(broker, 3))  # these are to wait
    Job.objects.filter(pk=first[0].id).update(state=states.SUCCESS)
    with django_assert_max_num_queries(7, connection=connection):  # it ends, and calls the next
        broker.ack(first)
    assert len(take(6, *claim(broker, 1))) == 1


def claim(broker, count):
    return broker.claim("default", limit=count, worker="w")
