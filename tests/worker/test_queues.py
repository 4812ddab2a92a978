"""Which jobs run first, and which worker takes which queue: with real workers, on each broker."""

import pytest

from djtasks import control, states
from djtasks.brokers import get_broker
from djtasks.models import Job
from djtasks.queues import standing
from tests import tasks
from tests.conftest import empty_redis
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker


def begun(path):
    """What began, in its order."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[1] for line in lines if line.startswith("begin")]


def finished():
    return Job.objects.finished().count()


def send(path, queue, count, seconds=0.0, **options):
    for _ in range(count):
        tasks.journal.apply_async((str(path), queue, seconds), queue=queue, **options)


def test_what_was_sent_before_the_worker_began_runs_by_priority(start_worker, tmp_path):
    path = tmp_path / "journal"
    for priority in (5, 6, 9, 5, 6, 9):
        tasks.journal.apply_async((str(path), priority), priority=priority)
    start_worker("-c", "1")
    wait_until(lambda: finished() == 6)
    assert begun(path) == ["9", "9", "6", "6", "5", "5"]


def test_priorities_reach_from_minus_100_to_100_and_within_one_the_first_is_first(start_worker, tmp_path):
    path = tmp_path / "journal"
    for number, priority in enumerate((-100, 0, 100, -1, 1, 100, -100, 0)):
        tasks.journal.apply_async((str(path), number), priority=priority)
    start_worker("-c", "1")
    wait_until(lambda: finished() == 8)
    assert begun(path) == ["2", "5", "4", "1", "7", "3", "0", "6"]


def test_the_default_priority_of_a_queue_is_that_of_its_jobs(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.set_queue("default", default_priority=5)
    tasks.journal.apply_async((str(path), "chosen 4"), priority=4)
    tasks.journal.apply_async((str(path), "by-the-queue"))
    tasks.journal.apply_async((str(path), "chosen-6"), priority=6)
    start_worker("-c", "1")
    wait_until(lambda: finished() == 3)
    assert begun(path) == ["chosen-6", "by-the-queue", "chosen"]
    assert sorted(Job.objects.values_list("priority", flat=True)) == [4, 5, 6]


def test_queues_are_served_in_fair_turns_so_that_none_waits_for_another(start_worker, tmp_path):
    path = tmp_path / "journal"
    send(path, "a", 30, seconds=0.02)
    send(path, "b", 10, seconds=0.02)
    start_worker("-c", "1", "-Q", "a,b")
    wait_until(lambda: begun(path).count("b") == 10)
    assert begun(path).count("a") < 20


def test_strict_queues_are_served_in_their_order(start_worker, tmp_path):
    path = tmp_path / "journal"
    send(path, "b", 10, seconds=0.01)
    send(path, "a", 10, seconds=0.01)
    start_worker("-c", "1", "-Q", "a,b", "--strict-queues")
    wait_until(lambda: finished() == 20)
    assert begun(path) == ["a"] * 10 + ["b"] * 10


def test_with_two_processes_fair_turns_starve_nobody_while_one_queue_is_refilled(start_worker, tmp_path):
    path = tmp_path / "journal"
    send(path, "busy", 300, seconds=0.01)
    send(path, "small", 5)
    start_worker("-c", "2", "-Q", "busy,small")
    wait_until(lambda: begun(path).count("small") == 5)
    assert begun(path).count("busy") < 150


def test_a_queue_that_nobody_named_is_found_while_the_others_are_full(start_worker, tmp_path):
    path = tmp_path / "journal"
    send(path, "default", 400, seconds=0.02)
    send(path, "made-up", 1)
    start_worker("-c", "1")
    wait_until(lambda: "made-up" in begun(path))
    assert begun(path).count("default") < 300


def test_excluded_queues_are_left_to_others_whether_named_or_found(start_worker, tmp_path):
    path = tmp_path / "journal"
    send(path, "secret", 1)
    send(path, "mail", 1)
    send(path, "default", 1)
    start_worker("-c", "1", "-X", "secret,default")
    wait_until(lambda: begun(path) == ["mail"])
    assert {each.name for each in standing() if each.is_unserved} == {"default", "secret"}
    start_worker("-c", "1", "-Q", "mail,secret,default", "-X", "default")
    wait_until(lambda: begun(path) == ["mail", "secret"])
    assert get_broker().sizes()["default"].ready == 1


def test_a_worker_and_the_queues_that_it_names_are_seen(start_worker):
    start_worker("-c", "1", "-Q", "emial,default")
    tasks.noop.apply_async(queue="mail")
    seen = {each.name: (each.workers, each.is_unserved, each.has_senders) for each in standing()}
    assert seen == {"default": (1, False, True), "emial": (1, False, False), "mail": (0, True, True)}


def test_a_paused_queue_rests_until_it_is_resumed(start_worker, tmp_path):
    path = tmp_path / "journal"
    control.pause("mail")
    send(path, "mail", 2)
    start_worker("-c", "1")
    assert tasks.add.delay(1, 1).get(timeout=20) == 2
    assert begun(path) == []
    control.resume("mail")
    wait_until(lambda: len(begun(path)) == 2)


def test_jobs_are_moved_to_a_queue_that_is_served(start_worker, tmp_path):
    path = tmp_path / "journal"
    send(path, "emial", 3)
    start_worker("-c", "1", "-Q", "mail")
    result = tasks.add.apply_async((1, 1), queue="emial", countdown=1)
    assert control.move("emial", "mail") == 4
    assert result.get(timeout=20) == 2
    assert len(begun(path)) == 3
    assert set(Job.objects.values_list("queue", flat=True)) == {"mail"}


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_redis_that_was_emptied_learns_the_default_priorities_again(start_worker, settings):
    control.set_queue("mail", default_priority=5)
    start_worker("-c", "1", "-Q", "other")
    empty_redis(settings.DJTASKS["BROKER_URL"])

    def has_learnt():
        tasks.noop.apply_async(queue="mail")
        return get_broker().peek("mail", limit=1)[0].message.priority == 5  # it goes before those that came first

    wait_until(has_learnt)


@pytest.mark.parametrize("aging", [None, 0.1])
def test_only_with_aging_do_low_priorities_run_while_urgent_ones_keep_coming(start_worker, tmp_path, aging):
    path = tmp_path / "journal"
    control.set_queue("default", aging=aging)
    low = tasks.journal.apply_async((str(path), "low"), priority=-10)
    send(path, "default", 60, seconds=0.05, priority=9)
    start_worker("-c", "1")

    def refilled():
        """One comes for each that has run, so there is always an urgent one."""
        waiting = get_broker().sizes()["default"].ready
        send(path, "default", max(0, 40 - waiting), seconds=0.05, priority=9)
        return low.state == states.SUCCESS or len(begun(path)) > 200

    wait_until(refilled, seconds=60)
    assert (low.state == states.SUCCESS) is (aging is not None)
