"""What each broker promises, on each database. Another broker joins by the fixture `broker`."""

import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from djtasks import control, states
from djtasks.brokers import get_broker
from djtasks.brokers.base import Loss, QueueSize
from djtasks.message import Message, new_id
from djtasks.models import Job, Worker
from tests.waiting import wait_until

EMPTY = QueueSize(0, 0, 0)

pytestmark = pytest.mark.every_broker("redis", "valkey")


def message(task="some.task", **fields):
    return Message(id=fields.pop("id", None) or new_id(), task=task, **fields)


def claim(broker, limit=100, worker="one", queue="default", **options):
    return broker.claim(queue, limit=limit, worker=worker, **options)


def ids(deliveries):
    return [each.id for each in deliveries]


def test_a_job_comes_out_as_it_went_in(broker):
    sent = message(
        args='["é \\u0000 \\ud800"]',
        kwargs='{"x":1}',
        priority=7,
        retries=2,
        parent_id="p",
        root_id="r",
        group_id="g",
        schedule="nightly",
        sender="ann /orders/",
        headers='{"h":1}',
        options='{"time_limit":5}',
    )
    broker.enqueue([sent])
    (delivery,) = claim(broker)
    assert delivery.message == sent
    assert (delivery.worker, delivery.token, delivery.losses, delivery.revoked) == ("one", 1, 0, False)


def test_jobs_of_one_priority_come_in_the_order_in_which_they_were_sent(broker):
    sent = [message() for _ in range(50)]
    broker.enqueue(sent[:30])
    broker.enqueue(sent[30:])
    assert ids(claim(broker)) == [each.id for each in sent]


def test_order_does_not_depend_on_the_ids(broker):
    sent = [message(id=f"job-{9 - number}") for number in range(9)]
    broker.enqueue(sent)
    assert ids(claim(broker)) == [each.id for each in sent]


def test_a_higher_priority_comes_first(broker):
    broker.enqueue([message(id=str(priority), priority=priority) for priority in (0, -100, 9, 100, 5)])
    assert ids(claim(broker)) == ["100", "9", "5", "0", "-100"]


def test_a_claim_takes_no_more_than_its_limit(broker):
    broker.enqueue([message() for _ in range(5)])
    assert len(claim(broker, limit=2)) == 2
    assert len(claim(broker, limit=10)) == 3


def test_an_empty_queue_gives_nothing(broker):
    assert claim(broker) == []


def test_a_claimed_job_is_not_given_to_another(broker):
    broker.enqueue([message()])
    assert len(claim(broker, worker="one")) == 1
    assert claim(broker, worker="two") == []


def test_a_queue_gives_only_its_own_jobs(broker):
    broker.enqueue([message(id="a", queue="mail"), message(id="b", queue="Mail"), message(id="c", queue="ünï 图")])
    assert ids(claim(broker, queue="mail")) == ["a"]
    assert ids(claim(broker, queue="Mail")) == ["b"]
    assert ids(claim(broker, queue="ünï 图")) == ["c"]


def test_the_queues_that_hold_ready_jobs_are_named(broker):
    broker.enqueue([message(queue=name) for name in ("b", "a", "b", "ü")] + [message(queue="later", countdown=60)])
    assert broker.queues() == ["a", "b", "ü"]


def test_it_is_told_since_when_the_oldest_ready_job_of_each_queue_waits(broker):
    began = datetime.now(UTC) - timedelta(seconds=1)
    broker.enqueue([message(queue="a")])
    wait_until(lambda: datetime.now(UTC) > began + timedelta(seconds=1.2), what="a moment")
    between = datetime.now(UTC)
    broker.enqueue([message(queue="a"), message(queue="b"), message(queue="later", countdown=60)])
    oldest = broker.oldest(["a", "b", "later", "nobody"])
    assert set(oldest) == {"a", "b"}
    assert began < oldest["a"] < between < oldest["b"] < datetime.now(UTC) + timedelta(seconds=1)
    assert set(broker.oldest(["b"])) == {"b"}
    assert broker.oldest([]) == {}


