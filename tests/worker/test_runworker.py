"""`manage.py runworker`, as a real process, on each database."""

import os
import signal
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
from django.db import connections

from djtasks import control, send_task, states
from djtasks.brokers import get_broker
from djtasks.models import Job, Worker
from tests import servers, tasks
from tests.processes import worker_environment
from tests.proxy import Proxy
from tests.redis_servers import RedisProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker


def finished():
    return Job.objects.finished().count()


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_jobs_run_and_their_results_come_back(start_worker):
    start_worker("-c", "2")
    results = [tasks.add.delay(number, 1) for number in range(20)]
    assert [each.get(timeout=20) for each in results] == list(range(1, 21))


def test_the_solo_pool_runs_jobs_in_its_own_process(start_worker):
    worker = start_worker("-P", "solo")
    assert tasks.process.delay().get(timeout=20) == worker.pid
    assert worker.children() == []
    assert worker.stop() == 0


def test_the_banner_names_queues_tasks_and_concurrency(start_worker):
    worker = start_worker("-c", "3", "-Q", "mail,default", "-n", "worker.high@%h")
    assert "concurrency: 3" in worker.output
    assert "mail, default" in worker.output
    assert "tests.tasks.add" in worker.output
    assert f"worker.high@{os.uname().nodename}" in worker.output


def test_the_log_names_the_job_and_prints_are_seen(start_worker):
    worker = start_worker("-c", "1", "-l", "INFO")
    result = tasks.shout.delay("hello from a task")
    result.get(timeout=20)
    wait_until(lambda: "hello from a task" in worker.output)
    wait_until(lambda: any("tests.tasks.shout" in line and result.id in line for line in worker.output.splitlines()))


def test_a_worker_serves_only_its_queues(start_worker):
    start_worker("-c", "1", "-Q", "mail")
    other = tasks.add.apply_async((1, 1), queue="other")
    assert tasks.add.apply_async((1, 2), queue="mail").get(timeout=20) == 3
    assert other.state == states.PENDING


def test_a_worker_without_queues_finds_those_that_nobody_named(start_worker):
    start_worker("-c", "1", "-X", "secret")
    secret = tasks.add.apply_async((1, 1), queue="secret")
    assert tasks.add.apply_async((1, 2), queue="made up just now").get(timeout=20) == 3
    assert secret.state == states.PENDING


def test_higher_priorities_run_first(start_worker, tmp_path):
    path = tmp_path / "journal"
    for priority in (5, 6, 9, 5, 6, 9):
        tasks.journal.apply_async((str(path), priority), priority=priority)
    start_worker("-c", "1", "--prefetch-multiplier", "1")
    wait_until(lambda: finished() == 6)
    assert [line.split()[1] for line in lines(path) if line.startswith("begin")] == ["9", "9", "6", "6", "5", "5"]


def test_a_countdown_is_waited_for(start_worker):
    start_worker("-c", "1")
    sent = time.monotonic()
    result = tasks.add.apply_async((1, 1), countdown=0.5)
    assert result.get(timeout=20) == 2
    assert time.monotonic() - sent >= 0.5


def test_a_job_that_asks_for_retries_runs_until_it_succeeds(start_worker, tmp_path):
    start_worker("-c", "1")
    path = tmp_path / "journal"
    result = tasks.succeed_at.delay(str(path), 3)
    assert result.get(timeout=20) == 2
    assert lines(path) == ["try 0", "try 1", "try 2"]
    job = Job.objects.get(pk=result.id)
    assert (job.retries, job.token, [each["ending"] for each in job.all_attempts()]) == (
        2,
        3,
        ["RETRY", "RETRY", "SUCCESS"],
    )


def test_progress_is_seen_while_the_task_runs(start_worker, tmp_path):
    start_worker("-c", "1")
    until = tmp_path / "until"
    result = tasks.progress.delay(str(until))
    wait_until(lambda: result.state == "PROGRESS" and result.info["done"] > 1)
    until.touch()
    result.get(timeout=20)
    assert result.state == states.SUCCESS


def test_a_job_that_runs_for_a_moment_is_seen_as_started(start_worker, tmp_path):
    start_worker("-c", "1", "-n", "one")
    result = tasks.journal.delay(str(tmp_path / "journal"), "x", 1.0)
    wait_until(lambda: result.state == states.STARTED)
    result.get(timeout=20)


