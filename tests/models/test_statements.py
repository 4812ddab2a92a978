"""The hot statements, each against plain ORM code that does the same, on each database."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from django.db.models import Count, Min

from djtasks.message import Delivery, Failure, Message, Outcome, microseconds
from djtasks.models import Job, Limit, Queue, Worker, statements
from djtasks.models.statements import BATCH, BATCH_SIZE

ETA = datetime(2040, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PAST = datetime(2020, 1, 2, 3, 4, 5, 600000, tzinfo=UTC)
TIMES = ("created_at", "run_at", "expires_at", "started_at", "finished_at")
NEAR = timedelta(seconds=10)


@pytest.fixture
def connection(database):
    return connections[database]


def rows():
    """All rows as dicts, by id; the key of the order apart."""
    return {values["id"]: values for values in Job.objects.values()}


def assert_same(found, expected):
    """Equal but for times, which are near each other where both are set, and for the order key."""
    assert found.keys() == expected.keys()
    for job_id, values in found.items():
        reference = expected[job_id]
        for name, value in values.items():
            if name in TIMES and value is not None and reference[name] is not None:
                assert abs(value - reference[name]) < NEAR, (job_id, name)
            elif name != "order_key":
                assert value == reference[name], (job_id, name)


def emptied(make):
    """What `make` writes into the empty table."""
    Job.objects.all().delete()
    make()
    return rows()


# enqueue

MESSAGES = [
    Message(id="plain", task="some.task"),
    Message(
        id="full", task="t", args='["\\u0000"]', kwargs='{"a":1}', queue="größe", priority=9, retries=2, parent_id="p",
        root_id="r", group_id="g", unique_key="u", schedule="nightly", sender="ann", headers='{"h":1}',
        options='{"o":1}', eta=ETA, expires_at=ETA,
    ),
    Message(id="countdown", task="t", countdown=90.5, expires_in=30),
    Message(id="past", task="t", eta=PAST, priority=-100),
    Message(id="at once", task="t", countdown=0, expires_at=PAST),
    Message(id="negative", task="t", countdown=-90),
]  # fmt: skip


def enqueue_by_orm(messages):
    for m in messages:
        now = datetime.now(UTC)
        run_at = m.eta if m.countdown is None else now + timedelta(seconds=m.countdown)
        Job.objects.get_or_create(
            id=m.id,
            defaults={
                "task": m.task, "queue": m.queue, "priority": m.priority, "rank": -m.priority, "args": m.args,
                "kwargs": m.kwargs, "run_at": run_at, "created_at": now, "retries": m.retries, "headers": m.headers,
                "options": m.options, "version": m.version, "parent_id": m.parent_id, "root_id": m.root_id,
                "group_id": m.group_id, "unique_key": m.unique_key, "periodic_task": m.schedule,
                "enqueued_by": m.sender, "state": "SCHEDULED" if run_at is not None and run_at > now else "PENDING",
                "expires_at": m.expires_at if m.expires_in is None else now + timedelta(seconds=m.expires_in),
            },
        )  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_enqueue_writes_the_rows_that_the_orm_would(connection, together):
    def by_statement():
        for batch in [MESSAGES] if together else [[each] for each in MESSAGES]:
            statements.enqueue(connection, batch)

    assert_same(emptied(by_statement), emptied(lambda: enqueue_by_orm(MESSAGES)))


def test_enqueue_leaves_taken_ids_alone_in_the_table_and_within_a_batch(connection):
    first = Message(id="same", task="first")
    batch = [Message(id="same", task="second"), Message(id="new", task="third"), Message(id="new", task="fourth")]

    def by_statement():
        statements.enqueue(connection, [first])
        statements.enqueue(connection, batch)

    assert_same(emptied(by_statement), emptied(lambda: enqueue_by_orm([first, *batch])))


@pytest.mark.parametrize("together", [True, False])
def test_a_priority_that_nobody_chose_gives_way_to_the_queues(connection, together):
    Queue.objects.create(name="slow", default_priority=-50)
    Queue.objects.create(name="plain")
    chosen = {"priority": 3, "prioritized": True}
    batch = [
        Message(id=f"{queue} {bool(more)}", task="t", queue=queue, **(more or {"priority": 1}))
        for queue in ("slow", "plain", "unset")
        for more in ({}, chosen)
    ]
    for messages in [batch] if together else [[each] for each in batch]:
        statements.enqueue(connection, messages)
    assert {pk: (priority, rank) for pk, priority, rank in Job.objects.values_list("pk", "priority", "rank")} == {
        "slow False": (-50, 50),
        "slow True": (3, -3),
        "plain False": (1, -1),
        "plain True": (3, -3),
        "unset False": (1, -1),
        "unset True": (3, -3),
    }


@pytest.mark.parametrize("together", [True, False])
def test_enqueue_leases_what_is_due_if_it_is_told_to_whom(connection, together):
    due = [each for each in MESSAGES if each.id in ("plain", "past", "at once", "negative")]

    def by_statement():
        for batch in [due] if together else [[each] for each in due]:
            statements.enqueue(connection, batch, "w.1")

    def by_orm():
        enqueue_by_orm(due)
        Job.objects.update(state="RECEIVED", worker="w.1", token=1)

    assert_same(emptied(by_statement), emptied(by_orm))


def test_enqueue_numbers_the_messages_in_their_order(connection):
    messages = [Message(id=f"{1000 - number}", task="t") for number in range(BATCH + 10)]
    statements.enqueue(connection, messages)
    stored = list(Job.objects.order_by("order_key").values_list("pk", "order_key"))
    assert [job_id for job_id, _ in stored] == [message.id for message in messages]
    assert abs(stored[0][1] - time.time() * 1e6) < 60e6


# claim


def stock(count=12):
    """Jobs of several priorities, ages, queues and tasks."""
    Job.objects.bulk_create(
        Job(
            id=f"job{number:02}", task=f"task{number % 3}", queue="a" if number % 4 else "b", state="PENDING",
            priority=number % 5, rank=-(number % 5), order_key=(number * 7) % count, token=number % 2,
        )
        for number in range(count)
    )  # fmt: skip
    Job.objects.create(id="scheduled", task="task0", queue="a", state="SCHEDULED", rank=-100, run_at=ETA)
    Job.objects.create(id="held", task="task0", queue="a", state="STARTED", worker="other", rank=-100)


def claim_by_orm(queue, limit, worker, refused=()):
    ready = Job.objects.ready().filter(queue=queue).exclude(task__in=refused)
    if Queue.objects.filter(name=queue, paused=True).exists():
        ready = ready.filter(rank__lte=-1000)
    claimed = list(ready[:limit])
    for job in claimed:
        job.state, job.worker, job.token = "RECEIVED", worker, job.token + 1
        job.save()
    return [job.pk for job in claimed]


@pytest.mark.parametrize("refused", [(), ("task0",), ("task1", "task2")])
@pytest.mark.parametrize(("queue", "limit"), [("a", 1), ("a", 4), ("a", 100), ("b", 2), ("none", 5)])
def test_claim_takes_the_rows_that_the_orm_would(connection, queue, limit, refused):
    claimed = []

    def by_statement():
        stock()
        claimed.append([each.id for each in statements.claim(connection, queue, limit, "me", refused)])

    def by_orm():
        stock()
        claimed.append(claim_by_orm(queue, limit, "me", refused))

    assert_same(emptied(by_statement), emptied(by_orm))
    assert claimed[0] == claimed[1]


def test_claim_takes_only_what_was_revoked_of_a_paused_queue(connection):
    stock()
    Queue.objects.create(name="a", paused=True)
    Job.objects.filter(pk="job05").update(rank=-1000, revoked=True)
    (delivery,) = statements.claim(connection, "a", 10, "me", ())
    assert (delivery.id, delivery.revoked, delivery.token) == ("job05", True, 2)


def test_claim_gives_the_job_with_all_that_belongs_to_it(connection):
    statements.enqueue(connection, MESSAGES)
    Job.objects.filter(pk="full").update(
        state="PENDING", losses=2, refusals=3, revoked=True, attempts='[{"token":1}]', token=6
    )
    (delivery,) = statements.claim(connection, "größe", 10, "me", ())
    assert delivery.message == MESSAGES[1]
    assert (delivery.worker, delivery.token, delivery.losses, delivery.refusals) == ("me", 7, 2, 3)
    assert (delivery.revoked, delivery.attempts) == (True, '[{"token":1}]')
    assert abs(delivery.created_at - datetime.now(UTC)) < NEAR


# record


def deliveries():
    return [Delivery(Message(id=f"job{number}", task="t"), "me", number + 1) for number in range(6)]


def held_rows():
    """Six jobs that run: four of them ours, one of another worker, one of a later claim."""
    begun = datetime.now(UTC) - timedelta(seconds=3)
    for number in range(6):
        Job.objects.create(
            id=f"job{number}", task="t", queue="q", state="RECEIVED" if number % 2 else "STARTED",
            worker="other" if number == 4 else "me", token=99 if number == 5 else number + 1,
            started_at=None if number % 2 else begun, custom_state="PROGRESS", meta="1",
        )  # fmt: skip


def outcomes():
    failure = Failure("ValueError", "said ünï", '["said"]', "the traceback")
    endings = [
        {"state": "SUCCESS", "result": '{"a":1}', "seconds": 1.25},
        {"state": "FAILURE", "failure": failure, "seconds": 0.5},
        {"state": "REVOKED", "failure": failure},
        {"state": "IGNORED", "seconds": 2.0},
        {"state": "SUCCESS", "result": "4", "seconds": 1.0},
        {"state": "SUCCESS", "result": "5", "seconds": 1.0},
    ]
    return [Outcome(delivery=delivery, **fields) for delivery, fields in zip(deliveries(), endings, strict=True)]


def record_by_orm(worker, given):
    recorded = set()
    for outcome in given:
        job = Job.objects.held(outcome.delivery).filter(worker=worker).first()
        if job is None:
            continue
        now = datetime.now(UTC)
        failure = outcome.failure or Failure("", None, None, None)
        job.state, job.result, job.seconds, job.finished_at = outcome.state, outcome.result, outcome.seconds, now
        if job.started_at is None and outcome.seconds is not None:
            job.started_at = now - timedelta(seconds=outcome.seconds)
        job.exception, job.exception_message = failure.kind, failure.message
        job.exception_args, job.traceback = failure.arguments, failure.traceback
        job.save()
        recorded.add(job.pk)
    return recorded


@pytest.mark.parametrize("together", [True, False])
def test_record_writes_what_the_orm_would_and_tells_what_was_ours(connection, together):
    recorded = []

    def by_statement():
        held_rows()
        batches = [outcomes()] if together else [[each] for each in outcomes()]
        recorded.append(set().union(*(statements.record(connection, "me", each, time.monotonic()) for each in batches)))

    def by_orm():
        held_rows()
        recorded.append(record_by_orm("me", outcomes()))

    assert_same(emptied(by_statement), emptied(by_orm))
    assert recorded[0] == recorded[1] == {"job0", "job1", "job2", "job3"}


def test_record_of_only_our_own_jobs_writes_them_all(connection):
    held_rows()
    assert statements.record(connection, "me", outcomes()[:4], time.monotonic()) == {"job0", "job1", "job2", "job3"}
    assert Job.objects.finished().count() == 4


@pytest.mark.parametrize("number", range(6))
def test_hand_over_writes_what_record_and_a_leasing_enqueue_would(connection, number):
    if connection.vendor == "sqlite":
        pytest.skip("no statement of SQLite makes two changes")
    outcome = replace(outcomes()[number], follow_ups=(MESSAGES[0],))
    written = []

    def by_one_statement():
        held_rows()
        written.append(statements.hand_over(connection, "me", outcome, time.monotonic()))

    def by_two():
        held_rows()
        recorded = statements.record(connection, "me", [outcome], time.monotonic())
        if recorded:
            statements.enqueue(connection, outcome.follow_ups, "me")
        written.append({*recorded, *(["plain"] if recorded else [])})

    assert_same(emptied(by_one_statement), emptied(by_two))
    assert written[0] == written[1]


def test_record_never_changes_what_has_ended(connection):
    held_rows()
    Job.objects.filter(pk="job0").update(state="FAILURE")
    assert statements.record(connection, "me", outcomes()[:1], time.monotonic()) == set()
    assert Job.objects.get(pk="job0").state == "FAILURE"


def test_record_counts_the_time_since_the_end(connection):
    held_rows()
    (outcome,) = outcomes()[1:2]
    statements.record(connection, "me", [outcome], outcome.ended + 100)
    job = Job.objects.get(pk="job1")
    assert abs(datetime.now(UTC) - timedelta(seconds=100) - job.finished_at) < NEAR
    assert abs(job.finished_at - job.started_at - timedelta(seconds=0.5)) < timedelta(milliseconds=2)


def test_record_takes_more_than_one_statement_may_hold(connection):
    given = []
    for number in range(5):
        Job.objects.create(id=f"big{number}", task="t", queue="q", state="STARTED", worker="me", token=1)
        delivery = Delivery(Message(id=f"big{number}", task="t"), "me", 1)
        given.append(Outcome(delivery=delivery, state="SUCCESS", result='"' + "x" * BATCH_SIZE + '"', seconds=0.0))
    assert len(statements.record(connection, "me", given, time.monotonic())) == 5


# promote


def waiting_rows():
    for number, (state, run_at) in enumerate(
        [("SCHEDULED", PAST), ("RETRY", PAST + timedelta(days=1)), ("SCHEDULED", ETA), ("PENDING", PAST)]
    ):
        Job.objects.create(id=f"job{number}", task="t", queue=f"q{number}", state=state, run_at=run_at)


def promote_by_orm(limit):
    due = list(Job.objects.due()[:limit])
    for job in due:
        job.state, job.order_key = "PENDING", microseconds(job.run_at)
        job.save()
    return [job.queue for job in due]


@pytest.mark.parametrize("limit", [1, 10])
def test_promote_makes_the_rows_ready_that_the_orm_would(connection, limit):
    promoted = []

    def by_statement():
        waiting_rows()
        promoted.append(sorted(statements.promote(connection, limit)))

    def by_orm():
        waiting_rows()
        promoted.append(sorted(promote_by_orm(limit)))

    found, expected = emptied(by_statement), emptied(by_orm)
    assert_same(found, expected)
    assert promoted[0] == promoted[1]
    assert {key: row["order_key"] for key, row in found.items()} == {
        key: row["order_key"] for key, row in expected.items()
    }


def test_queues_are_those_that_the_orm_would_find(connection):
    assert statements.queues(connection) == []
    stock()
    expected = sorted(set(Job.objects.ready().values_list("queue", flat=True)))
    assert statements.queues(connection) == expected == ["a", "b"]


@pytest.mark.parametrize("most", [1, 2, 1000])
def test_ready_jobs_are_counted_as_the_orm_would_but_no_further_than_wanted(connection, most):
    assert statements.count_ready(connection, most) == {}
    stock()
    expected = dict(Job.objects.ready().order_by().values_list("queue").annotate(Count("pk")))
    assert max(expected.values()) > 2
    assert statements.count_ready(connection, most) == {name: min(count, most) for name, count in expected.items()}


def test_jobs_for_later_and_running_ones_are_counted_as_the_orm_would(connection):
    assert statements.count_others(connection, 2) == ({}, {})
    stock()
    for number in range(2):
        Job.objects.create(id=f"retry{number}", task="task0", queue="b", state="RETRY", run_at=ETA)
    later, running = (
        dict(jobs.order_by().values_list("queue").annotate(Count("pk")))
        for jobs in (Job.objects.scheduled(), Job.objects.running())
    )
    assert statements.count_others(connection, 1000) == (later, running)
    assert (later, running) == ({"a": 1, "b": 2}, {"a": 1})
    assert sum(statements.count_others(connection, 2)[0].values()) == 2


def test_the_oldest_are_those_that_the_orm_would_find(connection):
    assert statements.oldest(connection) == {}
    stock()
    expected = dict(Job.objects.ready().order_by().values_list("queue").annotate(Min("order_key")))
    assert statements.oldest(connection) == expected
    assert len(expected) == 2


# The text of the statements


@pytest.mark.parametrize("vendor", statements.VENDORS)
@pytest.mark.parametrize(
    "name", ["claim", "count_others", "count_ready", "enqueue", "oldest", "promote", "queues", "record"]
)
def test_the_statements_name_the_tables_of_the_models(vendor, name):
    assert (Job._meta.db_table, Queue._meta.db_table) == ("djtasks_job", "djtasks_queue")
    assert "djtasks_job" in statements.sql(vendor, name)


def test_the_model_has_no_column_that_enqueue_leaves_empty_without_a_default():
    text = statements.sql("sqlite", "enqueue")
    written = {word.strip() for word in text[text.index("(") + 1 : text.index(")")].split(",")}
    for field in Job._meta.concrete_fields:
        assert field.column in written or field.null or field.has_db_default(), field.column


# Plans


BACKLOG = 20_000


@pytest.fixture
def backlog(connection):
    """20,000 jobs of next year with a high priority, 2,000 that ended, and 200 ready ones."""
    later, done = [], []
    for number in range(BACKLOG):
        later.append(Message(id=f"later{number:05}", task="t", priority=100, eta=ETA))
    for number in range(2000):
        done.append(Message(id=f"done{number:05}", task="t", priority=100))
    statements.enqueue(connection, later)
    statements.enqueue(connection, done)
    Job.objects.filter(state="PENDING").update(state="SUCCESS", finished_at=datetime.now(UTC))
    statements.enqueue(connection, [Message(id=f"ready{number:05}", task="t", priority=1) for number in range(200)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE TABLE djtasks_job" if connection.vendor == "mysql" else "ANALYZE djtasks_job")
    return connection


def plan(connection, name, params):
    explain = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN ", "mysql": "EXPLAIN "}[connection.vendor]
    statement = statements.sql(connection.vendor, name).replace("/* refused */", "")
    with connection.cursor() as cursor:
        cursor.execute(explain + statement, params)
        return "\n".join(" ".join(map(str, row)) for row in cursor.fetchall())


CLAIM = {
    "postgresql": ["default", "default", 10, "me"],
    "sqlite": ["me", "default", "default", 10],
    "mysql": ["default", "default", 10],
}
PROMOTE = {"postgresql": [1000], "sqlite": [str(PAST), 1000]}


def test_with_a_backlog_the_statements_read_their_indexes_and_sort_nothing(backlog):
    vendor = backlog.vendor
    claims = plan(backlog, "claim", CLAIM[vendor])
    assert "djtasks_job_ready" in claims
    assert not any(word in claims for word in ("Sort", "TEMP B-TREE", "filesort")), claims
    assert "djtasks_job_ready" in plan(backlog, "queues", [])
    assert "djtasks_job_ready" in plan(backlog, "oldest", [])
    assert "djtasks_job_ready" in plan(backlog, "count_ready", ["default", "default", 100])
    if vendor in PROMOTE:
        promotes = plan(backlog, "promote", PROMOTE[vendor])
        assert "djtasks_job_later" in promotes
        assert not any(word in promotes for word in ("Sort", "TEMP B-TREE")), promotes
    claimed = [each.id for _ in range(100) for each in statements.claim(backlog, "default", 2, "me", ())]
    assert claimed == [f"ready{number:05}" for number in range(200)]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_is_for_later_in_one_queue_is_found_without_a_look_at_the_rows_of_all_others(backlog):
    plan = Job.objects.scheduled().filter(queue="rare")[:100].explain(analyze=True)
    assert "djtasks_job_later" in plan
    assert "Rows Removed by Filter" not in plan


def test_how_many_jobs_are_in_a_state_is_estimated(connection):
    Job.objects.bulk_create(
        Job(id=f"job {n}", task="a.task", state="FAILURE" if n % 4 else "SUCCESS") for n in range(1200)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE TABLE djtasks_job" if connection.vendor == "mysql" else "ANALYZE")
        cursor.fetchall() if connection.vendor == "mysql" else None
    found = statements.estimate(connection, ["FAILURE", "SUCCESS"])
    assert 600 < found["FAILURE"] < 1200
    assert 200 < found["SUCCESS"] < 450


# Limits


def test_the_limits_that_an_operator_has_set_are_those_of_tasks_and_of_queues(connection):
    Limit.objects.bulk_create(
        [
            Limit(key="rated", is_task=True, rate="10/s", max_concurrency=3),
            Limit(key="by the code alone", is_task=True, declared="5/m"),
            Limit(key="rated[a key]", rate="10/s"),
        ]
    )
    Queue.objects.bulk_create(
        [
            Queue(name="paced", rate_limit="1/m"),
            Queue(name="narrow", max_concurrency=2),
            Queue(name="closed", max_concurrency=0),
            Queue(name="paused", paused=True),
        ]
    )
    rates, queues = statements.limits_set(connection)
    assert rates == dict(Limit.objects.filter(is_task=True).exclude(rate="").values_list("key", "rate"))
    assert (rates, queues) == ({"rated": "10/s"}, Queue.objects.limits())
    assert queues == {"paced": ("1/m", None), "narrow": ("", 2), "closed": ("", 0)}


def test_where_nothing_is_set_there_is_no_limit(connection):
    assert statements.limits_set(connection) == ({}, {})


def test_queues_that_are_set_are_those_with_a_priority_or_with_jobs_that_age(connection):
    Queue.objects.bulk_create(
        [
            Queue(name="urgent", default_priority=9),
            Queue(name="patient", aging=0.5),
            Queue(name="both", default_priority=0, aging=60),
            Queue(name="paused", paused=True),
        ]
    )
    found = sorted(statements.queues_set(connection))
    assert found == [("both", 0, 60.0), ("patient", None, 0.5), ("urgent", 9, None)]
    assert {name: priority for name, priority, _aging in found if priority is not None} == (
        Queue.objects.default_priorities()
    )


# Workers


@pytest.fixture
def workers(connection):
    """Two that live, and one each that has stopped and that is lost; nobody has been heard of since `PAST`."""
    ends = {"one": {}, "two": {}, "stopped": {"stopped_at": PAST}, "lost": {"lost_at": PAST}}
    Worker.objects.bulk_create(
        Worker(id=name, hostname=name, pid=1, queues="null", pool="solo", concurrency=1, beat=5, beat_at=PAST, **end)
        for name, end in ends.items()
    )


def test_beats_are_those_of_workers_that_are_neither_stopped_nor_lost(connection, workers):
    assert statements.beats(connection) == {"one": 5, "two": 5}


def test_those_beat_that_are_neither_stopped_nor_lost(connection, workers):
    assert statements.beat(connection, ["one", "stopped", "lost", "unknown"]) == 1
    assert dict(Worker.objects.values_list("pk", "beat")) == {"one": 6, "two": 5, "stopped": 5, "lost": 5}
    times = dict(Worker.objects.values_list("pk", "beat_at"))
    assert abs(times.pop("one") - datetime.now(UTC)) < NEAR
    assert set(times.values()) == {PAST}


def test_of_a_worker_is_noted_how_it_stands(connection, workers):
    told = {"processed": 10, "failed": 2, "woke_at": ETA}
    statements.tell_of_worker(connection, "one", **told, beat_at=None)
    statements.tell_of_worker(connection, "two", **{**told, "woke_at": None}, beat_at=ETA)
    columns = ("processed", "failed", "scheduler_at", "beat", "beat_at")
    assert Worker.objects.values_list(*columns).get(pk="one") == (10, 2, ETA, 5, PAST)
    assert Worker.objects.values_list(*columns).get(pk="two") == (10, 2, None, 6, ETA)
    assert Worker.objects.values_list(*columns).get(pk="lost") == (0, 0, None, 5, PAST)