def test_a_taken_id_is_left_as_it_is(broker):
    first = message(id="same", args="[1]")
    broker.enqueue([first])
    broker.enqueue([message(id="same", args="[2]"), message(id="other")])
    assert [(each.id, each.message.args) for each in claim(broker)] == [("same", "[1]"), ("other", "[]")]


def test_ids_differ_by_case(broker):
    broker.enqueue([message(id="Same"), message(id="same")])
    assert len(claim(broker)) == 2


def test_a_scheduled_job_is_not_given_before_its_time(broker):
    broker.enqueue([message(countdown=60), message(eta=datetime.now(UTC) + timedelta(hours=1))])
    assert broker.promote() == 0
    assert claim(broker) == []


def test_a_scheduled_job_is_given_once_its_time_has_come(broker):
    broker.enqueue([message(id="late", countdown=0.3), message(id="early", countdown=0.1)])
    promoted = []
    wait_until(lambda: promoted.append(broker.promote()) or sum(promoted) == 2)
    assert ids(claim(broker)) == ["early", "late"]


def test_it_is_told_how_long_it_is_until_the_first_scheduled_job_is_due(broker):
    assert broker.until_due() is None
    broker.enqueue([message(), message(countdown=3600)])
    assert 3590 < broker.until_due() <= 3600
    claimed = claim(broker)[0]
    broker.reschedule([(claimed, replace(claimed.message, retries=1, countdown=60))])
    assert 50 < broker.until_due() <= 60
    broker.enqueue([message(countdown=0.1)])
    wait_until(lambda: broker.until_due() <= 0)
    wait_until(lambda: broker.promote() == 1)  # SQLite tells the time to the millisecond
    assert 50 < broker.until_due() <= 60


def test_an_eta_in_the_past_is_now(broker):
    broker.enqueue([message(eta=datetime(2001, 1, 1, tzinfo=UTC))])
    (delivery,) = claim(broker)
    assert delivery.message.eta == datetime(2001, 1, 1, tzinfo=UTC)


def test_expires_in_becomes_a_time_by_the_brokers_clock(broker):
    broker.enqueue([message(expires_in=60)])
    (delivery,) = claim(broker)
    assert abs((delivery.message.expires_at - datetime.now(UTC)).total_seconds() - 60) < 5


def test_a_promotion_takes_no_more_than_its_limit(broker):
    broker.enqueue([message(countdown=0.01) for _ in range(5)])
    wait_until(lambda: broker.promote(limit=2) == 2)
    assert len(claim(broker)) == 2


def test_a_released_job_comes_again_at_its_old_place_with_a_new_token(broker):
    broker.enqueue([message(id="a"), message(id="b")])
    first, second = claim(broker)
    broker.release([first])
    broker.enqueue([message(id="c")])
    again = claim(broker, worker="two")
    assert ids(again) == ["a", "c"]
    assert (again[0].token, again[0].losses) == (2, 0)
    assert second.id == "b"


def test_a_release_may_take_effect_later_and_count(broker):
    broker.enqueue([message()])
    broker.release(claim(broker), delay=0.2, count="refusals")
    assert claim(broker) == []
    wait_until(broker.promote)
    (again,) = claim(broker)
    assert (again.refusals, again.losses) == (1, 0)
    broker.release([again], delay=0.01, count="losses")
    wait_until(broker.promote)
    assert claim(broker)[0].losses == 1


def test_a_release_by_one_that_lost_the_lease_does_nothing(broker):
    broker.enqueue([message()])
    (stale,) = claim(broker)
    broker.release([stale])
    claim(broker, worker="two")
    broker.release([stale])
    broker.release([replace(stale, worker="two")])
    assert claim(broker) == []


def test_a_worker_gives_back_what_it_does_not_know_to_have_claimed(broker):
    broker.enqueue([message(id="known"), message(id="unknown"), message(id="other")])
    claim(broker, worker="one", limit=2)
    claim(broker, worker="two")
    assert broker.forget_claims("one", but={"known"}) == 1
    (again,) = claim(broker, worker="three")
    assert (again.id, again.losses, again.token) == ("unknown", 0, 2)