def test_exits_in_a_task_end_the_job_and_not_the_process(start_worker):
    start_worker("-c", "1")
    process = tasks.process.delay().get(timeout=20)
    for how, error in (("sys.exit", "SystemExit"), ("keyboard", "KeyboardInterrupt"), ("generator", "GeneratorExit")):
        result = tasks.leave.delay(how)
        wait_until(result.ready)
        assert (result.state, Job.objects.get(pk=result.id).exception) == (states.FAILURE, error)
    assert tasks.process.delay().get(timeout=20) == process


def test_broken_rows_fail_clearly_and_hold_up_nobody(start_worker, database):
    broken = [
        {"args": "no json", "id": "args"},
        {"args": '{"a": 1}', "id": "no list"},
        {"options": "[", "id": "options"},
        {"kwargs": '{"x": {"$": "nothing", "v": 1}}', "id": "tag"},
    ]
    for fields in broken:
        Job.objects.create(task="tests.tasks.add", queue="default", **fields)
    start_worker("-c", "1")
    assert tasks.add.delay(1, 1).get(timeout=20) == 2
    wait_until(lambda: Job.objects.filter(state=states.FAILURE).count() == len(broken))
    assert set(Job.objects.filter(state=states.FAILURE).values_list("exception", flat=True)) == {
        "djtasks.exceptions.MalformedMessage"
    }


def test_a_message_of_a_newer_version_is_left_to_a_newer_worker(start_worker):
    Job.objects.create(id="newer", task="tests.tasks.add", args="[1,1]", queue="default", version=99)
    start_worker("-c", "1", UNKNOWN_TASK_GRACE=0.5)
    wait_until(lambda: Job.objects.get(pk="newer").state == states.FAILURE)
    assert "newer" in Job.objects.get(pk="newer").exception_message


def refusals(result):
    """How many workers did not know the task of a job that waits."""
    broker = get_broker()
    waiting = [*broker.peek("default"), *broker.peek("default", scheduled=True)]
    return max((each.refusals for each in waiting if each.id == result.id), default=0)


def test_an_unknown_task_is_given_back_and_fails_only_after_its_grace(start_worker):
    result = send_task("not.here")
    start_worker("-c", "1", UNKNOWN_TASK_GRACE=1.0)
    wait_until(lambda: refusals(result) == 1)
    assert tasks.add.delay(1, 1).get(timeout=20) == 2
    wait_until(result.ready)
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.exception, job.losses) == (states.FAILURE, "djtasks.exceptions.NotRegistered", 0)


def test_a_task_unknown_to_one_worker_is_run_by_another_that_knows_it(start_worker):
    result = send_task("tests.more_tasks.only_here", (2,))
    start_worker("-c", "1")
    wait_until(lambda: refusals(result) >= 1)
    start_worker("-c", "1", IMPORTS=["tests.tasks", "tests.more_tasks"])
    assert result.get(timeout=30) == 4


def test_a_cancelled_job_never_runs(start_worker, tmp_path):
    path = tmp_path / "journal"
    later = tasks.journal.apply_async((str(path), "later"), countdown=3600)
    waiting = tasks.journal.delay(str(path), "waiting")
    assert control.revoke([later.id, waiting.id]) == 2
    start_worker("-c", "1")
    wait_until(lambda: finished() == 2)
    assert {later.state, waiting.state} == {states.REVOKED}
    assert lines(path) == []


@pytest.mark.parametrize("leave_open", [tasks.leave_transaction_open, tasks.leave_atomic_open])
def test_what_a_job_leaves_open_does_not_reach_the_next(start_worker, database, leave_open):
    start_worker("-c", "1")
    leave_open.delay(database).get(timeout=20)
    assert tasks.is_in_transaction.delay(database).get(timeout=20) is False


def test_a_successful_plain_job_without_result_leaves_no_row(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "1")
    assert tasks.forgotten.delay(str(path)).get(timeout=5) is None
    wait_until(lambda: lines(path) == ["run"] and not Job.objects.exists())
    own = tasks.forgotten.apply_async((str(path),), task_id="mine")
    wait_until(lambda: Job.objects.filter(pk=own.id, state=states.SUCCESS).exists())


def test_a_rejected_job_comes_back_until_its_losses_are_used_up(start_worker, tmp_path):
    start_worker("-c", "1", TASK_MAX_LOSSES=2)
    result = tasks.rejected.delay(str(tmp_path / "journal"), requeue=True)
    wait_until(result.ready)
    assert (result.state, lines(tmp_path / "journal")) == (states.FAILURE, ["run", "run"])


