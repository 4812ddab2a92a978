"""The pools that run several jobs at a time in one process: the same promises as prefork's."""

import signal
import subprocess
import sys
import time

import pytest

from djtasks import chain, control, states
from djtasks.brokers import get_broker
from djtasks.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from djtasks.models import Job, Worker
from tests import tasks
from tests.crashes.test_hostile_tasks import is_gone_or_zombie
from tests.processes import worker_environment
from tests.waiting import wait_until

# Each with another broker: what differs by broker does not differ by pool.
STORES = {"threads": "postgresql", "asyncio": "redis", "gevent": "mariadb"}
pools = pytest.mark.parametrize(("pool", "database"), list(STORES.items()), indirect=["database"])


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def begun(path):
    return [line.split()[1] for line in lines(path) if line.startswith("begin")]


def finished():
    return Job.objects.finished().count()


def seconds_until(condition, **options):
    began = time.monotonic()
    wait_until(condition, **options)
    return time.monotonic() - began


@pools
def test_jobs_that_wait_run_beside_each_other_in_one_process(start_worker, pool, tmp_path):
    worker = start_worker("-P", pool, "-c", "50")
    assert f"concurrency: 50 ({pool}: 50 in one process)" in worker.output
    child = tasks.process.delay().get(timeout=20)
    assert child in worker.children()
    tasks.sleep.enqueue_many([(0.1,)] * 200)
    assert seconds_until(lambda: finished() == 201) < 5  # one after another: 20 s
    assert tasks.process.delay().get(timeout=20) == child


@pools
def test_several_processes_share_the_work(start_worker, pool):
    start_worker("-P", pool, "-c", "2x4")
    processes = set()

    def both_have_run():  # however late the second one begins to claim
        results = tasks.slow_process.enqueue_many([(0.2,)] * 16)
        processes.update(each.get(timeout=20) for each in results)
        return len(processes) == 2

    wait_until(both_have_run, 30)


@pools
def test_each_job_has_its_own_request_language_time_zone_and_contextvars(start_worker, pool):
    start_worker("-P", pool, "-c", "8")
    results = tasks.tell_context.enqueue_many([(number,) for number in range(24)])
    for number, result in enumerate(results):
        assert result.get(timeout=20) == [result.id, "tests.tasks.tell_context", ["de", "fr", "en"][number % 3], number]
    assert tasks.tell_surroundings.delay().get(timeout=20) == ["en", "Europe/Berlin", None]


@pools
def test_async_tasks_run_and_know_their_request(start_worker, pool):
    start_worker("-P", pool, "-c", "20")
    results = tasks.tell_context_later.enqueue_many([(number,) for number in range(60)])
    for number, result in enumerate(results):
        assert result.get(timeout=20) == [result.id, "tests.tasks.tell_context_later", "de", number]


@pools
def test_an_async_task_that_blocks_disturbs_no_other(start_worker, pool):
    """Under gevent another job goes on in the same thread then, in the middle of this one's event loop."""
    start_worker("-P", pool, "-c", "20")
    results = tasks.block_in_loop.enqueue_many([(number,) for number in range(60)])
    assert [result.get(timeout=20) for result in results] == list(range(60))


@pools
def test_connections_are_each_threads_own_and_nothing_is_left_in_them(start_worker, pool, database):
    worker = start_worker("-P", pool, "-c", "4")
    results = tasks.use_connection.enqueue_many([(database, 0.2)] * 8)
    seen = [each.get(timeout=20) for each in results]
    assert all(alone for _server, alone in seen)
    assert len({server for server, _alone in seen}) >= 4
    tasks.leave_transaction_open.delay(database).get(timeout=20)
    assert tasks.is_in_transaction.enqueue_many([(database,)] * 8)[-1].get(timeout=20) is False
    assert worker.stop() == 0
    assert "inside a transaction; it is closed" in worker.output
    assert set(Job.objects.values_list("state", flat=True)) == {states.SUCCESS}