def test_a_rescheduled_job_is_replaced_under_its_id(broker):
    broker.enqueue([message(id="x", args="[1]", priority=3)])
    (delivery,) = claim(broker)
    broker.reschedule([(delivery, replace(delivery.message, args="[2]", retries=1, countdown=0.2))])
    assert claim(broker) == []
    wait_until(broker.promote)
    (again,) = claim(broker, worker="two")
    assert (again.id, again.message.args, again.message.retries, again.token) == ("x", "[2]", 1, 2)


def test_a_rescheduled_job_without_a_delay_is_ready_at_once(broker):
    broker.enqueue([message()])
    (delivery,) = claim(broker)
    broker.reschedule([(delivery, replace(delivery.message, retries=1))])
    assert len(claim(broker)) == 1


def test_tasks_that_were_refused_are_left_to_others(broker):
    broker.enqueue([message(id="a", task="known"), message(id="b", task="unknown")])
    assert ids(claim(broker, refused=["unknown"])) == ["a"]
    assert ids(claim(broker)) == ["b"]


def test_one_task_may_be_claimed_alone_in_the_order_of_its_queue(broker):
    broker.enqueue([message(id="a", task="one")])
    broker.enqueue([message(id="b", task="other")])
    broker.enqueue([message(id="c", task="one")])
    broker.enqueue([message(id="d", task="one", priority=5)])
    assert ids(claim(broker, only="one", limit=2)) == ["d", "a"]
    assert ids(claim(broker, only="one")) == ["c"]
    assert claim(broker, only="one") == []
    assert ids(claim(broker)) == ["b"]


def test_what_is_revoked_after_it_was_claimed_is_told(broker):
    broker.enqueue([message(id="a")])
    broker.enqueue([message(id="b")])
    claimed = claim(broker)
    assert not any(each.revoked for each in claimed)
    broker.cancel(["b"])
    assert broker.revoked(["a", "b", "unknown"]) == {"b"}


def test_an_early_acknowledgement_holds_only_with_the_lease(broker):
    broker.enqueue([message()])
    (delivery,) = claim(broker)
    assert broker.start([delivery]) == [delivery.id]
    assert broker.start([replace(delivery, token=9)]) == []


def test_a_paused_queue_gives_nothing_until_it_is_resumed(broker):
    broker.enqueue([message()])
    broker.pause("default")
    assert claim(broker) == []
    assert broker.sizes()["default"].paused
    assert (broker.is_paused("default"), broker.is_paused("other")) == (True, False)
    broker.resume("default")
    assert len(claim(broker)) == 1


def test_a_cancelled_job_comes_out_flagged_at_once(broker):
    broker.enqueue([message(id="soon", priority=100), message(id="next year", countdown=1e7)])
    assert broker.cancel(["next year", "unknown"]) == 1
    first, second = claim(broker)
    assert (first.id, first.revoked) == ("next year", True)
    assert (second.id, second.revoked) == ("soon", False)


@pytest.mark.parametrize("known_by", [{"check": True}, {"parent_id": "p"}], ids=["own id", "canvas"])
def test_an_unknown_id_that_is_cancelled_comes_out_flagged_when_it_comes(broker, known_by):
    assert broker.cancel(["to come"]) == 0
    broker.enqueue([message(id="to come", countdown=60, args="[7]", **known_by), message(id="other")])
    found = broker.claim("default", limit=9, worker="w.1")
    assert [(each.id, each.revoked, each.token) for each in found] == [("to come", True, 1), ("other", False, 1)]
    assert (found[0].message.args, found[0].message.task) == ("[7]", "some.task")
    broker.enqueue([message(id="to come", **known_by)])
    assert broker.claim("default", limit=9, worker="w.1") == []


def test_a_cancelled_job_comes_out_of_a_paused_queue(broker):
    broker.enqueue([message(id="a"), message(id="b")])
    broker.pause("default")
    broker.cancel(["b"])
    assert ids(claim(broker)) == ["b"]


