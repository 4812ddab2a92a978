"""How schedules move on: the statement does what the ORM does, and each step is taken once."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections, transaction

from djtasks.models import PeriodicTask
from djtasks.models.advancing import Step, advance, advance_portably

DUE = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
TIMES = ("last_run_at", "changed_at")


def make(count):
    PeriodicTask.objects.all().delete()
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"{number}", task="t", schedule="every hour", total_run_count=2, last_job="before")
        for number in range(count)
    )
    PeriodicTask.objects.update(next_run_at=DUE, last_run_at=BEFORE)
    return list(PeriodicTask.objects.order_by("name"))


def step(row, **values):
    return Step(
        **{
            "pk": row.pk,
            "due": DUE,
            "changed_at": row.changed_at,
            "next": DUE + HOUR,
            "job": f"job-{row.name}",
            **values,
        }
    )


def steps(rows):
    """One of each kind; of which the last four are not to be taken."""
    PeriodicTask.objects.filter(pk=rows[7].pk).update(enabled=False, next_run_at=DUE)
    return [
        step(rows[0]),
        step(rows[1], next=None),
        step(rows[2], runs=5),
        step(rows[3], runs=0, job=None),
        step(rows[4], enabled=False, next=None),
        step(rows[5], due=DUE + timedelta(microseconds=1)),
        step(rows[6], changed_at=rows[6].changed_at - timedelta(microseconds=1)),
        step(rows[7]),
        Step(pk=10**9, due=DUE, changed_at=DUE, next=None),
    ]


def after(act):
    rows = make(9)
    with transaction.atomic(using=PeriodicTask.objects.db):
        taken = act(PeriodicTask.objects.all(), steps(rows))
    names = {row.pk: row.name for row in rows}
    values = PeriodicTask.objects.order_by("name").values(
        "name", "next_run_at", "total_run_count", "last_job", "enabled", "last_run_at", "problem"
    )
    found = [{**each, "last_run_at": "before" if each["last_run_at"] == BEFORE else "now"} for each in values]
    return {names[pk] for pk in taken}, found


def test_steps_are_taken_as_the_orm_would(database):
    taken, rows = after(advance)
    assert (taken, rows) == after(advance_portably)
    assert taken == {"0", "1", "2", "3", "4"}
    assert [row["total_run_count"] for row in rows] == [3, 3, 7, 2, 3, 2, 2, 2, 2]
    assert [row["last_run_at"] for row in rows] == ["now", "now", "now", "before", "now", *["before"] * 4]


def test_no_steps_cost_no_statement(database, django_assert_num_queries):
    with django_assert_num_queries(0, connection=connections[database]):
        assert PeriodicTask.objects.advance([]) == set()


@pytest.mark.parametrize("ways", [(advance, advance), (advance, advance_portably), (advance_portably, advance)])
def test_of_two_that_take_the_same_step_one_does(database, ways):
    rows = make(50)
    taken = [set(), set()]
    barrier = threading.Barrier(2)

    def take(number):
        barrier.wait(10)
        with transaction.atomic(using=database):
            taken[number] = ways[number](PeriodicTask.objects.all(), [step(row) for row in rows])
        connections.close_all()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not taken[0] & taken[1]
    assert len(taken[0] | taken[1]) == 50
    assert set(PeriodicTask.objects.values_list("total_run_count", flat=True)) == {3}


def test_a_row_is_broken_down_only_where_it_was_seen(database):
    (row,) = make(1)
    assert not PeriodicTask.objects.break_down(step(row, due=DUE - HOUR), "no")
    assert PeriodicTask.objects.break_down(step(row), "no")
    assert not PeriodicTask.objects.break_down(step(row), "again")
    row.refresh_from_db()
    assert (row.problem, row.next_run_at, row.status) == ("no", None, "broken")
