"""With which transaction a job goes, on one database and on several, with the queues in the database and in Redis."""

from contextlib import ExitStack, contextmanager, suppress

import pytest
from django.db import connections, transaction
from django.test import TestCase

from djtasks import control, outbox, states
from djtasks.brokers import get_broker
from djtasks.brokers.redis.broker import RedisBroker
from djtasks.exceptions import BrokerUnavailable, MessageTooLarge
from djtasks.message import Message, Outcome
from djtasks.models import Job, Outbox
from djtasks.testing import run_jobs
from tests import tasks
from tests.conftest import in_redis

every_broker = pytest.mark.every_broker
in_redis_only = pytest.mark.parametrize("database", ["redis"], indirect=True)
OTHER = {"default": "mariadb", "postgresql": "default", "mariadb": "postgresql"}


@pytest.fixture(autouse=True)
def _no_breather(monkeypatch):
    monkeypatch.setattr(outbox._Breather, "until", 0.0)


def queued():
    """The ids that workers can see."""
    return [each.id for each in get_broker().peek("default")]


def on_commit(settings, mode):
    settings.DJTASKS = {**settings.DJTASKS, "ENQUEUE_ON_COMMIT": mode}


def unreachable(monkeypatch):
    """Redis does not answer."""

    def enqueue(self, messages):
        raise BrokerUnavailable("nobody there")

    monkeypatch.setattr(RedisBroker, "enqueue", enqueue)


@contextmanager
def rolled_back(alias):
    """A transaction that does not commit."""
    with suppress(KeyError), transaction.atomic(using=alias):
        yield
        raise KeyError


def resend():
    """Send all that was left behind, as a keeper does once it has seen it standing there for a while."""
    return outbox.resend(outbox.unsent())


# One database


@every_broker
def test_a_job_is_seen_by_workers_only_after_the_commit(database):
    with transaction.atomic(using=database):
        result = tasks.add.delay(1, 2)
        with pytest.raises(RuntimeError, match="inside a transaction that has not committed"):
            result.get(timeout=5)
    assert queued() == [result.id]
    assert not Outbox.objects.exists()


@every_broker
@pytest.mark.parametrize("mode", ["outbox", True])
def test_a_roll_back_sends_nothing_and_a_savepoint_takes_its_own_with_it(database, settings, mode):
    on_commit(settings, mode)
    with rolled_back(database):
        tasks.noop.delay()
    with transaction.atomic(using=database):
        before = tasks.noop.delay()
        with rolled_back(database):
            tasks.noop.delay()
        after = tasks.noop.enqueue_many([(), ()])
    assert queued() == [before.id, *(each.id for each in after)]
    assert not Outbox.objects.exists()


@in_redis_only
def test_the_outbox_is_written_in_the_transaction(database):
    with transaction.atomic(using=database):
        result = tasks.add.apply_async((1, 2), priority=3, countdown=5)
        message = Message.from_json(Outbox.objects.get(pk=result.id).message)
    assert (message.task, message.args, message.priority, message.countdown) == ("tests.tasks.add", "[1,2]", 3, 5.0)


@in_redis_only
def test_without_an_outbox_the_job_is_sent_after_the_commit(database, settings):
    on_commit(settings, True)
    with transaction.atomic(using=database):
        result = tasks.noop.delay()
        assert (queued(), Outbox.objects.count()) == ([], 0)
    assert queued() == [result.id]


@in_redis_only
def test_with_false_the_job_is_sent_at_once_and_a_roll_back_does_not_take_it_back(database, settings):
    on_commit(settings, False)
    with rolled_back(database):
        result = tasks.noop.delay()
        assert queued() == [result.id]
    assert queued() == [result.id]


@in_redis_only
def test_what_cannot_be_sent_after_the_commit_stays_in_the_outbox_until_a_keeper_sends_it(database, monkeypatch):
    with monkeypatch.context() as patch:
        unreachable(patch)
        with transaction.atomic(using=database):
            result = tasks.add.delay(1, 2)
    assert (queued(), Outbox.objects.count()) == ([], 1)
    assert resend() == 1
    assert (queued(), Outbox.objects.count()) == ([result.id], 0)
    assert get_broker().peek("default")[0].message.check