def test_scheduled_jobs_are_made_ready_in_their_turn_and_others_are_left_alone(broker):
    broker.enqueue([message(id="first"), message(id="a", countdown=60), message(id="b", countdown=60, priority=5)])
    broker.enqueue([message(id="c", countdown=60, queue="other"), message(id="later", countdown=60)])
    assert sorted(broker.hasten(["a", "b", "c", "first", "unknown"])) == ["a", "b", "c"]
    assert broker.sizes()["default"].scheduled == 1
    assert ids(claim(broker)) == ["b", "first", "a"]
    assert ids(claim(broker, queue="other")) == ["c"]
    assert broker.hasten(["a"]) == []
    broker.promote()
    assert ids(claim(broker)) == []


def test_peek_shows_what_will_be_claimed_and_changes_nothing(broker):
    broker.enqueue([message(id="a"), message(id="b", priority=5), message(id="c"), message(countdown=60)])
    assert [each.id for each in broker.peek("default")] == ["b", "a", "c"]
    assert [each.id for each in broker.peek("default", offset=1, limit=1)] == ["a"]
    assert ids(claim(broker)) == ["b", "a", "c"]


def test_sizes_are_counted_no_further_than_wanted_and_say_so(broker):
    broker.enqueue([message(queue="deep") for _ in range(5)] + [message(queue="low")])
    broker.enqueue([message(queue="low", countdown=60) for _ in range(3)])
    assert broker.sizes(9) == broker.sizes()
    sizes = broker.sizes(2)
    deep, low = sizes["deep"], sizes["low"]
    assert (low.ready, low.scheduled, low.more_ready, low.more_scheduled) == (1, 3, False, False)
    assert (deep.ready, deep.more_ready) in {(2, True), (5, False)}  # the second where counting is no work
    assert deep.scheduled == 0


def test_sizes_tell_ready_scheduled_and_running(broker):
    broker.enqueue([message(), message(), message(countdown=60), message(queue="mail")])
    claim(broker, limit=1)
    sizes = broker.sizes()
    assert (sizes["default"].ready, sizes["default"].scheduled, sizes["default"].running) == (1, 1, 1)
    assert sizes["mail"].ready == 1


def test_purge_removes_what_waits_and_nothing_else(broker):
    broker.enqueue([message(id="running"), message(), message(countdown=60), message(id="other", queue="mail")])
    claim(broker, limit=1)
    assert broker.purge("default") == 2
    assert broker.sizes()["default"].running == 1
    assert ids(claim(broker, queue="mail")) == ["other"]


@pytest.mark.parametrize(("source", "target"), [("default", "other"), ("other", "default"), ('größe "x"', "a\\b")])
def test_moved_jobs_keep_their_order_and_are_at_home_in_the_other_queue(broker, source, target):
    first, second = message(queue=source, args='["\\"queue\\":\\"other\\""]'), message(queue=source)
    urgent, there = message(queue=source, priority=5), message(queue=target, priority=-5)
    broker.enqueue([first, second, urgent, there])
    moved = [list(ids) for ids in broker.move(source, target)]
    assert moved == [[urgent.id, first.id, second.id]]
    claimed = claim(broker, queue=target)
    assert ids(claimed) == [urgent.id, first.id, second.id, there.id]
    assert {each.message.queue for each in claimed} == {target}
    assert claimed[1].message.args == first.args
    broker.release(claimed)
    assert ids(claim(broker, queue=target)) == [urgent.id, first.id, second.id, there.id]
    assert claim(broker, queue=source) == []


def test_scheduled_jobs_are_moved_too_and_come_at_their_time(broker):
    soon, later = message(countdown=0.3), message(countdown=60)
    broker.enqueue([later, soon, message(queue="other", countdown=90)])
    assert [list(ids) for ids in broker.move("default", "other")] == [[soon.id, later.id]]
    wait_until(broker.promote)
    assert ids(claim(broker, queue="other")) == [soon.id]
    assert broker.sizes()["other"].scheduled == 2
    assert broker.sizes().get("default", EMPTY) == EMPTY