def test_async_tasks_run(start_worker):
    start_worker("-c", "1")
    assert tasks.answer_later.delay("now").get(timeout=20) == "now"


def test_a_task_class_keeps_its_state_between_jobs(start_worker):
    start_worker("-c", "1")
    results = [send_task("tests.tasks.counting") for _ in range(3)]
    assert sorted(each.get(timeout=20) for each in results) == [1, 2, 3]


def test_a_warm_stop_finishes_what_runs_and_gives_back_what_waits(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1", "--prefetch-multiplier", "10")
    for number in range(5):
        tasks.journal.delay(str(path), number, 0.5)
    wait_until(lambda: lines(path))
    assert worker.stop() == 0
    assert [line.split()[0] for line in lines(path)] == ["begin", "end"]
    assert finished() == 1
    assert [each.losses for each in get_broker().peek("default")] == [0] * 4
    assert Worker.objects.get(pid=worker.pid).stopped_at is not None


def test_a_second_signal_gives_back_what_runs_uncounted(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1")
    result = tasks.journal.delay(str(path), "long", 60)
    wait_until(lambda: lines(path))
    worker.kill(signal.SIGTERM)
    wait_until(lambda: "Warm stop" in worker.output)
    worker.kill(signal.SIGTERM)
    assert worker.process.wait(20) == 1
    assert [(each.id, each.losses) for each in get_broker().peek("default")] == [(result.id, 0)]


def test_what_cannot_finish_in_the_shutdown_timeout_is_given_back(start_worker, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-c", "1", WORKER_SHUTDOWN_TIMEOUT=0.5)
    result = tasks.journal.delay(str(path), "long", 60)
    wait_until(lambda: lines(path))
    assert worker.stop() == 1
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.losses) == (states.PENDING, 0)


def test_a_worker_in_burst_stops_when_the_queues_are_empty(start_worker):
    results = [tasks.add.delay(number, 0) for number in range(50)]
    worker = start_worker("-c", "2", "--burst", wait=False)
    assert worker.process.wait(30) == 0
    assert [each.get(timeout=1) for each in results] == list(range(50))


def test_a_process_is_replaced_after_its_number_of_tasks(start_worker):
    start_worker("-c", "1", "--max-tasks-per-child", "2")
    pids = [tasks.process.delay().get(timeout=20) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_short_jobs_do_not_wait_behind_a_long_one(start_worker, tmp_path):
    path = tmp_path / "journal"
    start_worker("-c", "2")
    tasks.noop.enqueue_many([()] * 50)
    wait_until(lambda: finished() == 50)
    long = tasks.journal.delay(str(path), "long", 30)
    wait_until(lambda: lines(path))
    began = time.monotonic()
    tasks.noop.enqueue_many([()] * 200)
    wait_until(lambda: finished() == 250)
    print(f"200 short jobs beside a long one: {time.monotonic() - began:.2f} s")
    assert not long.ready()


def test_a_worker_ends_with_the_process_that_holds_its_pipe(database, settings):
    source, sink = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "runworker", "-c", "1", "--parent-pipe", str(source)],
        env=worker_environment(settings.DJTASKS),
        pass_fds=[source],
        stdout=subprocess.DEVNULL,
    )
    os.close(source)
    try:
        wait_until(lambda: Worker.objects.filter(pid=process.pid, beat__gt=0).exists())
        os.close(sink)
        assert process.wait(60) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("arguments", [["-P", "eventlet"], ["-P", "nonsense"], ["-c", "0"]])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_options_that_make_no_sense_are_refused_with_a_sentence(start_worker, arguments):
    worker = start_worker(*arguments, wait=False)
    assert worker.process.wait(20) == 1
    assert "CommandError" in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_broker_url_that_none_fits_is_refused_with_a_sentence(start_worker):
    worker = start_worker(wait=False, BROKER_URL="amqp://guest:guest@localhost")
    assert worker.process.wait(20) == 1
    assert "amqp://" in worker.output
    assert "database://" in worker.output


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_wrong_password_of_redis_is_refused_with_a_sentence(start_worker):
    with RedisProcess(options={"requirepass": "right"}) as server:
        worker = start_worker(wait=False, BROKER_URL=server.url.replace("right", "wrong"))
        assert worker.process.wait(20) == 1
    assert "CommandError: redis://:********@" in worker.output
    assert "Redis refuses us; see the user, the password and the ACL (docs/brokers.md)." in worker.output
    assert "wrong" not in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_in_memory_is_refused_with_a_sentence(start_worker):
    worker = start_worker(wait=False, env={"DJTASKS_TEST_SQLITE": ":memory:"})
    assert worker.process.wait(20) == 1
    assert "give it a file" in worker.output


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_missing_migrations_are_named_and_stop_the_worker(start_worker, tmp_path):
    worker = start_worker(wait=False, env={"DJTASKS_TEST_SQLITE": str(tmp_path / "empty.sqlite3")})
    assert worker.process.wait(20) == 1
    assert "manage.py migrate djtasks" in worker.output


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_database_that_is_down_at_start_may_come_up_later(start_worker, database):
    proxy, env = proxied(database)
    result = tasks.add.delay(1, 1)
    worker = start_worker("-c", "1", wait=False, env=env)
    wait_until(lambda: "does not answer yet" in worker.output)
    proxy.open()
    try:
        assert result.get(timeout=30) == 2
        assert worker.process.poll() is None
    finally:
        proxy.close()


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_connections_that_are_cut_lose_nothing(start_worker, database, tmp_path):
    proxy, env = proxied(database)
    proxy.open()
    try:
        start_worker("-c", "2", env=env, WORKER_LOST_AFTER=5.0)
        results = [tasks.journal.delay(str(tmp_path / "journal"), number, 0.01) for number in range(150)]
        for share in (20, 60, 100):
            wait_until(lambda share=share: finished() >= share)
            proxy.cut()
        assert [each.get(timeout=30) for each in results] == list(range(150))
    finally:
        proxy.close()


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_worker_ends_though_neither_redis_nor_the_database_takes_what_it_has(start_worker, settings, tmp_path):
    """Of the pool without a supervisor, which would end a child by force."""
    path, url = tmp_path / "journal", settings.DJTASKS["BROKER_URL"]
    to_database, env = proxied("postgresql")
    to_redis = Proxy(urlsplit(url).hostname, urlsplit(url).port)
    for proxy in (to_database, to_redis):
        proxy.open()
    through = url.replace(f":{urlsplit(url).port}", f":{to_redis.port}")
    worker = start_worker("-P", "solo", env=env, BROKER_URL=through, WORKER_SHUTDOWN_TIMEOUT=1.0)
    tasks.journal.delay(str(path), "x", 0.3)
    wait_until(lambda: lines(path))
    for proxy in (to_database, to_redis):
        proxy.close()
    wait_until(lambda: len(lines(path)) == 2)
    began = time.monotonic()
    assert worker.stop() == 1
    assert time.monotonic() - began < 1.0 + 3.0 + 8.0  # the timeout, the keeper's last words, and a moment
    assert "WORKER_SHUTDOWN_TIMEOUT is over" in worker.output


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_wait_for_redis_is_not_taken_for_one_for_the_database(start_worker, settings):
    url = settings.DJTASKS["BROKER_URL"]
    to_redis = Proxy(urlsplit(url).hostname, urlsplit(url).port)
    to_redis.open()
    through = url.replace(f":{urlsplit(url).port}", f":{to_redis.port}")
    worker = start_worker(BROKER_URL=through, BROKER_TIMEOUT=7.5, WORKER_LOST_AFTER=3.0)  # 2.5 s a try, and 1.5
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    to_redis.mute()
    wait_until(lambda: "Redis does not answer" in worker.output, 20)
    assert tasks.add.delay(2, 2).get(timeout=30) == 4
    to_redis.close()
    assert "its connection is cut" not in worker.output


def proxied(alias):
    """A closed proxy before the server of `alias`, and the environment that sends a worker through it."""
    server = connections[alias].settings_dict
    proxy = Proxy(server["HOST"], int(server["PORT"]))
    kind = alias
    url = os.environ[servers.variable(kind)].replace(f":{server['PORT']}", f":{proxy.port}")
    return proxy, {servers.variable(kind): url}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("turn", range(5))
def test_a_stop_that_comes_while_the_children_are_born_is_heard(start_worker, turn):
    worker = start_worker("-c", "8", wait=False)
    wait_until(lambda: len(worker.children()) > turn)
    assert worker.stop() == 0
