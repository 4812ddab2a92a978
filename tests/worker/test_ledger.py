"""The ledger: what is recorded once, what is not ours any more, and what the database refuses."""

import json
import threading
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from django.db import OperationalError, connections
from django.test.utils import CaptureQueriesContext

from djtasks import outbox, states
from djtasks.brokers import get_broker
from djtasks.brokers.base import Loss
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Failure, Message, Outcome, new_id
from djtasks.models import Job, JobGroup
from djtasks.models.job import JobQuerySet
from djtasks.testing import run_jobs
from djtasks.worker import ledger as ledger_module
from djtasks.worker.ledger import MOST_WAITING, Ledger
from tests import tasks
from tests.conftest import in_redis as with_queues_in_redis
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker("redis", "valkey")


@pytest.fixture
def ledger(broker):
    return Ledger(broker, "w.1")


@pytest.fixture
def sent(monkeypatch):
    """The follow-ups that go through the one door in."""
    messages = []
    real = outbox.send
    monkeypatch.setattr(outbox, "send", lambda batch, **how: (messages.extend(batch), real(batch, **how)))
    return messages


def claimed(broker, count=1, worker="w.1", **fields):
    broker.enqueue([Message(id=new_id(), task="some.task", **fields) for _ in range(count)])
    return broker.claim("default", limit=count, worker=worker)


def success(delivery, **fields):
    return Outcome(delivery=delivery, state=states.SUCCESS, result="1", seconds=0.5, **fields)


def follow_up():
    return Message(id=new_id(), task="next.task", queue="later")


def row(delivery):
    return Job.objects.get(pk=delivery.id)


def test_outcomes_are_recorded_in_one_go(broker, ledger):
    deliveries = claimed(broker, 30)
    for delivery in deliveries:
        ledger.record(success(delivery))
    assert ledger.pending == 30
    assert ledger.commit() == 30
    assert ledger.pending == 0
    assert set(Job.objects.values_list("state", "result", "worker", "token")) == {("SUCCESS", "1", "w.1", 1)}