@in_redis_only
def test_without_an_outbox_a_send_that_fails_after_the_commit_goes_by_it_after_all(database, settings, monkeypatch):
    on_commit(settings, True)
    with monkeypatch.context() as patch:
        unreachable(patch)
        with transaction.atomic(using=database):
            result = tasks.noop.delay()
    assert resend() == 1
    assert queued() == [result.id]


@in_redis_only
def test_after_one_send_in_vain_the_next_ones_do_not_wait(database, monkeypatch):
    calls = []

    def enqueue(self, messages):
        calls.append(messages)
        raise BrokerUnavailable("nobody there")

    with monkeypatch.context() as patch:
        patch.setattr(RedisBroker, "enqueue", enqueue)
        with transaction.atomic(using=database):
            for _ in range(5):
                tasks.noop.delay()
    assert len(calls) == 1
    assert Outbox.objects.count() == 5


@in_redis_only
def test_outside_of_a_transaction_the_caller_learns_that_the_broker_is_away(database, monkeypatch):
    unreachable(monkeypatch)
    with pytest.raises(BrokerUnavailable):
        tasks.noop.delay()
    assert not Outbox.objects.exists()


@every_broker
def test_a_message_too_large_is_refused_in_the_transaction(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "MAX_MESSAGE_BYTES": 100}
    with transaction.atomic(using=database), pytest.raises(MessageTooLarge):
        tasks.add.delay("x" * 100, 1)
    assert queued() == []


@in_redis_only
def test_what_nobody_can_read_in_the_outbox_becomes_a_failed_job(database, monkeypatch):
    Outbox.objects.create(id="broken", message="{no json")
    Outbox.objects.create(id="fine", message=Message(id="fine", task="some.task").to_json())
    assert resend() == 1
    assert (queued(), Outbox.objects.count()) == (["fine"], 0)
    job = Job.objects.get(pk="broken")
    assert (job.state, job.exception) == (states.FAILURE, "djtasks.exceptions.MalformedMessage")


@in_redis_only
def test_what_was_accepted_under_another_limit_is_sent(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "MAX_MESSAGE_BYTES": 100}
    arguments = {"before": "[]", "large": f'["{"x" * 100}"]', "beside": "[]", "after": "[]"}
    sent = [Message(id=pk, task="some.task", queue="default", args=args) for pk, args in arguments.items()]
    for at, row in enumerate((sent[:1], sent[1:3], sent[3:])):
        Outbox.objects.create(id=f"row {at}", message=outbox._text_of(row))
    assert resend() == 4
    assert (queued(), Outbox.objects.count()) == (list(arguments), 0)


@in_redis_only
def test_a_message_that_is_resent_after_its_job_has_ended_does_not_run_again(database, monkeypatch):
    result = tasks.noop.delay()
    run_jobs()
    Outbox.objects.create(id=result.id, message=Message(id=result.id, task="tests.tasks.noop").to_json())
    assert resend() == 1
    assert run_jobs() == 0
    assert Job.objects.get(pk=result.id).token == 1
    assert get_broker().sizes() == {}


@in_redis_only
@pytest.mark.parametrize("mode", ["outbox", True])
def test_what_is_sent_one_after_another_in_a_transaction_goes_in_one_call(database, settings, monkeypatch, mode):
    on_commit(settings, mode)
    batches = []
    real = RedisBroker.enqueue
    monkeypatch.setattr(RedisBroker, "enqueue", lambda self, batch: batches.append(len(batch)) or real(self, batch))
    with transaction.atomic(using=database):
        for _ in range(20):
            tasks.noop.delay()
        with rolled_back(database):
            tasks.noop.delay()
        with transaction.atomic(using=database):
            tasks.noop.delay()
        last = tasks.noop.delay()
    assert batches == [20, 1, 1]
    assert queued()[-1] == last.id
    assert not Outbox.objects.exists()


# Several databases


@pytest.fixture
def both(database):
    """The alias of our tables, and another one."""
    other = OTHER[database]
    if other not in connections.settings:
        pytest.skip(f"{other} is missing")
    yield database, other
    connections[other].close()


@every_broker
@pytest.mark.parametrize("outer_first", [True, False])
def test_a_job_goes_when_the_last_of_several_transactions_has_committed(both, outer_first):
    outer, inner = both if outer_first else reversed(both)
    with transaction.atomic(using=outer):
        with transaction.atomic(using=inner):
            result = tasks.noop.delay()
        assert queued() == []
    assert queued() == [result.id]


