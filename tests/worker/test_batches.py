"""Jobs that gather for one call: with real workers, on each broker and in each pool."""

import time

import pytest

from djtasks import chain, chord, control, states
from djtasks.brokers import get_broker
from djtasks.exceptions import ChordError, TaskRevokedError
from djtasks.models import Job
from tests import tasks
from tests.waiting import wait_until

every_broker = pytest.mark.every_broker
# What does not differ by database is seen on one, and in Redis.
both_kinds = pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
one_kind = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
POOLS = {"prefork": "mariadb", "threads": "postgresql", "asyncio": "redis", "gevent": "mariadb", "solo": "sqlite"}


def calls(path):
    """The numbers of each call."""
    return [line.split()[2:] for line in path.read_text().splitlines()] if path.exists() else []


def send(task, path, numbers, **options):
    return task.enqueue_many([(str(path), number) for number in numbers], **options)


def results(handles):
    return [each.get(timeout=20) for each in handles]


def state_of(handle):
    return Job.objects.filter(pk=handle.id).values_list("state", "losses").first()


@every_broker
def test_what_waits_comes_together_and_each_job_has_its_own_end(start_worker, tmp_path):
    handles = send(tasks.gather, tmp_path / "calls", [*range(24), "bad"])
    tasks.add.enqueue_many([(1, 1)] * 3)
    start_worker("-c", "1")
    assert results(handles[:24]) == list(range(24))
    with pytest.raises(ValueError, match="bad"):
        handles[24].get(timeout=20)
    assert [len(each) for each in calls(tmp_path / "calls")] == [10, 10, 5]
    wait_until(lambda: get_broker().owners() == set())
    assert set(Job.objects.values_list("token", flat=True)) == {1}


@one_kind
def test_the_first_waits_for_company_and_not_for_ever(start_worker, tmp_path):
    path = tmp_path / "calls"
    start_worker("-c", "1")
    began = time.monotonic()
    handles = [each for number in range(3) for each in send(tasks.gather, path, [number])]
    assert results(handles) == [0, 1, 2]
    assert time.monotonic() - began > 0.5
    assert [len(each) for each in calls(path)] == [3]


@one_kind
def test_others_run_while_some_gather(start_worker, tmp_path, database):
    start_worker("-c", "1")
    send(tasks.gather_for_long, tmp_path / "calls", [1, 2])
    wait_until(lambda: Job.objects.running().count() == 2)
    assert tasks.add.delay(1, 2).get(timeout=10) == 3
    assert calls(tmp_path / "calls") == []


@pytest.mark.parametrize(("pool", "database"), list(POOLS.items()), indirect=["database"])
def test_each_pool_runs_batches(start_worker, tmp_path, pool):
    start_worker("-P", pool, *(() if pool == "solo" else ("-c", "1" if pool == "prefork" else "4")))
    sync = send(tasks.gather, tmp_path / "sync", range(20))
    coroutines = send(tasks.gather_later, tmp_path / "async", range(20))
    assert results(sync + coroutines) == [*range(20), *range(20)]
    for name in ("sync", "async"):
        assert max(map(len, calls(tmp_path / name))) > 1
    assert results(tasks.gather_and_be_stopped.enqueue_many([()] * 3)) == ["stopped"] * 3


@both_kinds
def test_what_is_cancelled_while_it_gathers_does_not_run(start_worker, tmp_path):
    path = tmp_path / "calls"
    start_worker("-c", "1")
    handles = send(tasks.gather, path, range(3))
    wait_until(lambda: len(get_broker().leases([each.id for each in handles])) == 3)
    control.revoke(handles[1].id)
    assert [each.get(timeout=20) for each in (handles[0], handles[2])] == [0, 2]
    wait_until(lambda: state_of(handles[1]) == (states.REVOKED, 0))
    assert calls(path) == [["0", "2"]]


@one_kind
def test_a_warm_stop_gives_back_what_gathers(start_worker, tmp_path):
    worker = start_worker("-c", "1")
    handles = send(tasks.gather_for_long, tmp_path / "calls", range(3))
    wait_until(lambda: len(get_broker().leases([each.id for each in handles])) == 3)
    assert worker.stop() == 0
    assert get_broker().sizes()["default"].ready == 3
    assert calls(tmp_path / "calls") == []