def test_a_move_may_be_of_one_task_and_of_so_many_jobs(broker):
    sent = [message(task=f"task{number % 2}") for number in range(10)]
    broker.enqueue(sent)
    assert [list(ids) for ids in broker.move("default", "other", task="task1", limit=2)] == [[sent[1].id, sent[3].id]]
    assert ids(claim(broker, queue="other")) == [sent[1].id, sent[3].id]
    assert broker.sizes()["default"].ready == 8
    assert list(broker.move("default", "other", limit=0)) == []


def test_many_jobs_are_moved_in_portions_that_leave_none_behind(broker):
    sent = [message(task=f"task{number % 3}") for number in range(1600)]
    broker.enqueue(sent)
    moved = list(broker.move("default", "other", task="task1"))
    assert [job_id for portion in moved for job_id in portion] == [each.id for each in sent if each.task == "task1"]
    assert sum(map(len, broker.move("default", "other"))) == 1600 - 533
    assert broker.sizes()["other"].ready == 1600


def test_what_runs_is_not_moved(broker):
    broker.enqueue([message()])
    (held,) = claim(broker)
    assert list(broker.move("default", "other")) == []
    broker.release([held])
    assert ids(claim(broker)) == [held.id]


def test_a_waiting_worker_is_woken_by_what_is_moved_to_its_queue(broker):
    broker.enqueue([message()])
    claim(broker, queue="other")

    def move():
        list(get_broker().move("default", "other"))
        get_broker().close()

    threading.Timer(0.3, move).start()
    found = []
    wait_until(lambda: found or broker.wait(["other"], timeout=1.0) or found.extend(claim(broker, queue="other")))


def test_the_default_priority_of_a_queue_counts_where_nobody_chose_one(broker):
    control.set_queue("default", default_priority=7)
    control.set_queue("other", default_priority=-7)
    chosen = message(priority=5, prioritized=True)
    by_queue = message(priority=3)
    elsewhere = message(queue="other")
    broker.enqueue([chosen, by_queue, elsewhere])
    assert [(each.id, each.message.priority) for each in claim(broker)] == [(by_queue.id, 7), (chosen.id, 5)]
    (delivery,) = claim(broker, queue="other")
    assert delivery.message.priority == -7
    broker.reschedule([(delivery, delivery.message)])
    assert [each.message.priority for each in broker.peek("other")] == [-7]
    control.set_queue("default", default_priority=None)
    broker.enqueue([message(priority=3)])
    assert [each.message.priority for each in broker.peek("default")] == [3]


def test_aging_lets_the_old_overtake_the_urgent(broker):
    """A step of 0.1 s: what has waited for half a second counts as five priorities more."""
    old = message(priority=0)
    broker.enqueue([old])
    assert broker.age("default", step=60) == 0
    time.sleep(0.55)
    least, urgent = message(priority=4), message(priority=50)
    broker.enqueue([least, urgent])
    assert ids(broker.peek("default")) == [urgent.id, least.id, old.id]
    assert broker.age("default", step=0.1) == 1
    assert ids(broker.peek("default")) == [urgent.id, old.id, least.id]
    assert [each.message.priority for each in broker.peek("default")] == [50, 0, 4]


def test_aging_raises_nothing_above_the_highest_priority(broker):
    old, older = message(priority=99), message(priority=-100)
    broker.enqueue([message(priority=100), older, old])
    first = broker.peek("default")[0].id
    time.sleep(0.25)
    assert broker.age("default", step=0.001) == 2
    assert ids(broker.peek("default")) == [first, older.id, old.id]
    assert broker.age("default", step=0.001) == 0
    broker.enqueue([revoked := message(priority=-50)])
    broker.cancel([revoked.id])
    assert ids(claim(broker))[0] == revoked.id


def test_aging_takes_the_oldest_of_each_priority_first(broker):
    sent = {priority: [message(priority=priority) for _ in range(5)] for priority in (0, 10)}
    broker.enqueue([*sent[0], *sent[10]])
    broker.enqueue([message(priority=5)])
    time.sleep(0.2)
    assert broker.age("default", step=0.05, limit=2) == 5
    assert broker.age("another", step=0.05) == 0


