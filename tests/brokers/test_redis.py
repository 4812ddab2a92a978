"""The Redis broker's own: its keys, its server's moods, and all the ways to it."""

import select
import socket
import threading
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test.utils import override_settings

import djtasks
from djtasks import checks, outbox
from djtasks.brokers import broker_for, get_broker
from djtasks.brokers.base import Loss
from djtasks.brokers.redis import requirements, server
from djtasks.brokers.redis.server import Server, script
from djtasks.brokers.redis.wakeup import Wakeup
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured
from djtasks.message import VERSION, Message, new_id
from djtasks.models import Job, Outbox
from djtasks.worker.child import Child
from djtasks.worker.descriptors import readable
from djtasks.worker.ledger import Ledger
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots
from tests import tasks
from tests.conftest import PREFIX, empty_redis
from tests.executing import Execution
from tests.proxy import Proxy
from tests.redis_servers import RedisProcess, cluster, make_certificates, sentinel_service
from tests.waiting import wait_until

in_redis = pytest.mark.parametrize("database", ["redis", "valkey"], indirect=True)


def message(task="some.task", **fields):
    return Message(id=fields.pop("id", None) or new_id(), task=task, **fields)


def ids(deliveries):
    return [each.id for each in deliveries]


def claim(broker, limit=100, worker="one", queue="default", **options):
    return broker.claim(queue, limit=limit, worker=worker, **options)


@pytest.fixture
def use(settings):
    """The broker that a URL names, with options and settings."""
    brokers = []

    def use(url, options=None, **djtasks_settings):
        chosen = {"BROKER_URL": url, "TEST_BROKER_URL": url, "BROKER_OPTIONS": options or {}, **djtasks_settings}
        settings.DJTASKS = {**settings.DJTASKS, **chosen}
        brokers.append(get_broker())
        return brokers[-1]

    yield use
    for each in brokers:
        each.close()


def works(broker):
    """A job goes in and comes out, once."""
    sent = message()
    broker.enqueue([sent])
    assert sent.id in [each.id for each in broker.peek("default")]
    deliveries = claim(broker)
    assert sent.id in ids(deliveries)
    broker.ack(deliveries)
    return broker.sizes() == {}


# Keys


@in_redis
def test_all_keys_stand_under_one_tag_and_none_is_left_when_all_is_done(broker, settings):
    broker.enqueue([message(), message(priority=5), message(countdown=0.01), message(queue="ü/ *")])
    wait_until(broker.promote)
    url = settings.DJTASKS["BROKER_URL"]
    with redis.Redis.from_url(url) as client:
        own = {key.decode() for key in client.scan_iter(f"*{PREFIX}*")}
        assert {key.partition(":")[0] for key in own} == {f"{{{PREFIX}}}"}
        for queue in ("default", "ü/ *"):
            broker.ack(claim(broker, queue=queue))
        broker.queues()
        left = {key.decode().partition(":")[2] for key in client.scan_iter(f"{{{PREFIX}}}:*")}
    assert left <= {"clock", "server"}


@in_redis
def test_what_is_claimed_is_in_the_lease_in_the_same_step(broker):
    broker.enqueue([message(id="x")])
    (delivery,) = claim(broker, worker="w.1")
    assert (broker.owners(), broker.peek("default"), broker.known(["x", "y"])) == ({"w.1"}, [], {"x"})
    broker.ack([delivery])
    assert (broker.owners(), broker.known(["x"])) == (set(), set())


@in_redis
def test_two_prefixes_do_not_see_each_other(broker, settings):
    broker.enqueue([message()])
    other = {**settings.DJTASKS, "BROKER_OPTIONS": {"prefix": f"{PREFIX}-other"}}
    mine = settings.DJTASKS
    settings.DJTASKS = other
    assert claim(get_broker()) == []
    get_broker().close()
    settings.DJTASKS = mine
    assert len(claim(get_broker())) == 1


@in_redis
def test_jobs_of_one_moment_keep_their_order_however_many_they_are(broker):
    sent = [message(id=f"{9999 - number:04}") for number in range(2000)]
    for at in range(0, 2000, 400):
        broker.enqueue(sent[at : at + 400])
    claimed = [each for _ in range(4) for each in claim(broker, limit=500)]
    assert ids(claimed) == [each.id for each in sent]


@in_redis
def test_a_job_that_becomes_due_takes_its_place_by_its_time(broker):
    broker.enqueue([message(id="due", eta=datetime.now(UTC) + timedelta(seconds=0.2))])
    time.sleep(0.3)  # its time passes while nobody promotes
    broker.enqueue([message(id="later")])
    broker.promote()
    assert ids(claim(broker)) == ["due", "later"]


@in_redis
def test_jobs_that_are_due_in_many_queues_are_all_promoted(broker):
    broker.enqueue([message(queue=f"q{number}", countdown=0.01) for number in range(150)])
    promoted = []
    wait_until(lambda: promoted.append(broker.promote()) or sum(promoted) == 150)
    assert len(broker.queues()) == 150


# What an operator does


@in_redis
def test_a_finished_job_that_was_cancelled_may_be_retried(broker):
    broker.cancel(["x"])
    broker.pardon(["x"])
    broker.enqueue([message(id="x", check=True, claims=2)])
    (delivery,) = claim(broker)
    assert (delivery.revoked, delivery.token) == (False, 3)


@in_redis
def test_a_job_cancelled_while_it_runs_is_not_repeated(broker):
    broker.enqueue([message(id="x")])
    (delivery,) = claim(broker)
    assert broker.cancel(["x"]) == 1
    broker.reschedule([(delivery, message(id="x", retries=1, countdown=60))])
    assert claim(broker)[0].revoked