@every_broker
def test_a_job_that_kills_its_process_takes_its_company_along_once(start_worker, tmp_path):
    path = tmp_path / "calls"
    handles = send(tasks.gather_and_die, path, ["a", "b", "die", "c", "d"])
    start_worker("-c", "1")
    wait_until(lambda: Job.objects.finished().count() == 5, seconds=30)
    assert [state_of(each) for each in handles] == [
        (states.SUCCESS, 1), (states.SUCCESS, 1), (states.FAILURE, 3), (states.SUCCESS, 1), (states.SUCCESS, 1),
    ]  # fmt: skip
    together, *alone = [line.split()[1:] for line in path.read_text().splitlines()]
    assert together == ["a", "b", "die", "c", "d"]
    assert sorted(alone) == [["a"], ["b"], ["c"], ["d"], ["die"], ["die"]]


@both_kinds
def test_acknowledged_early_all_fail_with_their_process_and_none_runs_again(start_worker, tmp_path):
    send(tasks.gather_once_and_die, tmp_path / "calls", range(3))
    start_worker("-c", "1")
    wait_until(lambda: Job.objects.filter(state=states.FAILURE).count() == 3)
    assert (tmp_path / "calls").read_text() == "call 3\n"


@one_kind
def test_a_hard_time_limit_is_the_calls(start_worker, tmp_path):
    handles = send(tasks.gather_and_hang, tmp_path / "calls", range(3))
    start_worker("-c", "1")
    wait_until(lambda: Job.objects.filter(state=states.FAILURE).count() == 3)
    assert {Job.objects.get(pk=each.id).exception.rpartition(".")[2] for each in handles} == {"TimeLimitExceeded"}
    assert (tmp_path / "calls").read_text() == "call 3\n"


@both_kinds
def test_a_member_that_is_cancelled_while_its_call_runs_has_its_result(start_worker, tmp_path):
    path = tmp_path / "calls"
    handles = send(tasks.gather_and_wait, path, range(3))
    start_worker("-c", "1")
    wait_until(lambda: calls(path))
    handles[1].revoke()
    path.with_suffix(".go").touch()
    assert results(handles) == [0, 1, 2]
    assert calls(path) == [["0", "1", "2"]]


@pytest.mark.parametrize(
    ("pool", "database"),
    [("prefork", "sqlite"), ("prefork", "redis"), ("threads", "postgresql"), ("asyncio", "redis")],
    indirect=["database"],
)
def test_a_member_that_is_cancelled_and_ended_takes_its_company_along_once(start_worker, tmp_path, pool):
    path = tmp_path / "calls"
    handles = send(tasks.gather_and_wait, path, range(3))
    start_worker("-P", pool, "-c", "1")
    wait_until(lambda: calls(path))
    handles[1].revoke(terminate=True)
    with pytest.raises(TaskRevokedError, match="terminated"):
        handles[1].get(timeout=20)
    assert results([handles[0], handles[2]]) == [0, 2]
    assert sorted(number for call in calls(path)[1:] for number in call) == ["0", "2"]
    assert [state_of(each) for each in handles] == [(states.SUCCESS, 0), (states.REVOKED, 0), (states.SUCCESS, 0)]


@both_kinds
def test_a_chord_learns_of_a_member_that_was_ended_in_its_batch(start_worker, tmp_path):
    path = tmp_path / "calls"
    body = chord([tasks.gather_and_wait.s(str(path), number) for number in range(3)])(tasks.total.s())
    start_worker("-c", "1")
    wait_until(lambda: calls(path))
    header = body.parent.results
    header[1].revoke(terminate=True)
    with pytest.raises((ChordError, TaskRevokedError)):
        body.get(timeout=20)
    assert results([header[0], header[2]]) == [0, 2]


@one_kind
def test_batches_stand_in_chains_and_chords(start_worker, tmp_path, database):
    path = str(tmp_path / "calls")
    start_worker("-c", "1")
    steps = [chain(tasks.gather.si(path, number), tasks.add.s(10)).delay() for number in range(4)]
    assert results(steps) == [10, 11, 12, 13]
    whole = chord([tasks.gather.si(path, number) for number in range(4)])(tasks.total.s())
    assert whole.get(timeout=20) == 6
    assert [sorted(each) for each in calls(tmp_path / "calls")] == [["0", "1", "2", "3"]] * 2
