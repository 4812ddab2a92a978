"""What an operator does to jobs of a canvas: run one once more, cancel one."""

import pytest

from djtasks import chain, chord, control, group
from djtasks.brokers import get_broker
from djtasks.exceptions import TaskRevokedError
from djtasks.execution import Execution
from djtasks.models import Job, JobGroup
from djtasks.result import AsyncResult
from djtasks.states import WAITING
from djtasks.testing import run_jobs
from djtasks.worker.ledger import Ledger
from tests.canvas.tasks import (
    add,
    becomes,
    echo,
    fail,
    fails_first,
    identity,
    replaced_by_one_that_fails_first,
    total,
)
from tests.canvas.ways import nothing_is_left, run_queued
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql", "redis"], indirect=True)


def test_a_step_that_failed_and_is_retried_goes_on_with_what_follows(database, tmp_path):
    result = run_queued(chain(identity.s(1), fails_first.s(str(tmp_path / "failed")), add.s(1)))
    assert (result.state, result.parent.state) == ("FAILURE", "FAILURE")
    assert control.retry(result.parent.id) == 1
    run_jobs()
    assert Job.objects.get(pk=result.id).state == "SUCCESS"
    assert nothing_is_left()


def test_a_member_that_is_retried_while_others_wait_counts_once(database, tmp_path):
    sig = chord([fails_first.s(1, str(tmp_path / "failed")), identity.s(2).set(queue="later")], total.s())
    result = sig.apply_async()
    run_jobs("default")
    assert control.retry(result.parent[0].id) == 1
    run_jobs("default")
    assert JobGroup.objects.get().remaining == 1
    run_jobs()
    assert result.get(timeout=1) == 3
    assert nothing_is_left()


def test_a_body_whose_header_failed_runs_once_its_member_has_been_retried(database, tmp_path):
    result = run_queued(chord([fails_first.s(1, str(tmp_path / "failed")), identity.s(2)], total.s()))
    assert result.state == "FAILURE"
    control.retry(result.parent[0].id)
    run_jobs()
    control.retry(result.id)
    run_jobs()
    assert Job.objects.get(pk=result.id).state == "SUCCESS"


@pytest.mark.parametrize("later", [2, 40])
def test_retrying_a_step_that_never_ran_retries_the_one_that_failed_before_it(database, tmp_path, later):
    steps = [add.s(1) for _ in range(later)]
    result = run_queued(chain(identity.s(1), fails_first.s(str(tmp_path / "failed")), *steps))
    assert control.retry(result.id) == 1
    run_jobs()
    assert Job.objects.get(pk=result.id).state == "SUCCESS"
    assert Job.objects.get(pk=result.parent.id).state == "SUCCESS"
    assert result.get(timeout=1) == 1 + later
    assert nothing_is_left()


def test_all_failed_jobs_of_a_chain_may_be_retried_together(database, tmp_path):
    result = run_queued(chain(identity.s(1), fails_first.s(str(tmp_path / "failed")), add.s(1), add.s(2)))
    assert control.retry([result.id, result.parent.id, result.parent.parent.id]) == 1
    run_jobs()
    assert Job.objects.get(pk=result.id).state == "SUCCESS"


def test_a_body_that_is_retried_with_its_members_waits_for_them(database, tmp_path):
    failing = fails_first.s(1, str(tmp_path / "failed")).set(queue="later")
    result = run_queued(chord([failing, identity.s(2)], total.s()))
    assert control.retry([result.id, result.parent[0].id]) == 2
    assert run_jobs("default") == 1
    assert Job.objects.get(pk=result.id).state in WAITING
    run_jobs("later")
    wait_until(lambda: get_broker().promote() and run_jobs("default"), what="the body's next turn")
    assert Job.objects.get(pk=result.id).state == "SUCCESS"
    assert result.get(timeout=1) == 3


def test_a_substitute_that_failed_and_is_retried_gives_its_result_to_what_it_stands_for(database, tmp_path):
    result = run_queued(chain(replaced_by_one_that_fails_first.si(1, str(tmp_path / "failed")), add.s(1)))
    assert (result.state, result.parent.state) == ("FAILURE", "FAILURE")
    control.retry(Job.objects.get(task=fails_first.name).pk)
    replaced = AsyncResult(result.parent.id)
    assert replaced.state == "STARTED"
    run_jobs()
    assert (replaced.get(timeout=1), AsyncResult(result.id).get(timeout=1)) == (1, 2)
    assert nothing_is_left()