# Waiting for jobs


@in_redis
def test_who_is_called_away_before_it_waits_does_not_ask_twice(broker, monkeypatch):
    """Of two open questions the answers would never be told apart again, and one would take another's wake-up."""
    asked = []
    real = redis.Connection.pack_commands
    monkeypatch.setattr(
        redis.Connection,
        "pack_commands",
        lambda self, some: (asked.extend(each[0] for each in some), real(self, some))[1],
    )
    waits = broker.wakeable(["default"])
    assert broker.wakeable(["default"]) == waits
    assert asked.count("BZPOPMIN") == 1
    broker.enqueue([message()])
    assert readable([waits], 5.0)
    broker.drain_wakeups()
    broker.wakeable(["default"])
    assert asked.count("BZPOPMIN") == 2
    broker.drain_wakeups()


# What nobody can read


@in_redis
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{no json", "not a message of ours"),
        ("[]", "not a message of ours"),
        ('{"id":"x","task":5}', "not a message of ours"),
        ('{"id":"x"}', "not a message of ours"),
        (b"\xff\xfe", "not a message of ours"),
        (None, "somebody has deleted it"),
    ],
)
def test_a_message_that_nobody_can_read_becomes_a_failed_job(broker, settings, text, why):
    broker.enqueue([message(id="x"), message(id="good", task="tests.tasks.noop")])
    with redis.Redis.from_url(settings.DJTASKS["BROKER_URL"]) as client:
        if text is None:
            client.hdel(broker.keys.messages, "x")
        else:
            client.hset(broker.keys.messages, "x", text)
    deliveries = claim(broker, worker="w.1")
    assert ids(deliveries) == ["x", "good"]
    ledger = Ledger(broker, "w.1")
    for delivery in deliveries:
        ledger.record(Execution(delivery).run())
    ledger.commit()
    job = Job.objects.get(pk="x")
    assert (job.state, job.exception) == ("FAILURE", "djtasks.exceptions.MalformedMessage")
    assert why in job.exception_message
    assert Job.objects.get(pk="good").state == "SUCCESS"
    assert broker.sizes() == {}


@in_redis
@pytest.mark.parametrize("standing", [b"", b"\xff", b"garbage", b"\x90", b"\x93\x01\x02\x03"])
@pytest.mark.parametrize(("delay", "refused"), [(None, []), (None, ["other.task"]), (0.0, [])])
def test_what_stands_of_a_job_and_cannot_be_read_holds_up_no_queue(broker, settings, standing, delay, refused):
    eta = None if delay is None else datetime.now(UTC) + timedelta(seconds=0.05)
    broker.enqueue([message(id="x", eta=eta), message(id="good", eta=eta)])
    with redis.Redis.from_url(settings.DJTASKS["BROKER_URL"]) as client:
        client.hset(broker.keys.jobs, "x", standing)
    deliveries = []

    def both():
        broker.promote()
        deliveries.extend(claim(broker, refused=refused))
        return len(deliveries) == 2

    wait_until(both, what="both jobs")
    assert set(ids(deliveries)) == {"x", "good"}
    broker.ack(deliveries)
    assert broker.sizes() == {}


@in_redis
def test_a_message_of_a_newer_release_is_left_to_a_newer_worker(broker, settings):
    broker.enqueue([message(id="x", task="tests.tasks.noop")])
    newer = f'{{"id":"x","task":"tests.tasks.noop","version":{VERSION + 1},"something":"new"}}'
    with redis.Redis.from_url(settings.DJTASKS["BROKER_URL"]) as client:
        client.hset(broker.keys.messages, "x", newer)
    (delivery,) = claim(broker)
    outcome = Execution(delivery).run()
    assert (outcome.state, outcome.count) == ("PENDING", "refusals")


@in_redis
def test_a_key_of_another_kind_under_our_name_is_a_clear_error(broker, settings):
    with redis.Redis.from_url(settings.DJTASKS["BROKER_URL"]) as client:
        client.set(broker.keys.jobs, "mine")
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        broker.enqueue([message()])


# Waking up


def wakes(broker, queues=("default",), timeout=5.0):
    """Whether a wait ends well before its time."""
    began = time.monotonic()
    broker.wait(queues, timeout=timeout)
    return time.monotonic() - began < 0.5


@in_redis
def test_an_enqueue_wakes_one_and_the_claimer_wakes_the_next_if_something_is_left(broker):
    broker.enqueue([message(), message()])
    assert wakes(broker)
    claim(broker, limit=1)
    assert wakes(broker)
    claim(broker, limit=1)
    assert not wakes(broker)


@in_redis
@pytest.mark.filterwarnings("ignore:Call to '__init__' function with deprecated:DeprecationWarning")
@pytest.mark.parametrize("library", ["this redis-py", "one before DriverInfo"])
def test_the_servers_list_of_clients_names_us(broker, use, settings, monkeypatch, library):
    if library == "one before DriverInfo":
        monkeypatch.setattr(server, "_driver_info", None)
    server._identity.cache_clear()
    try:
        ours = use(settings.DJTASKS["BROKER_URL"])
        clients = ours.server.ask("CLIENT", "LIST").decode().splitlines()
    finally:
        server._identity.cache_clear()
    named = [line for line in clients if f"lib-name=redis-py(djtasks_v{djtasks.__version__})" in line]
    assert named or "lib-name=" not in clients[0]  # from Redis 7.2 on
    assert all(f"lib-ver={redis.__version__}" in line for line in named)