@every_broker
@pytest.mark.parametrize("outer_first", [True, False])
def test_a_job_does_not_go_if_one_of_several_transactions_is_rolled_back(both, outer_first):
    outer, inner = both if outer_first else reversed(both)
    with transaction.atomic(using=outer), rolled_back(inner):
        tasks.noop.delay()
    with rolled_back(outer), transaction.atomic(using=inner):
        tasks.noop.delay()
    assert (queued(), Outbox.objects.count()) == ([], 0)


@every_broker
def test_a_job_may_wait_for_a_transaction_on_another_database_alone(both):
    _own, other = both
    with transaction.atomic(using=other):
        result = tasks.noop.delay()
        assert queued() == []
    assert queued() == [result.id]


@every_broker
def test_using_names_the_transaction_to_which_a_job_belongs(both):
    own, other = both
    with rolled_back(other):
        with transaction.atomic(using=own):
            tied = tasks.noop.apply_async(using=own)
        assert queued() == [tied.id]
    with transaction.atomic(using=own):
        tasks.noop.apply_async(using=other)  # no transaction is open there
        assert len(queued()) == 2


@every_broker
def test_using_must_name_a_database(database):
    with pytest.raises(ValueError, match="names no database"):
        tasks.noop.apply_async(using="nowhere")


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
def test_several_transactions_none_of_which_is_ours_must_be_chosen_from(database, settings):
    others = [alias for alias in ("default", "postgresql", "mariadb") if alias != database]
    if not set(others) <= set(connections.settings):
        pytest.skip("a database is missing")
    with ExitStack() as stack:
        for alias in others:
            stack.enter_context(transaction.atomic(using=alias))
        with pytest.raises(ValueError, match=f"open on {others[0]} and {others[1]}|{others[1]} and {others[0]}"):
            tasks.noop.delay()
        result = tasks.noop.apply_async(using=others[0])
    assert queued() == [result.id]


# In a site's own tests


def test_in_a_test_run_the_queues_are_not_those_of_the_site(settings):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_URL": "redis://127.0.0.1:1/0"}
    assert get_broker().url == "database://"
    settings.DJTASKS = {**settings.DJTASKS, "TEST_BROKER_URL": "redis://127.0.0.1:2/0"}
    assert get_broker().url == "redis://127.0.0.1:2/0"


class SitesTestCase(TestCase):
    databases = {"default", "postgresql"} & set(connections.settings)

    def test_run_jobs_sends_what_waits_for_a_commit_that_never_comes(self):
        with in_redis("default"):
            result = tasks.add.delay(1, 2)
            assert Outbox.objects.count() == 1
            assert run_jobs() == 1
            assert result.get(timeout=0) == 3

    def test_captured_callbacks_send(self):
        with in_redis("default"):
            with self.captureOnCommitCallbacks(execute=True):
                result = tasks.add.delay(1, 2)
            assert queued() == [result.id]

    def test_with_the_queues_in_the_database_a_job_is_there_at_once(self):
        result = tasks.add.delay(1, 2)
        assert queued() == [result.id]


@in_redis_only
def test_a_retry_from_the_admin_goes_by_the_outbox(database, monkeypatch):
    result = tasks.noop.delay()
    run_jobs()
    with monkeypatch.context() as patch:
        unreachable(patch)
        assert control.retry(result.id) == 1
    assert (queued(), Outbox.objects.count()) == ([], 1)
    assert resend() == 1
    assert run_jobs() == 1
    assert Job.objects.get(pk=result.id).token == 2


@in_redis_only
def test_retrying_a_job_whose_ack_is_still_under_way_loses_nothing(database):
    """The job is leased in Redis, its row has ended: the new run takes the place of the old lease."""
    broker = get_broker()
    result = tasks.noop.delay()
    (delivery,) = broker.claim("default", limit=1, worker="w.1")
    Job.objects.all().store([Outcome(delivery=delivery, state=states.SUCCESS, seconds=0.1)])
    assert control.retry(result.id) == 1
    broker.ack([delivery])
    assert run_jobs() == 1
    assert (Job.objects.get(pk=result.id).state, broker.sizes()) == (states.SUCCESS, {})