def test_of_a_replaced_job_and_its_substitute_that_are_both_retried_the_substitute_runs(database, tmp_path):
    header = [replaced_by_one_that_fails_first.si(1, str(tmp_path / "failed")), identity.s(2).set(queue="later")]
    result = chord(header, total.s()).apply_async()
    run_jobs("default")
    failed = Job.objects.filter(state="FAILURE").values_list("pk", flat=True)
    assert len(failed) == 3  # the replaced one, and the two steps that stand for it
    control.retry(failed.exclude(token=0))
    run_jobs("default")
    assert JobGroup.objects.get().remaining == 1
    run_jobs()
    assert result.get(timeout=1) == 3
    assert Job.objects.filter(task=fails_first.name).count() == 1
    assert nothing_is_left()


def test_a_step_that_has_gone_on_and_is_retried_does_not_run_the_next_one_again(database, tmp_path):
    path = tmp_path / "notes"
    result = run_queued(chain(identity.s(1), echo.si(str(path), "second"), echo.si(str(path), "third")))
    control.retry(result.parent.parent.id)
    run_jobs()
    assert path.read_text() == "second\nthird\n"
    assert nothing_is_left()


def test_a_step_that_has_gone_on_and_is_retried_leaves_the_ends_of_later_ones_as_they_are(database):
    result = run_queued(chain(identity.s(1), fail.s(), identity.s()))
    control.retry(result.parent.parent.id)
    run_jobs()
    assert [AsyncResult(each.id).state for each in (result.parent, result)] == ["FAILURE", "FAILURE"]


@pytest.mark.parametrize("steps", [2, 30])
def test_cancelling_a_replaced_job_cancels_what_stands_for_it(database, steps):
    if not get_broker().transactional:
        pytest.skip("what only waits in Redis has no row that tells what it stands for")
    result = becomes.delay(42, chain(*(identity.s() for _ in range(steps))))
    broker = get_broker()
    (delivery,) = broker.claim("default", limit=1, worker="w.1")
    ledger = Ledger(broker, "w.1")
    ledger.record(Execution(delivery).run())
    ledger.commit()
    assert Job.objects.get(pk=result.id).state == "REPLACED"
    result.revoke()
    run_jobs()
    assert result.state == "REVOKED"
    assert nothing_is_left()


@pytest.mark.parametrize("at", ["middle", "end", "body"])
def test_a_step_that_has_not_been_sent_can_be_cancelled_and_what_follows_it_ends(database, at):
    if at == "body":
        last = middle = chord([add.s(1, 1), add.s(2, 2)], total.s()).delay()
    else:
        last = chain(add.s(1, 1), add.s(2), add.s(3)).delay()
        middle = last.parent
    cancelled = middle if at == "middle" else last
    cancelled.revoke()
    run_jobs()
    with pytest.raises(TaskRevokedError):
        cancelled.get(timeout=5)
    assert (cancelled.state, last.ready(), last.successful()) == ("REVOKED", True, False)
    assert nothing_is_left()


@pytest.mark.parametrize("follows", [False, True], ids=["at the end", "before a body"])
def test_a_member_that_has_not_been_sent_can_be_cancelled_and_what_follows_it_ends(database, follows):
    header = group(add.s(1), add.s(2))
    result = (chain(add.s(1, 1), header, total.s()) if follows else chain(add.s(1, 1), header)).delay()
    members = result.parent if follows else result
    members[0].revoke()
    run_jobs()
    assert [each.state for each in members] == ["REVOKED", "SUCCESS"]
    if follows:
        assert result.state == "FAILURE"
    assert nothing_is_left()


def test_a_cancelled_member_is_retried_with_the_body_that_failed_for_it(database):
    result = chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s()).delay()
    result.parent[0].revoke()
    run_jobs()
    assert control.retry(result.parent[0].id) == 1
    run_jobs()
    assert control.retry(result.id) == 1
    run_jobs()
    assert AsyncResult(result.id).get(timeout=1) == 7


def test_a_step_that_was_cancelled_before_it_came_stays_so_when_the_one_before_it_is_retried(database, tmp_path):
    path = tmp_path / "notes"
    result = chain(fails_first.s(1, str(tmp_path / "failed")), echo.si(str(path), "ran")).delay()
    result.revoke()
    run_jobs()
    control.retry(result.parent.id)
    run_jobs()
    assert [AsyncResult(each.id).state for each in (result.parent, result)] == ["SUCCESS", "REVOKED"]
    assert not path.exists()
    assert nothing_is_left()


def test_a_job_that_never_came_is_not_retried(database):
    control.revoke("never came")
    assert control.retry("never came") == 0