def test_a_wait_that_the_server_hangs_up_on_says_so_and_the_next_is_on_a_new_connection(use):
    with RedisProcess() as server:
        broker = use(server.url)
        markers = [broker.keys.wake("default")]
        wakeup = Wakeup(broker.server)
        poller = select.poll()
        poller.register(wakeup.fileno(markers), select.POLLIN)
        server.restart()
        assert poller.poll(5000)
        with pytest.raises(BrokerUnavailable, match="hung up while we waited"):
            wakeup.drain()
        server.client().zadd(markers[0], {"": 1})
        assert select.select([wakeup.fileno(markers)], [], [], 0.5)[0]
        wakeup.drain()
        wakeup.close()


def test_a_server_that_is_too_old_or_forgets_by_itself_is_named():
    """No such Redis can be started here, so this is what one says of itself."""
    old = {"redis_version": "6.0.16", "aof_enabled": "1"}
    errors, warnings = requirements.unmet(old, never_syncs=True)
    assert [each.split(";")[0] for each in errors] == [
        "Redis 6.0.16 is too old",
        "BROKER_OPTIONS['durable'] needs appendfsync everysec or always, not no.",
    ]
    assert warnings == []
    assert not requirements.is_durable(old)


@in_redis
def test_nobody_is_woken_again_and_again_by_a_paused_queue(broker):
    broker.enqueue([message(), message()])
    broker.pause("default")
    assert wakes(broker)
    assert claim(broker) == []
    assert not wakes(broker)
    broker.resume("default")
    assert wakes(broker)


@in_redis
def test_nobody_is_woken_again_and_again_by_jobs_that_he_refused(broker):
    broker.enqueue([message(task="unknown"), message(task="unknown")])
    assert wakes(broker)
    assert claim(broker, refused=["unknown"]) == []
    assert not wakes(broker)


@in_redis
@pytest.mark.parametrize("give", ["release", "cancel", "promote", "reschedule", "rescue"])
def test_whatever_makes_a_job_ready_wakes_somebody(broker, give):
    broker.enqueue([message(id="x", countdown=0.01 if give == "promote" else None)])
    if give == "promote":
        wait_until(broker.promote)
    else:
        delivery = claim(broker)[0]
        assert not wakes(broker)
        {
            "release": lambda: broker.release([delivery]),
            "cancel": lambda: (broker.release([delivery], delay=60), broker.cancel(["x"])),
            "reschedule": lambda: broker.reschedule([(delivery, message(id="x"))]),
            "rescue": lambda: broker.rescue([Loss("one")], rescuer="k"),
        }[give]()
    assert wakes(broker)


@in_redis
def test_a_wait_that_is_broken_off_takes_no_wake_up_with_it(broker):
    wakeup = Wakeup(broker.server)
    wakeup.fileno([broker.keys.wake("default")])
    wakeup.drain()
    broker.enqueue([message()])
    assert wakes(broker)
    wakeup.close()


# What comes with a wake-up


def know_the_script(broker):
    """Have the server know it, as after the first claim of any worker."""
    assert claim(broker, queue="another") == []


def heard(broker, *queues, timeout=5.0, **options):
    """What is leased to `one`, who waits for jobs of these queues, once something has come."""
    know_the_script(broker)
    descriptor = broker.wakeable(queues or ["default"], worker="one", **options)
    assert readable([descriptor], timeout)
    return broker.drain_wakeups()


@in_redis
def test_a_job_comes_leased_with_the_wake_up(broker):
    broker.enqueue([message(id="before")])
    broker.ack(heard(broker))  # what came before the question comes at once
    broker.wakeable(["default"], worker="one")
    broker.enqueue([message(id="x")])
    (delivery,) = broker.drain_wakeups()
    assert (delivery.id, delivery.worker, delivery.token) == ("x", "one", 1)
    assert broker.leases(["x"]) == {"x": ("one", 1)}
    broker.ack([delivery])
    assert broker.sizes() == {}


@in_redis
def test_of_those_who_wait_each_gets_one_job_of_several_that_come_together(broker):
    know_the_script(broker)
    ours, theirs = Wakeup(broker.server), broker._wakeup()
    for wakeup, worker in ((ours, "one"), (theirs, "two")):
        claim_of = broker.server.command("claim", *broker._claim(["default"], 1, worker))
        wakeup.fileno([broker.keys.wake("default")], claim_of)
    broker.enqueue([message(id="a"), message(id="b"), message(id="c")])
    found = [broker._claimed(each.drain(), "", ["default"]) for each in (ours, theirs)]
    assert sorted(ids(found[0] + found[1])) == ["a", "b"]
    assert ids(broker.peek("default")) == ["c"]
    assert wakes(broker)
    ours.close()


@in_redis
def test_as_many_come_as_are_asked_for_of_the_queues_in_their_turn(broker):
    broker.enqueue([message(id="b1", queue="b"), message(id="b2", queue="b"), message(id="a", queue="a")])
    assert ids(heard(broker, "a", "b", limit=2)) == ["a", "b1"]
    assert [each.message.queue for each in heard(broker, "a", "b", limit=2)] == ["b"]


@in_redis
def test_who_gets_a_job_of_another_queue_wakes_the_next_for_the_one_that_woke_him(broker):
    broker.enqueue([message(queue="a"), message(queue="b")])
    with redis.Redis.from_url(broker.url) as client:
        client.delete(broker.keys.wake("a"))  # so that b's marker is the one that is taken
    assert [each.message.queue for each in heard(broker, "a", "b")] == ["a"]
    assert wakes(broker, ["b"])