def test_a_job_that_was_raised_and_comes_back_begins_where_it_was_sent(broker):
    broker.enqueue([message(priority=0)])
    time.sleep(0.15)
    assert broker.age("default", step=0.001) == 1
    (held,) = claim(broker)
    assert held.message.priority == 0
    broker.reschedule([(held, held.message)])
    broker.enqueue([message(priority=1)])
    assert [each.message.priority for each in broker.peek("default")] == [1, 0]


def test_a_message_of_a_mebibyte_arrives_whole(broker):
    args = f'["{"x" * 2**20}"]'
    broker.enqueue([message(args=args)])
    assert claim(broker)[0].message.args == args


def test_what_had_begun_in_a_dead_child_counts_a_loss_and_the_rest_does_not(broker):
    broker.enqueue([message(id="begun"), message(id="waiting")])
    begun, _ = claim(broker, worker="dead.1")
    assert broker.rescue([Loss("dead.1", started=((begun.id, begun.token),))], rescuer="me") == []
    assert {each.id: each.losses for each in claim(broker, worker="two")} == {"begun": 1, "waiting": 0}


def test_a_mark_of_an_earlier_claim_counts_nothing(broker):
    broker.enqueue([message(id="x")])
    claim(broker, worker="dead.1")
    broker.rescue([Loss("dead.1", started=(("x", 99),))], rescuer="me")
    assert claim(broker)[0].losses == 0