@pools
def test_a_soft_limit_is_raised_in_that_job_alone(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    start_worker("-P", pool, "-c", "4")
    limited = tasks.tidy_up_often.apply_async((str(path), 30), soft_time_limit=0.3)
    later = tasks.tidy_up_later.apply_async((str(path), 30), soft_time_limit=0.3)
    failing = tasks.work.apply_async((30,), soft_time_limit=0.3)
    beside = tasks.work.delay(1.0)
    assert limited.get(timeout=20) == later.get(timeout=20) == "cut short"
    with pytest.raises(SoftTimeLimitExceeded):
        failing.get(timeout=20)
    assert failing.result.args == (0.3,)
    assert beside.get(timeout=20) == "done"


@pools
def test_a_hard_limit_recycles_the_process_and_the_neighbours_run_again_uncounted(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-P", pool, "-c", "4")
    beside = [tasks.journal.delay(str(path), number, 1.5) for number in range(2)]
    wait_until(lambda: len(begun(path)) == 2)
    killed = tasks.journal.apply_async((str(path), "long", 60), time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        killed.get(timeout=20)
    assert [each.get(timeout=20) for each in beside] == [0, 1]
    assert sorted(begun(path)) == ["0", "0", "1", "1", "long"]
    assert set(Job.objects.values_list("losses", flat=True)) == {0}
    assert "what ran beside goes back to its queue, uncounted" in worker.output
    assert beside[0].id in worker.output


@pools
def test_what_runs_is_ended_when_it_is_revoked(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    start_worker("-P", pool, "-c", "4")
    result = tasks.journal.delay(str(path), "x", 60)
    wait_until(lambda: begun(path))
    control.revoke(result, terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
    assert tasks.add.delay(1, 1).get(timeout=20) == 2


@pools
def test_whatever_had_begun_in_a_process_that_dies_counts_a_loss_and_nothing_else(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    start_worker("-P", pool, "-c", "4")
    beside = [tasks.journal.delay(str(path), number, 1.0) for number in range(3)]
    wait_until(lambda: len(begun(path)) == 3)
    poison = tasks.leave_once.delay(str(tmp_path / "left"))
    waiting = [tasks.journal.delay(str(path), "waits") for _ in range(5)]
    for each in (*beside, poison, *waiting):
        each.get(timeout=30)
    losses = dict(Job.objects.values_list("pk", "losses"))
    assert [losses[each.id] for each in beside] == [1, 1, 1]
    assert losses[poison.id] == 1
    assert sum(losses[each.id] for each in waiting) == 0


@pools
def test_a_poison_job_ends_and_what_ran_beside_it_does_not_suffer(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    start_worker("-P", pool, "-c", "8")
    poison = tasks.kill_own_process.delay(str(tmp_path / "poison"))
    others = [tasks.journal.delay(str(path), number, 0.2) for number in range(20)]
    assert sorted(each.get(timeout=60) for each in others) == list(range(20))
    wait_until(poison.ready, seconds=60)
    job = Job.objects.get(pk=poison.id)
    assert (job.state, job.exception) == (states.FAILURE, "djtasks.exceptions.WorkerLostError")


@pools
def test_a_warm_stop_finishes_what_runs_and_gives_back_what_waits(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-P", pool, "-c", "3", "--prefetch-multiplier", "5")
    tasks.journal.enqueue_many([(str(path), number, 0.7) for number in range(8)])
    wait_until(lambda: len(begun(path)) == 3)
    assert worker.stop() == 0
    assert len([line for line in lines(path) if line.startswith("end")]) == 3
    assert finished() == 3
    assert [each.losses for each in get_broker().peek("default")] == [0] * 5
    assert Worker.objects.get(pid=worker.pid).concurrency == 3


@pools
def test_a_cold_stop_gives_back_all_that_runs_uncounted(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    worker = start_worker("-P", pool, "-c", "3")
    tasks.journal.enqueue_many([(str(path), number, 60) for number in range(3)])
    wait_until(lambda: len(begun(path)) == 3)
    worker.kill(signal.SIGTERM)
    wait_until(lambda: "Warm stop" in worker.output)
    worker.kill(signal.SIGTERM)
    assert worker.process.wait(20) == 1
    assert [each.losses for each in get_broker().peek("default")] == [0] * 3


@pools
def test_a_process_is_replaced_after_its_number_of_tasks_or_when_it_has_grown(start_worker, pool):
    start_worker("-P", pool, "-c", "2", "--max-tasks-per-child", "3")
    seen = [tasks.process.delay().get(timeout=20) for _ in range(6)]
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5]


@pools
def test_a_process_that_has_grown_is_replaced(start_worker, pool):
    worker = start_worker("-P", pool, "-c", "2", "--max-memory-per-child", "300000")
    grown = tasks.take_memory.delay(400).get(timeout=20)
    wait_until(lambda: "is replaced: it has taken" in worker.output)
    wait_until(lambda: tasks.process.delay().get(timeout=20) != grown)


@pools
def test_short_jobs_do_not_wait_behind_long_ones(start_worker, pool, tmp_path):
    start_worker("-P", pool, "-c", "4")
    tasks.noop.enqueue_many([()] * 50)
    wait_until(lambda: finished() == 50)
    long = [tasks.journal.delay(str(tmp_path / "journal"), "long", 30) for _ in range(3)]
    wait_until(lambda: len(begun(tmp_path / "journal")) == 3)
    tasks.noop.enqueue_many([()] * 200)
    assert seconds_until(lambda: finished() == 250) < 5
    assert not any(each.ready() for each in long)


@pools
def test_a_worker_in_burst_stops_when_the_queues_are_empty(start_worker, pool):
    results = tasks.add.enqueue_many([(number, 0) for number in range(50)])
    worker = start_worker("-P", pool, "-c", "4", "--burst", wait=False)
    assert worker.process.wait(30) == 0
    assert [each.get(timeout=1) for each in results] == list(range(50))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_hundreds_of_coroutines_wait_beside_each_other(start_worker):
    start_worker("-P", "asyncio", "-c", "500")
    assert tasks.answer_later.delay("ready").get(timeout=20) == "ready"
    tasks.sleep_later.enqueue_many([(1.0,)] * 1000)
    assert seconds_until(lambda: finished() == 1001) < 10  # in batches of 50: 20 s


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_in_an_event_loop_a_limit_and_a_sys_exit_of_one_disturb_no_other(start_worker):
    start_worker("-P", "asyncio", "-c", "100")
    beside = tasks.sleep_later.enqueue_many([(1.0,)] * 50)
    limited = [tasks.sleep_later.apply_async((30,), soft_time_limit=0.3) for _ in range(20)]
    leaving = tasks.leave_in_the_loop.delay()
    for each in limited:
        with pytest.raises(SoftTimeLimitExceeded):
            each.get(timeout=20)
    assert leaving.get(timeout=20) == "left"
    assert [each.get(timeout=20) for each in beside] == [1.0] * 50
    assert set(Job.objects.values_list("token", flat=True)) == {1}


SPAWNING = """
import django
django.setup()
from django.core.management import call_command
from djtasks.worker import pools
pools.must_spawn = lambda name: True
call_command("runworker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "WARNING", "--no-beat")
"""


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
def test_children_that_are_new_programs_do_what_copies_do(settings, database, tmp_path):
    path = tmp_path / "journal"
    chosen = {**settings.DJTASKS, "WORKER_HEARTBEAT": 0.2, "WORKER_LOST_AFTER": 2.0}
    worker = subprocess.Popen([sys.executable, "-c", SPAWNING], env=worker_environment(chosen))
    try:
        poison = tasks.leave_once.delay(str(tmp_path / "left"))
        assert tasks.journal.delay(str(path), "x", 0.1).get(timeout=60) == "x"
        assert poison.get(timeout=60) is None
        assert Job.objects.get(pk=poison.id).losses == 1
        limited = tasks.journal.apply_async((str(path), "long", 60), time_limit=0.3)
        with pytest.raises(TimeLimitExceeded):
            limited.get(timeout=50)
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait(10)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_children_that_are_new_programs_die_with_their_supervisor(start_worker, tmp_path):
    worker = start_worker("-P", "gevent", "-c", "2")
    child = tasks.process.delay().get(timeout=20)
    worker.kill()
    worker.process.wait(10)
    wait_until(lambda: is_gone_or_zombie(child))


WITHOUT_FORK = SPAWNING.replace("must_spawn = lambda name: True", "can_fork = lambda: False").replace(
    "prefork", "threads"
)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_where_there_is_no_fork_threads_run_in_the_workers_own_process(settings, database):
    chosen = {**settings.DJTASKS, "WORKER_HEARTBEAT": 0.2, "WORKER_LOST_AFTER": 2.0}
    worker = subprocess.Popen([sys.executable, "-c", WITHOUT_FORK], env=worker_environment(chosen))
    try:
        results = tasks.slow_process.enqueue_many([(0.2,)] * 4)
        assert {each.get(timeout=30) for each in results} == {worker.pid}
        assert Worker.objects.get(pid=worker.pid).concurrency == 2
        worker.terminate()
        assert worker.wait(20) == 0
    finally:
        worker.kill()
        worker.wait(10)


@pools
def test_chains_beside_each_other_hand_their_steps_over_once(start_worker, pool, tmp_path):
    path = tmp_path / "journal"
    start_worker("-P", pool, "-c", "4")
    chains = [chain(tasks.add.si(1, 1), *(tasks.add.s(1) for _ in range(5))).delay() for _ in range(12)]
    rows = [[tasks.journal.si(str(path), f"{row}-{step}", 0.02) for step in range(4)] for row in "abcd"]
    noted = [chain(*row).delay() for row in rows]
    assert [each.get(timeout=30) for each in chains] == [7] * 12
    assert [each.get(timeout=30) for each in noted] == [f"{row}-3" for row in "abcd"]
    assert sorted(begun(path)) == sorted(f"{row}-{step}" for row in "abcd" for step in range(4))
    assert set(Job.objects.values_list("token", "losses")) == {(1, 0)}