@in_redis
def test_a_paused_queue_gives_nothing_with_the_wake_up(broker):
    broker.enqueue([message()])
    broker.pause("default")
    assert heard(broker) == []
    assert not wakes(broker)


@in_redis
def test_a_question_that_is_withdrawn_claims_nothing_afterwards_and_loses_nothing_before(broker):
    know_the_script(broker)
    for number in range(50):
        broker.wakeable(["default"], worker="one")
        sender = threading.Thread(target=broker.enqueue, args=([message()],))
        sender.start()
        claimed = broker.drain_wakeups()
        sender.join()
        assert claimed is not None, number
        assert len(claimed) + len(broker.peek("default")) == 1, number
        assert len(broker.leases(ids(claimed))) == len(claimed)
        broker.ack([*claimed, *claim(broker)])


@in_redis
def test_a_question_without_an_answer_ends_with_nothing(broker):
    assert heard(broker) == []


def test_where_the_server_does_not_know_the_script_the_queues_are_to_be_asked(use):
    with RedisProcess() as server:
        broker = use(server.url)
        broker.enqueue([message(id="x")])
        assert readable([broker.wakeable(["default"], worker="one")], 5.0)
        assert broker.drain_wakeups() is None
        assert ids(claim(broker)) == ["x"]


def test_what_comes_from_a_server_that_was_restarted_is_looked_up_before_it_runs(use):
    """Rule 14: by whichever connection a process meets it first."""
    with RedisProcess(options={"appendonly": "yes", "appendfsync": "always"}) as server:
        broker = use(server.url)
        broker.remember()
        broker.enqueue([message(id="x")])
        server.restart()
        server.client().script_load(script("claim")[0])  # as another worker's claim does
        assert readable([broker.wakeable(["default"], worker="one")], 5.0)
        assert [(each.id, each.message.check) for each in broker.drain_wakeups()] == [("x", True)]


def test_who_waits_when_the_server_goes_down_is_told_and_may_have_claimed(use):
    with RedisProcess() as server:
        broker = use(server.url)
        descriptor = broker.wakeable(["default"], worker="one")
        before = broker.reconnects
        server.restart()
        assert readable([descriptor], 5.0)
        with pytest.raises(BrokerUnavailable, match="hung up while we waited"):
            broker.drain_wakeups()
        broker.enqueue([message(id="x")])
        assert ids(heard(broker)) == ["x"]
        assert broker.reconnects > before


# What it costs


@in_redis
def test_a_batch_costs_two_calls_however_large_it_is(broker, monkeypatch):
    """One claims, one acknowledges: of the outcomes in between Redis need not know."""
    assert works(broker)  # the server knows the scripts
    broker.enqueue([message(task="tests.tasks.noop") for _ in range(200)])
    ledger = Ledger(broker, "w.1")
    calls = []
    real = server._answer
    monkeypatch.setattr(Server, "_eval", _noted(Server._eval, calls))
    monkeypatch.setattr(server, "_answer", lambda *command: (calls.append(command), real(*command))[1])
    for delivery in claim(broker, limit=200, worker="w.1"):
        ledger.record(Execution(delivery).run())
    ledger.commit()
    assert len(calls) == 2
    assert Job.objects.filter(state="SUCCESS").count() == 200


def _noted(function, calls):
    def noted(self, *arguments):
        calls.append(arguments)
        return function(self, *arguments)

    return noted


# The way to the server


def test_valkey_and_redis_are_told_apart_by_nothing_but_their_url(settings):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_OPTIONS": {}}
    for url in ("redis://h:1/2", "rediss://u:p@h/0", "unix:///run/redis.sock?db=3", "redis+cluster://a:1,b:2"):
        assert broker_for(url).url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://h1,h2/0", r"\?service="),
        ("redis+cluster://h1:1/5", "no numbered databases"),
        ("redis://h:port/0", "cannot be read"),
        ("redis://h/0?socket_timeout=soon", "cannot be read"),
        ("redis+cluster://", "names no host"),
        ("redis://h/x", "'x' is no number of a database"),
        ("redis://h/0?sockt_timeout=3", "sockt_timeout"),
        ("redis+sentinel://h/0?service=s&foo=3", "foo"),
        ("amqp://h", "which no broker of djtasks serves. There are: database://, redis://"),
    ],
)
def test_a_url_that_makes_no_sense_is_a_check_error_that_says_why(settings, url, why):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_URL": url}
    with pytest.raises(ImproperlyConfigured, match=why):
        broker_for(url)
    assert [each.id for each in checks.check_settings()] == ["djtasks.E004"]


@pytest.mark.parametrize("url", ["redis://h", "database://"])
@pytest.mark.parametrize(
    "options", [{"prefix": 5}, {"durabel": True}, {"durable": "yes"}, {"replicas": -1}, {"listen": 1}]
)
def test_options_that_make_no_sense_are_check_errors(settings, options, url):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_URL": url, "BROKER_OPTIONS": options}
    assert [each.id for each in checks.check_settings()] == ["djtasks.E004"]


@pytest.mark.parametrize("prefix", ["", "a{b}"])
def test_a_prefix_with_braces_is_none(settings, prefix):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_URL": "redis://h", "BROKER_OPTIONS": {"prefix": prefix}}
    assert [each.id for each in checks.check_settings()] == ["djtasks.E004"]


def test_errors_do_not_tell_the_password(use):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = use(f"redis://ann:secret@127.0.0.1:{port}/0", BROKER_TIMEOUT=0.3)
    with pytest.raises(BrokerUnavailable) as caught:
        broker.enqueue([message()])
    assert "secret" not in str(caught.value)
    assert "ann:" in str(caught.value)