def test_the_last_loss_ends_the_job_by_the_rescuer(broker, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_MAX_LOSSES": 2}
    broker.enqueue([message(id="poison")])
    for turn in (1, 2):
        (delivery,) = claim(broker, worker=f"dead.{turn}")
        ended = broker.rescue([Loss(f"dead.{turn}", started=(("poison", delivery.token),))], rescuer="me")
    assert [(each.id, each.worker, each.losses) for each in ended] == [("poison", "me", 2)]
    assert claim(broker) == []


def test_a_job_that_was_acknowledged_early_and_had_begun_is_not_run_again(broker):
    broker.enqueue([message(id="early")])
    (delivery,) = claim(broker, worker="dead.1")
    broker.start([delivery])
    ended = broker.rescue([Loss("dead.1", started=(("early", delivery.token),))], rescuer="me")
    assert ids(ended) == ["early"]


def test_when_nobody_saw_what_ran_each_leased_job_counts(broker, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_MAX_LOSSES": 1}
    broker.enqueue([message(id="a"), message(id="b")])
    claim(broker, worker="dead.1")
    # Two may have run: neither is surely the one that killed the process, so neither ends.
    assert broker.rescue([Loss("dead.1", known=False)], rescuer="me") == []
    (first,) = claim(broker, limit=1, worker="dead.2")
    assert first.losses == 1
    assert ids(broker.rescue([Loss("dead.2", known=False)], rescuer="me")) == [first.id]


def test_a_worker_is_lost_only_if_its_beat_still_stands(broker):
    Worker.objects.create(pk="w", hostname="w", pid=1, queues="null", pool="prefork", concurrency=1)
    broker.enqueue([message()])
    claim(broker, worker="w.1")
    broker.beat(["w"])
    seen = broker.beats()["w"]
    assert broker.beat(["w"]) == {"w"}
    broker.rescue([Loss("w", known=False, beat=seen)], rescuer="me")
    assert claim(broker) == []
    broker.rescue([Loss("w", known=False, beat=seen + 1)], rescuer="me")
    assert claim(broker)[0].losses == 1


def test_a_worker_that_was_declared_lost_learns_it_at_its_next_beat(broker):
    Worker.objects.create(pk="w", hostname="w", pid=1, queues="null", pool="prefork", concurrency=1)
    broker.beat(["w"])
    broker.rescue([Loss("w", known=False, beat=1)], rescuer="me")
    assert broker.beat(["w"]) == set()
    assert broker.beats() == {}


def test_the_owners_of_leases_are_named(broker):
    broker.enqueue([message(), message(), message()])
    claim(broker, limit=1, worker="one.1")
    claim(broker, limit=1, worker="gone.1")
    assert broker.owners() == {"one.1", "gone.1"}


def test_a_job_acknowledged_early_has_begun_whatever_was_seen(broker):
    broker.enqueue([message()])
    (delivery,) = claim(broker, worker="dead.1")
    broker.start([delivery])
    assert ids(broker.rescue([Loss("dead.1")], rescuer="me")) == [delivery.id]


def test_what_was_ended_on_purpose_goes_to_the_rescuer_uncounted_and_the_rest_back(broker):
    broker.enqueue([message(id="a"), message(id="b")])
    begun, waiting = claim(broker, worker="dead.1", limit=2)
    (ended,) = broker.rescue([Loss("dead.1", started=((begun.id, begun.token),), final=True)], rescuer="me")
    assert (ended.id, ended.worker, ended.token, ended.losses) == ("a", "me", 2, 0)
    (again,) = claim(broker)
    assert (again.id, again.losses) == (waiting.id, 0)


def test_a_purpose_that_was_of_another_run_ends_nothing(broker):
    broker.enqueue([message(id="a")])
    (begun,) = claim(broker, worker="dead.1")
    assert broker.rescue([Loss("dead.1", started=(("a", begun.token + 1),), final=True)], rescuer="me") == []
    assert claim(broker)[0].losses == 0


def test_of_several_that_ran_in_a_dead_process_each_counts_a_loss_and_none_is_ended_for_it(broker):
    broker.enqueue([message(id=name) for name in ("a", "b", "waits")])
    claimed = {each.id: each for each in claim(broker, 3, worker="dead.1")}
    for turn in range(1, 5):
        begun = tuple((name, claimed[name].token) for name in ("a", "b"))
        assert broker.rescue([Loss(f"dead.{turn}", started=begun)], rescuer="me") == []
        claimed = {each.id: each for each in claim(broker, 3, worker=f"dead.{turn + 1}")}
        assert {name: each.losses for name, each in claimed.items()} == {"a": turn, "b": turn, "waits": 0}
    alone = (("a", claimed["a"].token),)
    assert ids(broker.rescue([Loss("dead.5", started=alone)], rescuer="me")) == ["a"]


def test_of_several_that_were_ended_on_purpose_each_comes_to_the_rescuer_uncounted(broker):
    broker.enqueue([message(id=name) for name in ("a", "b", "beside")])
    begun = tuple((each.id, each.token) for each in claim(broker, 3, worker="dead.1") if each.id != "beside")
    ended = broker.rescue([Loss("dead.1", started=begun, final=True)], rescuer="me")
    assert {each.id: each.losses for each in ended} == {"a": 0, "b": 0}
    assert [(each.id, each.losses) for each in claim(broker, 3)] == [("beside", 0)]


def test_who_holds_a_job_is_told_by_its_id(broker):
    broker.enqueue([message(id="held"), message(id="waits", countdown=60), message(id="ended")])
    held, ended = claim(broker, worker="w.1", limit=2)
    broker.ack([ended])
    Job.objects.filter(pk="ended").update(state=states.SUCCESS)
    assert broker.leases(["held", "waits", "ended", "unknown"]) == {"held": ("w.1", held.token)}
    assert broker.leases([]) == {}


def test_two_rescuers_at_once_rescue_each_job_once(broker):
    broker.enqueue([message() for _ in range(20)])
    deliveries = claim(broker, worker="dead.1")
    in_threads(2, lambda _: broker.rescue([Loss("dead.1", known=False)], rescuer="me"), broker)
    assert {each.losses for each in claim(broker, worker="two")} == {1}
    assert len(deliveries) == 20


def test_many_who_claim_at_once_get_each_job_once(broker):
    sent = [message() for _ in range(300)]
    broker.enqueue(sent)
    claimed = []

    def drain(number):
        while got := claim(broker, limit=7, worker=f"w{number}"):
            claimed.extend(got)

    in_threads(6, drain, broker)
    assert Counter(ids(claimed)) == Counter(each.id for each in sent)


def test_many_who_send_one_id_at_once_make_one_job(broker):
    in_threads(6, lambda number: broker.enqueue([message(id="same"), message(id=f"own-{number}")]), broker)
    assert sorted(ids(claim(broker))) == ["own-0", "own-1", "own-2", "own-3", "own-4", "own-5", "same"]


def test_waiting_ends_when_a_job_is_sent(broker):
    woken = threading.Event()

    def wait(_):
        broker.wait(["default"], timeout=0.01)  # whatever came before
        broker.wait(["default"], timeout=30)
        woken.set()

    def send_until_woken():
        broker.enqueue([message()])
        return woken.wait(0.1)

    thread = threading.Thread(target=closing(wait, broker), args=(0,))
    thread.start()
    wait_until(send_until_woken, seconds=10)
    thread.join()


def test_waiting_ends_after_its_time(broker):
    broker.wait(["default"], timeout=0.05)


def test_where_no_descriptor_tells_of_new_jobs_a_watcher_does(broker):
    watcher = broker.watcher(["other", "default"])
    is_woken = broker.wakeable(["other", "default"]) is not None
    broker.drain_wakeups()
    assert (watcher is None) is is_woken
    if watcher is None:
        return
    watcher.may_be_ready()  # whatever came before
    assert not watcher.may_be_ready()
    in_threads(1, lambda _: broker.enqueue([message()]), broker)
    assert watcher.may_be_ready()
    claim(broker)
    watcher.may_be_ready()
    assert not watcher.may_be_ready()


def closing(function, broker):
    def run(number):
        try:
            function(number)
        finally:
            broker.close()

    return run


def in_threads(count, function, broker):
    errors = []

    def run(number):
        try:
            function(number)
        except BaseException as error:
            errors.append(error)
        finally:
            broker.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_it_tells_where_a_job_stands(broker):
    first, second, urgent, later = message(), message(), message(priority=5), message(countdown=60)
    broker.enqueue([first, second, urgent, later])
    places = [broker.locate(each.id) for each in (urgent, first, second, later)]
    assert [place.before for place in places] == [0, 1, 2, None]
    assert [place.due_at is None for place in places] == [True, True, True, False]
    assert 50 < (places[-1].due_at - datetime.now(UTC)).total_seconds() < 70
    assert places[1].delivery.message == first
    claim(broker, limit=1, worker="one.2")
    place = broker.locate(urgent.id)
    assert (place.delivery.worker, place.delivery.token, place.before, place.due_at) == ("one.2", 1, None, None)
    broker.pause("default")
    assert broker.locate(second.id).is_paused
    assert not place.is_paused
    assert broker.locate("nobody's") is None


def test_what_was_given_back_for_a_while_stands_at_its_new_time(broker):
    sent = message()
    broker.enqueue([sent])
    broker.release(claim(broker), delay=60.0)
    assert 50 < (broker.locate(sent.id).due_at - datetime.now(UTC)).total_seconds() < 70


def test_a_walk_meets_all_that_waits_and_nothing_that_runs(broker):
    sent = [message(queue=f"q{number % 3}", countdown=60 if number % 2 else None) for number in range(700)]
    broker.enqueue(sent)
    (running,) = claim(broker, limit=1, queue="q0")
    portions = list(broker.walk(100))
    assert len(portions) > 3
    assert {each.id for portion in portions for each in portion} == {each.id for each in sent} - {running.id}
    assert {(each.id, each.message.queue) for portion in portions for each in portion} == {
        (each.id, each.queue) for each in sent if each.id != running.id
    }


def test_a_walk_may_meet_what_runs_too_but_not_what_has_ended(broker):
    sent = [message() for _ in range(3)]
    broker.enqueue(sent)
    first, _running = claim(broker, limit=2)
    broker.ack([first])
    if broker.transactional:
        Job.objects.filter(pk=first.id).update(state=states.SUCCESS)
    assert {each.id for portion in broker.walk(held=True) for each in portion} == {each.id for each in sent[1:]}