def test_times_of_a_run_are_told_by_its_row(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.record(success(delivery))
    ledger.commit()
    job = row(delivery)
    assert job.seconds == 0.5
    assert abs((job.finished_at - job.started_at).total_seconds() - 0.5) < 0.01
    assert job.created_at <= job.finished_at


def test_what_follows_is_sent_with_the_outcome(broker, ledger, sent):
    (delivery,) = claimed(broker)
    ledger.record(success(delivery, follow_ups=(follow_up(),)))
    ledger.commit()
    assert [(each.task, each.check) for each in sent] == [("next.task", False)]
    assert len(broker.claim("later", limit=9, worker="w.2")) == 1


def test_an_outcome_whose_commit_was_not_answered_is_recognised(broker, ledger, sent):
    (delivery,) = claimed(broker)
    outcome = success(delivery, follow_ups=(follow_up(),))
    ledger.record(outcome)
    ledger.commit()
    finished_at = row(delivery).finished_at
    ledger.record(outcome)
    ledger.commit()
    assert [each.check for each in sent] == [False, True]
    assert row(delivery).finished_at == finished_at
    assert len(broker.claim("later", limit=9, worker="w.2")) == 1


@pytest.mark.rows_that_wait
def test_an_outcome_of_a_run_that_was_replaced_is_dropped_with_all_that_follows(broker, ledger, sent, caplog):
    (delivery,) = claimed(broker)
    broker.rescue([Loss("w.1", started=((delivery.id, 1),))], rescuer="k")
    (again,) = broker.claim("default", limit=1, worker="w.2")
    ledger.record(success(delivery, follow_ups=(follow_up(),)))
    ledger.commit()
    assert sent == []
    assert row(delivery).state == states.RECEIVED
    assert "belongs to another worker by now" in caplog.text
    other = Ledger(broker, "w.2")
    other.record(success(again))
    other.commit()
    assert (row(delivery).state, row(delivery).worker, row(delivery).token) == (states.SUCCESS, "w.2", 2)


def test_the_first_terminal_outcome_is_final(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.record(success(delivery))
    ledger.commit()
    ledger.record(replace(success(delivery), state=states.FAILURE, result=None, failure=Failure("E", "late")))
    ledger.commit()
    assert (row(delivery).state, row(delivery).exception) == (states.SUCCESS, "")


@pytest.mark.rows_that_wait
def test_foreign_outcomes_do_not_hold_up_the_others_of_a_batch(broker, ledger):
    deliveries = claimed(broker, 5)
    broker.release(deliveries[1:2])
    for delivery in deliveries:
        ledger.record(success(delivery))
    ledger.commit()
    assert [row(each).state for each in deliveries] == ["SUCCESS", "PENDING", "SUCCESS", "SUCCESS", "SUCCESS"]


def test_a_retry_replaces_the_message_and_drops_the_lease_in_one_step(broker, ledger):
    (delivery,) = claimed(broker)
    following = replace(delivery.message, retries=1, args="[7]", countdown=60.0)
    ledger.record(Outcome(delivery=delivery, state=states.RETRY, next=following, failure=Failure("E", "not yet")))
    ledger.commit()
    job = row(delivery)
    assert (job.state, job.args, job.retries, job.worker, job.token) == (states.RETRY, "[7]", 1, "", 1)
    assert (job.exception, job.exception_message) == ("E", "not yet")
    assert [(each["ending"], each["worker"]) for each in job.earlier_attempts()] == [("RETRY", "w.1")]
    ledger.record(Outcome(delivery=delivery, state=states.RETRY, next=following))
    ledger.commit()
    assert len(row(delivery).earlier_attempts()) == 1


def test_a_retry_forgets_the_losses_but_never_lowers_the_token(broker, ledger):
    (delivery,) = claimed(broker)
    broker.rescue([Loss("w.1", started=((delivery.id, 1),))], rescuer="k")
    (again,) = broker.claim("default", limit=1, worker="w.1")
    assert (again.losses, again.token) == (1, 2)
    ledger.record(Outcome(delivery=again, state=states.RETRY, next=replace(again.message, retries=1)))
    ledger.commit()
    (third,) = broker.claim("default", limit=1, worker="w.1")
    assert (third.losses, third.token) == (0, 3)


@pytest.mark.rows_that_wait
def test_what_is_given_back_returns_to_its_queue(broker, ledger):
    refused, rejected = claimed(broker, 2)
    ledger.record(Outcome(delivery=refused, state=states.PENDING, delay=60, count="refusals"))
    ledger.record(Outcome(delivery=rejected, state=states.REJECTED, delay=0, count="losses"))
    ledger.commit()
    assert (row(refused).state, row(refused).refusals) == (states.SCHEDULED, 1)
    assert (row(rejected).state, row(rejected).losses) == (states.PENDING, 1)


def test_a_plain_job_whose_result_nobody_wants_leaves_no_row(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.record(success(delivery, forget=True))
    ledger.commit()
    assert not Job.objects.exists()


def test_what_nobody_asks_for_goes_without_a_trace_in_one_go_beside_what_stays(broker, ledger):
    deliveries = claimed(broker, 6)
    for number, delivery in enumerate(deliveries):
        ledger.record(success(delivery, forget=number % 2 == 0))
    ledger.commit()
    assert set(Job.objects.values_list("pk", flat=True)) == {each.id for each in deliveries[1::2]}
    assert broker.sizes() == {}


def test_what_nobody_asks_for_leaves_no_row_though_it_was_shown_while_it_ran(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.begin(delivery)
    wait_until(lambda: ledger.next_mark() == 0)
    ledger.commit()
    assert row(delivery).state == "STARTED"
    ledger.record(success(delivery, forget=True))
    ledger.commit()
    assert not Job.objects.exists()


def test_nor_though_an_earlier_run_was_shown(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.begin(delivery)
    wait_until(lambda: ledger.next_mark() == 0)
    ledger.commit()
    broker.rescue([Loss("w.1", started=((delivery.id, delivery.token),))], rescuer="w.2")
    Job.objects.running().update(state=states.PENDING, worker="")
    (again,) = broker.claim("default", limit=1, worker="w.2")
    other = Ledger(broker, "w.2")
    other.record(success(again, forget=True))
    other.commit()
    assert not Job.objects.exists()


def test_where_the_queue_is_elsewhere_what_leaves_no_row_asks_the_database_nothing(broker, ledger):
    if broker.transactional:
        return
    for delivery in claimed(broker, 3):
        ledger.record(success(delivery, forget=True))
    with CaptureQueriesContext(connections[settings.DATABASE]) as asked:
        ledger._writer.write(ledger._gathered, set())
    assert len(asked) == 0


def test_nor_does_one_that_succeeds_after_a_retry(database, tmp_path):
    path = tmp_path / "tries"
    tasks.succeed_at.apply_async((str(path), 2), ignore_result=True)
    assert run_jobs() == 2
    assert path.read_text() == "try 0\ntry 1\n"
    assert not Job.objects.exists()


def test_an_outcome_that_the_database_refuses_fails_alone(broker, ledger, database):
    if database == "default":
        pytest.skip("SQLite takes a text of any length")
    deliveries = claimed(broker, 9)
    too_long = Failure("E" * 300, "the column has 255 characters")
    for number, delivery in enumerate(deliveries):
        bad = replace(success(delivery), state=states.FAILURE, failure=too_long)
        ledger.record(bad if number == 4 else success(delivery))
    ledger.commit()
    assert [row(each).state for each in deliveries] == ["SUCCESS"] * 4 + ["FAILURE"] + ["SUCCESS"] * 4
    assert "DataError" in row(deliveries[4]).exception


def test_outcomes_survive_a_store_that_does_not_answer(broker, ledger, monkeypatch):
    (delivery,) = claimed(broker)
    ledger.record(success(delivery))

    def refuse(*arguments):
        raise OperationalError("the server has gone away")

    with monkeypatch.context() as patch:
        for write in ("record", "store"):
            patch.setattr(JobQuerySet, write, refuse)
            patch.setattr(ledger_module.Job.objects.__class__, write, refuse)
        with pytest.raises(BrokerUnavailable, match="gone away"):
            ledger.commit()
    assert ledger.pending == 1
    ledger.commit()
    assert row(delivery).state == states.SUCCESS


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_process_that_stood_still_in_a_transaction_stores_its_outcome_on_a_new_connection(broker, ledger, database):
    (delivery,) = claimed(broker)
    ledger.record(success(delivery, follow_ups=(follow_up(), follow_up())))
    connection, other = connections[database], connections[database].copy()
    pids = []

    def stand_still(execute, sql, params, many, context):
        if not pids and connection.in_atomic_block and "UPDATE" in sql:
            driver = connection.connection
            pids.append(driver.info.backend_pid)
            driver.execute("SET LOCAL idle_in_transaction_session_timeout = 100")
            wait_until(lambda: not backends(other, pids[0]))
        return execute(sql, params, many, context)

    with closing(other), connection.execute_wrapper(stand_still):
        ledger.commit()
    assert pids
    assert row(delivery).state == states.SUCCESS
    assert Job.objects.waiting().count() == 2


def backends(connection, pid):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid])
        return cursor.fetchone()[0]


def test_recording_blocks_when_too_much_waits(broker, ledger):
    deliveries = claimed(broker, MOST_WAITING + 1)
    done = threading.Event()

    def record_all():
        for delivery in deliveries:
            ledger.record(success(delivery))
        done.set()

    thread = threading.Thread(target=record_all)
    thread.start()
    wait_until(lambda: ledger.pending == MOST_WAITING)
    assert not done.is_set()
    ledger.commit()
    assert done.wait(5)
    thread.join()
    ledger.commit()
    assert Job.objects.filter(state=states.SUCCESS).count() == len(deliveries)


@pytest.mark.rows_that_wait
def test_progress_and_start_are_written_only_by_who_holds_the_job(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.begin(delivery)
    ledger.report(delivery, "PROGRESS", '{"done":1}')
    wait_until(lambda: ledger.next_mark() == 0.0)
    ledger.commit()
    assert (row(delivery).state, row(delivery).shown_state) == (states.STARTED, "PROGRESS")
    broker.release([delivery])
    ledger.report(delivery, "PROGRESS", '{"done":2}')
    ledger.commit()
    assert (row(delivery).state, row(delivery).progress()) == (states.PENDING, {"done": 1})


@pytest.mark.rows_that_wait
def test_what_a_job_says_is_told_at_once_however_young_it_is(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.begin(delivery)
    ledger.report(delivery, "PROGRESS", '{"done":1}')
    ledger.commit()
    assert (row(delivery).state, row(delivery).progress()) == (states.STARTED, {"done": 1})


@pytest.mark.rows_that_wait
def test_a_job_whose_start_is_not_tracked_is_shown_as_begun_once_it_says_something(broker, ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "MARK_AFTER", 0.0)
    silent, talks = claimed(broker, 2)
    for each in (silent, talks):
        ledger.begin(each, tracked=False)
    assert ledger.next_mark() is None
    ledger.report(talks, "PROGRESS", '{"done":1}')
    ledger.commit()
    assert (row(talks).state, row(talks).progress()) == (states.STARTED, {"done": 1})
    assert not Job.objects.filter(pk=silent.id, state=states.STARTED).exists()


def test_the_last_word_of_a_job_is_kept_though_it_ends_in_the_same_moment(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.begin(delivery)
    ledger.report(delivery, "PROGRESS", '{"done":1}')
    ledger.record(success(delivery))
    ledger.commit()
    assert (row(delivery).state, row(delivery).progress()) == (states.SUCCESS, {"done": 1})


def test_the_last_word_of_a_job_that_ends_while_an_earlier_one_is_stored_is_kept(broker, ledger, monkeypatch):
    (delivery,) = claimed(broker)
    ledger.begin(delivery)
    ledger.report(delivery, "PROGRESS", '{"done":1}')
    store = JobQuerySet.report

    def end_meanwhile(*arguments):
        store(*arguments)
        monkeypatch.undo()
        ledger.report(delivery, "PROGRESS", '{"done":2}')
        ledger.record(success(delivery))

    monkeypatch.setattr(JobQuerySet, "report", end_meanwhile)
    ledger.commit()
    ledger.commit()
    assert (row(delivery).state, row(delivery).progress()) == (states.SUCCESS, {"done": 2})


@pytest.mark.rows_that_wait
def test_what_an_earlier_run_still_says_does_not_hide_what_the_later_one_says(broker, ledger):
    (earlier,) = claimed(broker)
    ledger.begin(earlier)
    ledger.record(Outcome(delivery=earlier, state=states.RETRY, next=earlier.message, failure=Failure("E", "again")))
    ledger.commit()
    (later,) = broker.claim("default", limit=1, worker="w.1")
    ledger.begin(later)
    ledger.report(later, "SECOND", "2")
    ledger.report(earlier, "FIRST", "1")
    ledger.commit()
    assert (row(later).shown_state, row(later).progress()) == ("SECOND", 2)


def test_what_a_job_says_after_its_end_changes_nothing(broker, ledger):
    (delivery,) = claimed(broker)
    ledger.begin(delivery)
    ledger.record(success(delivery))
    ledger.commit()
    ledger.report(delivery, "PROGRESS", '{"done":1}')
    ledger.commit()
    assert (row(delivery).state, row(delivery).progress()) == (states.SUCCESS, None)


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb", "redis"], indirect=True)
def test_a_plain_batch_costs_one_round_trip(broker, ledger, database, django_assert_num_queries):
    for delivery in claimed(broker, 50):
        ledger.record(success(delivery))
    statements = {"postgresql": 1, "default": 3, "mariadb": 3}[database]  # elsewhere with BEGIN and COMMIT
    with django_assert_num_queries(statements, connection=connections[database]):
        ledger.commit()


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_an_outcome_at_whose_size_the_server_hangs_up_fails_alone(broker, ledger):
    small, large, last = claimed(broker, 3)
    ledger.record(success(small))
    ledger.record(replace(success(large), result=f'"{"x" * 17 * 1024 * 1024}"'))
    ledger.record(success(last))
    ledger.commit()
    assert [row(each).state for each in (small, large, last)] == ["SUCCESS", "FAILURE", "SUCCESS"]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("how", ["begin", "end"])
def test_rows_of_jobs_with_large_arguments_are_made_in_statements_that_the_server_takes(database, how):
    """All together have 21 MB, where the queue is in Redis: a packet of MariaDB's has 16 MiB."""
    with with_queues_in_redis(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        deliveries = [each for _ in range(3) for each in claimed(broker, args=f'["{"x" * 7_000_000}"]')]
        for each in deliveries:
            if how == "begin":
                ledger.begin(each)
            else:
                ledger.record(success(each))
        wait_until(lambda: not ledger.next_mark())
        ledger.commit()
        state = states.STARTED if how == "begin" else states.SUCCESS
        assert {row(each).state for each in deliveries} == {state}


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_word_at_whose_size_the_server_hangs_up_holds_up_nothing(broker, ledger, caplog):
    talks, other = claimed(broker, 2)
    ledger.begin(talks)
    ledger.report(talks, None, f'"{"x" * 17 * 1024 * 1024}"')
    ledger.record(success(other))
    with pytest.raises(BrokerUnavailable):
        ledger.commit()
    connections[settings.DATABASE].close()
    ledger.commit()
    assert [row(each).state for each in (talks, other)] == ["STARTED", "SUCCESS"]
    assert f"The meta of job {talks.id} has 17825794 bytes and could not be stored" in caplog.text


def test_a_single_try_that_fails_blames_no_job_however_large_it_is(broker, ledger, monkeypatch):
    """It may have met a deadlock, or an end to the session: the I/O thread tries again."""
    (large,) = claimed(broker, args=f'["{"x" * 2 * 1024 * 1024}"]')
    ledger.record(replace(success(large), result=f'"{"x" * 2 * 1024 * 1024}"'))

    def hang_up(*arguments):
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(ledger._writer, "write", hang_up)
        with pytest.raises(BrokerUnavailable):
            ledger.commit(tries=1)
    ledger.commit()
    assert row(large).state == states.SUCCESS


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_job_whose_arguments_alone_are_too_large_for_a_row_fails_without_them_and_holds_up_nothing(database, caplog):
    """Each quotation mark takes four bytes of the statement."""
    with with_queues_in_redis(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        (large,), (other,) = claimed(broker, args=json.dumps(['"' * 4_500_000])), claimed(broker)
        ledger.begin(large)
        wait_until(lambda: ledger.next_mark() == 0.0)
        ledger.record(success(other))
        with pytest.raises(BrokerUnavailable):
            ledger.commit()
        connections[settings.DATABASE].close()
        ledger.commit()
        assert row(other).state == states.SUCCESS
        ledger.record(success(large))
        ledger.commit()
        assert (row(large).state, len(row(large).args) < 100, ledger.pending) == (states.FAILURE, True, 0)


@contextmanager
def locked(alias):
    """Within the block nobody else can write a row of a job, until what it gives is called; who tries gives up soon."""
    ours, other = connections[alias], connections[alias].copy()
    vendor = ours.vendor
    with ours.cursor() as cursor:
        ours.close_at = None  # the session, and what it is told here, last until its end
        for each in {
            "postgresql": ["SET lock_timeout = '20ms'"],
            "mysql": ["SET lock_wait_timeout = 1", "SET innodb_lock_wait_timeout = 1"],
            "sqlite": ["PRAGMA busy_timeout = 20"],
        }[vendor]:
            cursor.execute(each)
    lock, unlock = {
        "postgresql": ("BEGIN; LOCK TABLE djtasks_job IN EXCLUSIVE MODE", "ROLLBACK"),
        "mysql": ("LOCK TABLES djtasks_job WRITE", "UNLOCK TABLES"),
        "sqlite": ("BEGIN IMMEDIATE", "ROLLBACK"),
    }[vendor]
    with closing(other), other.cursor() as cursor:
        cursor.execute(lock)
        yield lambda: cursor.execute(unlock)
    ours.close()


@pytest.mark.parametrize(
    ("database", "part"),
    [("sqlite", "args"), ("sqlite", "headers"), ("postgresql", "headers"), ("mariadb", "args")],
    indirect=["database"],
)
def test_a_lock_that_outlasts_all_tries_blames_no_job_however_large_it_is(database, part, monkeypatch):
    text = f'"{"x" * 5 * 1024 * 1024}"'
    large = {"args": {"args": f"[{text}]"}, "headers": {"headers": f'{{"note": {text}}}'}}[part]
    with with_queues_in_redis(database), locked(database) as unlock:
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        (job,) = claimed(broker, **large)
        ledger.record(success(job))
        real, tries = ledger._writer.write, []

        def write(*arguments):
            tries.append(None)
            if len(tries) > ledger_module.TRIES:
                unlock()
            return real(*arguments)

        monkeypatch.setattr(ledger._writer, "write", write)
        with pytest.raises(BrokerUnavailable):
            ledger.commit()
        assert (ledger.pending, broker.known([job.id])) == (1, {job.id})
        ledger.commit()
        assert row(job).state == states.SUCCESS
        assert len(getattr(row(job), part)) > 1024


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_server_that_takes_no_writes_for_a_while_loses_no_outcome(database):
    """As a master that has become a replica: the connection goes on, each write is refused."""
    with with_queues_in_redis(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        job, talks = claimed(broker, 2)
        ledger.record(success(job))
        connection = connections[database]
        with connection.cursor() as cursor:
            connection.close_at = None  # as CONN_MAX_AGE = None says
            cursor.execute("SET default_transaction_read_only = on")
        with pytest.raises(BrokerUnavailable, match="read-only"):
            ledger.commit()
        ledger.begin(talks)
        ledger.report(talks, "PROGRESS", "1")
        with pytest.raises(BrokerUnavailable, match="read-only"):
            ledger.commit()
        assert (ledger.pending, broker.known([job.id])) == (1, {job.id})
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")
        ledger.commit()
        assert (row(job).state, row(talks).custom_state) == ("SUCCESS", "PROGRESS")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_an_outcome_beyond_what_the_server_takes_in_one_value_fails_alone(broker, ledger, database, monkeypatch):
    (delivery,) = claimed(broker)
    ledger.record(success(delivery))
    write, tries = ledger._writer.write, []

    def too_long_at_first(*arguments):
        tries.append(None)
        with connections[database].cursor() as cursor:
            if len(tries) == 1:
                cursor.execute("SELECT repeat('x', 2000000000)")
        return write(*arguments)

    monkeypatch.setattr(ledger._writer, "write", too_long_at_first)
    ledger.commit()
    assert (row(delivery).state, len(tries)) == (states.FAILURE, 2)


@contextmanager
def refusing(code, condition="TRUE"):
    """Within the block the database refuses new rows of jobs with an SQLSTATE, or, if `code` is one, MySQL's number."""
    with connections[settings.DATABASE].cursor() as cursor:
        if isinstance(code, int):
            signal = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}"
            cursor.execute(
                "CREATE TRIGGER refusing BEFORE INSERT ON djtasks_job FOR EACH ROW "
                f"BEGIN IF {condition} THEN {signal}; END IF; END"
            )
        else:
            cursor.execute(
                "CREATE FUNCTION refusing() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END$$"
            )
            cursor.execute(
                f"CREATE TRIGGER refusing BEFORE INSERT ON djtasks_job FOR EACH ROW WHEN ({condition}) "
                "EXECUTE FUNCTION refusing()"
            )
    try:
        yield
    finally:
        with connections[settings.DATABASE].cursor() as cursor:
            cursor.execute("DROP TRIGGER refusing" + (" ON djtasks_job" if not isinstance(code, int) else ""))
            if not isinstance(code, int):
                cursor.execute("DROP FUNCTION refusing")


@pytest.mark.parametrize(
    ("database", "code", "condition"),
    [
        ("postgresql", "XX002", "TRUE"),  # a damaged index
        ("postgresql", "23502", "TRUE"),  # a column of a later version that must not be NULL
        ("postgresql", "0A000", "TRUE"),
        ("postgresql", "53100", "length(NEW.result) > 1000000"),  # the disk is full: what is short has room
        ("mariadb", 1114, "LENGTH(NEW.result) > 1000000"),  # likewise
        ("mariadb", 1317, "LENGTH(NEW.result) > 1000000"),  # the query was killed
    ],
    indirect=["database"],
)
def test_what_the_store_refuses_whatever_it_is_waits_until_it_takes_it(database, code, condition):
    with with_queues_in_redis(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        jobs = claimed(broker, 2)
        for each in jobs:
            ledger.record(replace(success(each), result=f'"{"x" * 5_000_000}"'))
        with refusing(code, condition), pytest.raises(BrokerUnavailable):
            ledger.commit()
        assert broker.known([each.id for each in jobs]) == {each.id for each in jobs}
        ledger.commit()
        assert [row(each).state for each in jobs] == ["SUCCESS", "SUCCESS"]


@contextmanager
def old_charset(alias):
    """Within the block the session knows no character beyond the basic plane, as OPTIONS {"charset": "utf8"} says."""
    with connections[alias].cursor() as cursor:
        connections[alias].close_at = None
        cursor.execute("SET NAMES utf8")
        yield
    connections[alias].close()


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_an_error_whose_text_the_session_cannot_carry_fails_alone(database):
    with with_queues_in_redis(database), old_charset(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        bad, good = claimed(broker, 2)
        failure = Failure("ValueError", "\N{COLLISION SYMBOL}")
        ledger.record(Outcome(delivery=bad, state=states.FAILURE, failure=failure))
        ledger.record(success(good))
        ledger.commit()
        assert [row(each).state for each in (bad, good)] == ["FAILURE", "SUCCESS"]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_running_job_of_which_no_row_can_be_made_yet_holds_up_no_other(database, caplog):
    with with_queues_in_redis(database), old_charset(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        (bad,), (runs,), (ends,) = claimed(broker, args='["\N{COLLISION SYMBOL}"]'), claimed(broker), claimed(broker)
        for each in (bad, runs):
            ledger.begin(each)
        wait_until(lambda: ledger.next_mark() == 0.0)
        ledger.record(success(ends))
        ledger.commit()
        assert [row(each).state for each in (runs, ends)] == ["STARTED", "SUCCESS"]
        assert f"The row of job {bad.id} cannot say how far it is" in caplog.text
        assert ledger.next_mark() is None


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_missing_table_of_what_follows_does_not_make_a_failure_of_a_success(database):
    with with_queues_in_redis(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        (job,) = claimed(broker)
        ledger.record(success(job, follow_ups=(follow_up(),)))
        with renamed("djtasks_outbox", "djtasks_elsewhere"), pytest.raises(BrokerUnavailable):
            ledger.commit()
        ledger.commit()
        assert (row(job).state, broker.sizes()["later"].ready) == (states.SUCCESS, 1)


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_an_outcome_beyond_a_small_packet_fails_alone(broker, ledger, monkeypatch):
    small, large = claimed(broker, 2)
    ledger.record(success(small))
    ledger.record(replace(success(large), result=f'"{"x" * 500_000}"'))
    real = ledger._writer.write

    def hang_up(outcomes, *arguments):
        if sum(each.size for each in outcomes) > 400_000:
            raise OperationalError(2006, "MySQL server has gone away")
        return real(outcomes, *arguments)

    monkeypatch.setattr(ledger._writer, "write", hang_up)
    monkeypatch.setattr(ledger_module.statements, "packet", lambda connection: 1_000_000)
    ledger.commit()
    assert [row(each).state for each in (small, large)] == ["SUCCESS", "FAILURE"]


@contextmanager
def renamed(table, name):
    def rename(old, new):
        with connections[settings.DATABASE].cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    rename(table, name)
    try:
        yield
    finally:
        rename(name, table)


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_a_table_that_is_missing_for_a_while_loses_no_outcome(database):
    with with_queues_in_redis(database):
        broker = get_broker()
        ledger = Ledger(broker, "w.1")
        (job,) = claimed(broker)
        ledger.record(success(job))
        with renamed("djtasks_job", "djtasks_elsewhere"), pytest.raises(BrokerUnavailable):
            ledger.commit()
        assert (ledger.pending, broker.known([job.id])) == (1, {job.id})
        ledger.commit()
        assert row(job).state == states.SUCCESS


def test_an_outcome_that_nobody_could_have_foreseen_fails_alone(broker, ledger):
    good, bad, last = claimed(broker, 3)
    ledger.record(success(good))
    beyond = replace(bad.message, retries=1, countdown=1e300)
    ledger.record(Outcome(delivery=bad, state=states.RETRY, next=beyond))
    ledger.record(success(last))
    ledger.commit()
    assert [row(each).state for each in (good, bad, last)] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert row(bad).exception in ("OverflowError", "django.db.utils.DataError")


def test_a_member_of_a_group_whose_body_nobody_can_read_fails_alone(broker, ledger):
    JobGroup.objects.create(pk="g", size=1, remaining=1, body="no json")
    (member,), (other,) = claimed(broker, group_id="g"), claimed(broker)
    ledger.record(success(member, counts="g"))
    ledger.record(success(other))
    ledger.commit()
    assert [row(each).state for each in (member, other)] == ["FAILURE", "SUCCESS"]
    assert row(member).exception == "djtasks.exceptions.MalformedMessage"
    assert ledger.pending == 0


def test_attempts_that_are_no_list_do_not_stop_a_retry(broker, ledger):
    (delivery,) = claimed(broker)
    following = replace(delivery.message, retries=1)
    ledger.record(Outcome(delivery=replace(delivery, attempts="1"), state=states.RETRY, next=following))
    ledger.commit()
    assert [each["ending"] for each in row(delivery).earlier_attempts()] == ["RETRY"]


@pytest.mark.rows_that_wait
def test_the_next_try_has_not_begun_whatever_the_last_one_said(broker, ledger):
    (delivery,) = claimed(broker)
    broker.start([delivery])
    ledger.record(Outcome(delivery=delivery, state=states.RETRY, next=replace(delivery.message, retries=1)))
    ledger.commit()
    broker.claim("default", limit=1, worker="w.2")
    assert broker.rescue([Loss("w.2")], rescuer="k") == []
    assert row(delivery).state == states.PENDING


# Where the queue is not the job table: what was delivered before is looked up


in_redis = pytest.mark.parametrize("database", ["redis", "valkey"], indirect=True)


def delivered_again(broker, delivery):
    broker.release([delivery])
    (again,) = broker.claim("default", limit=9, worker="w.1")
    return again


@in_redis
def test_a_redelivery_goes_on_from_the_later_try_in_its_row(broker, ledger):
    (delivery,) = claimed(broker)
    following = replace(delivery.message, retries=1, countdown=3600.0, args="[1]")
    Job.objects.all().store([Outcome(delivery=delivery, state=states.RETRY, seconds=0.1, next=following)])
    assert ledger.unended([delivered_again(broker, delivery)]) == []
    (waiting,) = broker.peek("default", scheduled=True)
    assert (waiting.message.retries, waiting.message.args, waiting.token) == (1, "[1]", 2)
    assert [each["ending"] for each in json.loads(waiting.attempts)] == [states.RETRY]
    assert broker.owners() == set()


@in_redis
def test_a_redelivery_of_a_job_that_has_ended_is_only_acknowledged(broker, ledger):
    (delivery,) = claimed(broker)
    Job.objects.all().store([success(delivery)])
    assert ledger.unended([delivered_again(broker, delivery)]) == []
    assert broker.sizes() == {}
    assert (row(delivery).state, row(delivery).token) == (states.SUCCESS, 1)


@in_redis
@pytest.mark.parametrize("columns", [{"retries": 1, "token": 2}, {"retries": 0, "token": 3}])
def test_what_a_server_has_that_came_back_with_an_older_file_goes_on_from_the_row(broker, ledger, columns):
    """Its row was set to wait by a keeper; the outcome of an older claim could not be recorded."""
    (delivery,) = claimed(broker, check=True)
    Job.objects.create(id=delivery.id, task="some.task", queue="default", **columns)
    rounds = 0
    while ledger.unended([delivery]) == []:
        rounds += 1
        (delivery,) = broker.claim("default", limit=9, worker="w.1")
    assert rounds <= 3
    assert (delivery.message.retries, delivery.token) >= tuple(columns.values())
    ledger.record(success(delivery))
    ledger.commit()
    assert (row(delivery).state, broker.sizes()) == (states.SUCCESS, {})


@in_redis
def test_an_outcome_that_comes_too_late_for_a_row_that_waits_leaves_the_job_in_its_queue(broker, ledger):
    (delivery,) = claimed(broker)
    Job.objects.create(id=delivery.id, task="some.task", queue="default", token=2)
    ledger.record(success(delivery))
    ledger.commit()
    assert [each.id for each in broker.peek("default")] == [delivery.id]