def test_a_caller_waits_for_a_server_that_is_away_no_longer_than_the_timeout(use):
    with RedisProcess() as server:
        broker = use(server.url, BROKER_TIMEOUT=1.0)
        assert works(broker)
        for take_away, bring_back in ((server.kill, server.restart), (server.pause, server.resume)):
            take_away()
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                broker.enqueue([message()])
            assert 0.2 < time.monotonic() - began < 5.0
            bring_back()
            assert works(broker) or claim(broker) == []


def test_a_caller_does_not_notice_a_server_that_is_back_in_time(use):
    with RedisProcess() as server:
        broker = use(server.url, BROKER_TIMEOUT=5.0)
        assert works(broker)
        server.kill()
        threading.Timer(0.5, server.restart).start()
        broker.enqueue([message(id="x")])
        assert ids(claim(broker)) == ["x"]


def test_a_connection_that_died_without_a_word_is_noticed_within_seconds(use):
    """A firewall that forgot it, say: the next question gets no answer, a new connection does."""
    with RedisProcess() as server:
        proxy = Proxy(*server.address)
        proxy.open()
        broker = use(server.url.replace(str(server.port), str(proxy.port)), BROKER_TIMEOUT=4.5)
        assert works(broker)
        proxy.mute()
        began = time.monotonic()
        broker.enqueue([message(id="x")])
        assert time.monotonic() - began < 4.5
        assert ids(claim(broker)) == ["x"]
        proxy.close()


def test_an_enqueue_whose_answer_got_lost_does_not_run_a_job_again_that_has_ended_since(use, database_without_queues):
    with RedisProcess() as server:
        direct = use(server.url)
        proxy = Proxy(*server.address)
        proxy.open()
        broker = use(server.url.replace(str(server.port), str(proxy.port)), BROKER_TIMEOUT=6.0)
        assert works(broker)
        proxy.mute_answers()
        sender = threading.Thread(target=broker.enqueue, args=([message(id="x", task="tests.tasks.noop")],))
        sender.start()
        ledger = Ledger(direct, "w.1")
        (delivery,) = wait_until(lambda: claim(direct, worker="w.1"))
        ledger.record(Execution(delivery).run())
        ledger.commit()
        assert (direct.known(["x"]), sender.is_alive()) == (set(), True)
        sender.join()
        (again,) = claim(direct, worker="w.1")
        assert (again.id, again.token, again.message.check) == ("x", 1, True)
        assert ledger.unended([again]) == []
        assert direct.sizes() == {}
        proxy.close()


def test_who_has_no_patience_waits_for_one_try_alone(use):
    with RedisProcess() as server:
        broker = use(server.url, BROKER_TIMEOUT=5.0)
        assert works(broker)
        server.kill()
        began = time.monotonic()
        with broker.patience(0.0), pytest.raises(BrokerUnavailable, match="Does it run, and is BROKER_URL right"):
            broker.enqueue([message()])
        assert time.monotonic() - began < 4.0


def test_whoever_says_what_to_enter_while_it_waits_enters_it_at_each_question(use):
    waits = []

    class Meanwhile(AbstractContextManager):
        def __exit__(self, *_):
            waits.append(None)

    with RedisProcess() as server:
        broker = use(server.url)
        with broker.patience(0.0, Meanwhile()):
            broker.enqueue([message()])
            assert waits
            with broker.patience(1.0):  # who knows nothing of it leaves it as it is
                waits.clear()
                broker.sizes()
                assert waits
            waits.clear()
            readable([broker.wakeable(["default"], worker="w.1")], 5.0)
            assert waits  # to connect
            waits.clear()
            assert len(broker.drain_wakeups() or claim(broker, worker="w.1")) == 1
            assert waits
        waits.clear()
        broker.sizes()
        assert waits == []


def test_scripts_are_loaded_again_after_a_restart(use):
    with RedisProcess() as server:
        broker = use(server.url)
        assert works(broker)
        with server.client() as client:
            client.script_flush()
        assert works(broker)


def test_a_unix_socket_and_a_user_of_the_acl(use):
    allowed = "~{mine}:* +@read +@write +@scripting +@connection +time +info"  # as docs/brokers.md says
    rules = f"user worker on >secret {allowed}\nuser less on >secret {allowed} -time\nuser default off\n"
    with RedisProcess(
        options={"aclfile": "users.acl", "unixsocket": "redis.sock"},
        files={"users.acl": rules},
        user="worker",
        password="secret",
    ) as server:
        assert works(use(server.unix_url, {"prefix": "mine"}))
        assert works(use(server.url, {"prefix": "mine"}))
        with pytest.raises(BrokerUnavailable, match="Redis refuses us"):
            use(server.url, {"prefix": "yours"}).enqueue([message()])
        assert "Redis refuses us" in use(server.url.replace("worker", "less"), {"prefix": "mine"}).check()[0][0]
        with pytest.raises(BrokerUnavailable, match="Redis refuses us"):
            use(server.url.replace("secret", "wrong"), {"prefix": "mine"}).enqueue([message()])


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(use, tmp_path, mutual):
    certificates = make_certificates(tmp_path)
    with RedisProcess(tls=certificates, options={"tls-auth-clients": "yes" if mutual else "no"}) as server:
        broker = use(server.url)
        assert works(broker)
        broker.enqueue([message()])
        assert wakes(broker)
        with pytest.raises(BrokerUnavailable, match="certificate"):
            use(server.url.partition("?")[0], BROKER_TIMEOUT=0.5).enqueue([message()])


def assert_survives_a_failover(service, broker):
    """What came before and what comes after it is given out, and wakes who waits."""
    broker.enqueue([message(id="before")])
    wait_until(lambda: _has(service.replica, broker, "before"))
    service.master.kill()
    service.wait_for_failover()
    wait_until(lambda: _tried(broker, "after"), seconds=30)
    assert ids(claim(broker)) == ["before", "after"]
    broker.enqueue([message()])
    assert wakes(broker)


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_sentinel_leads_to_the_new_master(use, kind):
    with sentinel_service(kind=kind, options={"requirepass": "secret"}) as service:
        hosts = ",".join(f"{host}:{port}" for host, port in service.addresses)
        broker = use(f"redis+sentinel://:secret@{hosts}/0?service={service.name}", BROKER_TIMEOUT=3.0)
        assert_survives_a_failover(service, broker)


def test_sentinels_may_want_a_user_and_a_password_of_their_own(use):
    """What stands in the URL before the @ is for the master."""
    users = {"user default": "off", "user watcher": "on >watch:1 ~* &* +@all"}
    among_themselves = {"sentinel sentinel-user": "watcher", "sentinel sentinel-pass": "watch:1"}
    with sentinel_service(
        kind="redis",
        options={"requirepass": "secret"},
        sentinel_options=users | among_themselves,
        sentinel_account=("watcher", "watch:1"),
    ) as service:
        hosts = ",".join(f"{host}:{port}" for host, port in service.addresses)
        url = f"redis+sentinel://:secret@{hosts}/0?service={service.name}"
        assert works(use(f"{url}&sentinel_username=watcher&sentinel_password=watch%3A1"))
        with pytest.raises(BrokerUnavailable):
            use(url, BROKER_TIMEOUT=1.0).enqueue([message()])


def test_sentinels_and_servers_all_with_tls(use, tmp_path):
    """And each side shows a certificate, the sentinels too."""
    with sentinel_service(kind="redis", options={"requirepass": "secret"}, tls=make_certificates(tmp_path)) as service:
        hosts = ",".join(f"{host}:{port}" for host, port in service.addresses)
        url = f"rediss+sentinel://:secret@{hosts}/0?service={service.name}"
        files = service.master.url.partition("?")[2]
        broker = use(f"{url}&{files}", BROKER_TIMEOUT=3.0)
        assert_survives_a_failover(service, broker)
        with pytest.raises(BrokerUnavailable, match="certificate"):
            use(url, BROKER_TIMEOUT=0.5).enqueue([message()])
        with pytest.raises(BrokerUnavailable):
            use(url.replace("rediss+", "redis+"), BROKER_TIMEOUT=0.5).enqueue([message()])


def _has(server, broker, job_id):
    with server.client() as client:
        client.select(0)
        return client.hexists(broker.keys.jobs, job_id)


def _tried(broker, job_id):
    try:
        broker.enqueue([message(id=job_id)])
    except BrokerUnavailable:
        return False
    return True


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_cluster_keeps_all_of_a_prefix_on_one_master(use, kind):
    with cluster(kind=kind) as nodes:
        hosts = ",".join(f"{host}:{port}" for host, port in nodes.addresses)
        for prefix in ("one", "two", "three", "four"):
            broker = use(f"redis+cluster://{hosts}", {"prefix": prefix})
            assert works(broker)
            broker.enqueue([message(queue="a"), message(queue="b"), message(countdown=0.01)])
            assert wakes(broker, ("a", "b"))
            wait_until(broker.promote)
            assert broker.queues() == ["a", "b", "default"]
            assert broker.purge("a") == 1


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_name_that_leads_to_another_master_is_looked_up_again(use, kind):
    """As behind a managed service's name: the old master is a replica now, and cuts no connection."""
    with RedisProcess(kind=kind) as old, RedisProcess(kind=kind) as new:
        name = Proxy(*old.address)
        name.open()
        broker = use(old.url.replace(str(old.port), str(name.port)), BROKER_TIMEOUT=3.0)
        assert works(broker)
        name.target = new.address
        old.client().replicaof(*new.address)
        assert works(broker)
        broker.enqueue([message()])
        assert wakes(broker)
        assert new.client().exists(broker.keys.jobs)
        name.close()


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_master_that_lacks_replicas_is_asked_again_until_it_takes_the_job(use, kind):
    with RedisProcess(kind=kind, options={"min-replicas-to-write": 1}) as server:
        broker = use(server.url, BROKER_TIMEOUT=0.3)
        with pytest.raises(BrokerUnavailable, match="fewer replicas than min-replicas-to-write"):
            broker.enqueue([message()])
        back = threading.Timer(0.5, lambda: server.client().config_set("min-replicas-to-write", 0))
        back.start()
        with override_settings(DJTASKS={**django_settings.DJTASKS, "BROKER_TIMEOUT": 20.0}):
            broker.enqueue([message(id="x")])
        back.join()
        assert ids(claim(broker)) == ["x"]


def test_who_is_sent_to_a_server_of_another_kind_is_told_what_the_url_should_be(use):
    with cluster(kind="redis") as nodes, RedisProcess(kind="redis", options={"appendonly": "yes"}) as alone:
        said = [use(node.url, BROKER_TIMEOUT=0.5).check() for node in nodes.nodes]
        # One of them has the slot of our keys, and would lose it one day.
        (slot_holder,) = [warnings for errors, warnings in said if not errors]
        assert any("Let BROKER_URL begin with redis+cluster://" in warning for warning in slot_holder)
        others = [error for errors, _warnings in said for error in errors]
        assert ["let BROKER_URL begin with redis+cluster://" in error for error in others] == [True, True]
        for scheme, end, what in (("cluster", "", "no node of a cluster"), ("sentinel", "/0?service=a", "no sentinel")):
            url = f"redis+{scheme}://{alone.host}:{alone.port}{end}"
            errors, _warnings = use(url, BROKER_TIMEOUT=0.5).check()
            assert what in errors[0]
        with RedisProcess(
            kind="redis", sentinel=True, options={"sentinel monitor": f"a 127.0.0.1 {alone.port} 1"}, database=0
        ) as sentinel:
            errors, _warnings = use(sentinel.url, BROKER_TIMEOUT=0.5).check()
            assert "Is this a sentinel?" in errors[0]


@in_redis
def test_a_claim_and_a_look_carry_no_more_than_a_client_can_hold(broker):
    """But for a message that is larger by itself."""
    sizes = (3.5, 3.5, 3.5, 9.0, 1.0)  # MB
    sent = [message(id=str(at), args=f'["{"x" * int(size * 1_000_000)}"]') for at, size in enumerate(sizes)]
    with override_settings(DJTASKS={**django_settings.DJTASKS, "MAX_MESSAGE_BYTES": 10_000_000}):
        broker.enqueue(sent)
    parts = (["0", "1"], ["2"], ["3"], ["4"])
    at = 0
    for part in parts:
        assert ids(broker.peek("default", offset=at)) == part
        at += len(part)
    assert tuple(ids(claim(broker)) for _ in parts) == parts
    assert claim(broker) == []


# What the server keeps


def fill(broker, args, **fields):
    for _ in range(100):
        broker.enqueue([message(args=args, **fields)])


def test_a_full_server_that_was_restarted_is_worked_off_and_takes_the_outbox_then(
    use, database_without_queues, monkeypatch
):
    """After the restart it knows no script, and it is noted that it came back: neither may need memory."""
    monkeypatch.setattr(outbox._Breather, "until", 0.0)
    with RedisProcess(options={"maxmemory": "8mb", "appendonly": "yes"}) as server:
        broker = use(server.url)
        broker.remember()
        broker.enqueue(
            [message(id="revoked", task="tests.tasks.noop", countdown=0.01), message(id="later", countdown=3600)]
        )
        broker.cancel(["revoked"])  # its time is still that of the queue
        fill(broker, f'["{"x" * 10_000}"]', task="tests.tasks.swallow")
        server.kill()
        server.restart()
        client = server.client()
        client.config_set("maxmemory", "100kb")
        with transaction.atomic():
            tasks.noop.delay()
        assert Outbox.objects.count() == 1
        assert broker.promote() == 0
        assert broker.has_forgotten()
        broker.remember()
        ledger = Ledger(broker, "w.1")
        done = 0
        while deliveries := ledger.unended(claim(broker, limit=3, worker="w.1")):
            for delivery in deliveries:
                ledger.record(Execution(delivery).run())
            done += ledger.commit()
        assert done == 101
        with pytest.raises(BrokerUnavailable, match="out of memory"):
            outbox.resend(outbox.unsent())
        client.config_set("maxmemory", "8mb")
        assert outbox.resend(outbox.unsent()) == 1
        assert broker.sizes()["default"].ready == 1


def test_a_full_memory_is_a_clear_error_and_what_is_there_can_be_worked_off(use):
    with RedisProcess(options={"maxmemory": "4mb", "maxmemory-policy": "noeviction"}) as server:
        broker = use(server.url)
        large = f'["{"x" * 100_000}"]'
        with pytest.raises(BrokerUnavailable, match="out of memory, so it takes no new jobs"):
            fill(broker, large)
        waiting = broker.sizes()["default"].ready
        assert waiting > 5
        deliveries = claim(broker)
        broker.start(deliveries[:1])
        broker.release(deliveries[:1])
        again = claim(broker)
        assert broker.beat(["w"]) == {"w"}
        broker.ack([*deliveries[1:], *again])
        broker.enqueue([message()])
        assert broker.sizes()["default"].ready == 1


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_evict_jobs_takes_no_worker(use, policy, django_db_setup, django_db_blocker):
    with RedisProcess(options={"maxmemory-policy": policy}) as server:
        broker = use(server.url)
        errors, _warnings = broker.check()
        assert f"maxmemory-policy {policy}" in errors[0]
        with django_db_blocker.unblock():
            assert [each.id for each in checks.check_broker_server(databases=["default"])] == [
                "djtasks.E008",
                "djtasks.W004",
            ]
            at_deploy = [each.id for each in run_checks(include_deployment_checks=True) if "djtasks" in each.id]
            assert at_deploy == ["djtasks.E008", "djtasks.W004"]
            assert not [each for each in run_checks() if each.id.startswith("djtasks")]
            with pytest.raises(CommandError, match="deletes jobs and says nothing"):
                call_command("runworker", "-c", "1")


def test_a_server_without_a_file_is_warned_about(use):
    with RedisProcess() as server, RedisProcess(options={"appendonly": "yes"}) as keeping:
        assert use(server.url).check() == (
            [],
            [
                "Redis keeps no append-only file: what came since its last snapshot, if it makes any, is lost when it "
                "crashes. Set appendonly yes."
            ],
        )
        assert use(keeping.url).check() == ([], [])


def test_a_server_that_does_not_answer_is_a_warning_of_the_check(use):
    with RedisProcess() as server:
        url = server.url
    use(url, BROKER_TIMEOUT=0.2)
    assert [each.id for each in checks.check_broker_server(databases=["default"])] == ["djtasks.W005"]


def test_durable_waits_for_the_disk(use):
    with RedisProcess(kind="valkey", options={"appendonly": "yes", "appendfsync": "always"}) as server:
        broker = use(server.url, {"durable": True})
        assert broker.check() == ([], [])
        broker.enqueue([message(id="x")])
        server.kill()
        server.restart()
        assert ids(claim(broker)) == ["x"]


@pytest.mark.parametrize("durable", [False, True])
def test_with_replicas_a_job_is_accepted_when_so_many_have_it(use, durable):
    files = {"appendonly": "yes", "repl-diskless-sync-delay": 0}
    with RedisProcess(kind="valkey", options=files) as master:
        broker = use(master.url, {"durable": durable, "replicas": 1}, BROKER_TIMEOUT=3.0)
        assert "asks for 1, and Redis has 0" in broker.check()[1][0]
        with pytest.raises(BrokerUnavailable, match="0 of the 1 replicas"):
            broker.enqueue([message(id="alone")])
        (alone,) = claim(broker)
        broker.reschedule([(alone, message(id="alone", countdown=60))])  # a worker waits for no replica
        with RedisProcess(kind="valkey", options=files | {"replicaof": f"127.0.0.1 {master.port}"}) as replica:
            wait_until(lambda: _tried(broker, "followed"))
            assert broker.check() == ([], [])
            master.kill()
            replica.client().replicaof("NO", "ONE")
            assert "followed" in ids(claim(use(replica.url)))


def test_durable_without_a_file_is_an_error_at_the_start_and_at_the_send(use):
    with RedisProcess(kind="valkey") as server:
        broker = use(server.url, {"durable": True})
        assert "needs Redis 7.2 or newer" in broker.check()[0][0]
        with pytest.raises(BrokerUnavailable, match=r"needs Redis 7\.2 or newer"):
            broker.enqueue([message()])
        assert use(server.url).sizes() == {}


def test_durable_on_a_server_that_is_too_old_is_an_error(use):
    with RedisProcess(kind="redis", options={"appendonly": "yes"}) as server:
        broker = use(server.url, {"durable": True})
        with server.client() as client:
            if tuple(int(part) for part in client.info("server")["redis_version"].split(".")[:2]) >= (7, 2):
                pytest.skip("this Redis has WAITAOF")
        assert "needs Redis 7.2 or newer" in broker.check()[0][0]
        with pytest.raises(BrokerUnavailable, match=r"needs Redis 7\.2 or newer"):
            broker.enqueue([message()])


def test_a_server_that_comes_back_from_an_older_file_makes_no_job_run_twice(use, database_without_queues):
    """It has forgotten the claim and the ack: only the row can tell that the job has ended (rule 14)."""
    with RedisProcess() as server:
        broker = use(server.url)
        broker.remember()
        broker.enqueue([message(id="x", task="tests.tasks.noop")])
        with server.client() as client:
            client.save()
        ledger = Ledger(broker, "w.1")
        ledger.record(Execution(claim(broker, worker="w.1")[0]).run())
        ledger.commit()
        assert broker.sizes() == {}
        server.kill()
        server.restart()
        again = claim(broker, worker="w.1")
        assert (ids(again), again[0].token, again[0].message.check) == (["x"], 1, True)
        assert ledger.unended(again) == []
        assert broker.sizes() == {}
        assert broker.has_forgotten()
        broker.remember()
        assert not broker.has_forgotten()


def test_what_a_server_that_came_back_holds_for_us_and_we_do_not_know_is_given_back(use, database_without_queues):
    """It came back with a lease that its owner, who lives, has long acknowledged: nobody would ever end that."""
    with RedisProcess() as server:
        broker = use(server.url)
        broker.enqueue([message(id="x", task="tests.tasks.noop")])
        slots = Slots(1)
        slots.beat()
        child = Child("w.1", 0, slots, WorkerOptions())
        assert child.exchange.turn() == 1
        with server.client() as client:
            client.save()
        call = child.consumer.next()
        child.ledger.record(Execution(call[0]).run())
        child.consumer.done(call, 0.01)
        child.exchange.turn()
        assert broker.sizes() == {}
        server.kill()
        server.restart()  # while nothing was asked, so that no error tells of it
        assert broker.owners() == {"w.1"}
        for _ in range(3):
            child.exchange.turn()
        assert broker.sizes() == {}
        assert Job.objects.get(pk="x").token == 1


@pytest.fixture
def database_without_queues(settings, django_db_setup, django_db_blocker):
    """Tables on the default database; the queues are elsewhere."""
    with django_db_blocker.unblock():
        yield "default"
        for model in (Job, Outbox):
            model.objects.all().delete()


@in_redis
def test_a_server_that_was_emptied_is_noticed(broker, settings):
    assert broker.has_forgotten()
    broker.remember()
    assert not broker.has_forgotten()
    empty_redis(settings.DJTASKS["BROKER_URL"])
    assert broker.has_forgotten()


def test_each_script_says_what_its_keys_are():
    for name in ("enqueue", "claim", "start", "ack", "release", "reschedule", "promote", "rescue", "cancel", "purge"):
        text, digest = script(name)
        assert text.startswith("-- ")
        assert "-- KEYS: " in text
        assert len(digest) == 40
        assert text.count("\n") <= 85


@in_redis
def test_a_task_is_sent_and_run_by_a_real_worker(start_worker):
    start_worker("-c", "1")
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
