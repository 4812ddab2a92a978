"""A site's own first tests: what `djtasks.testing` gives them."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.test import TestCase

from djtasks import shared_task
from djtasks.models import Job
from djtasks.testing import eager, run_jobs
from tests import tasks


class FirstTestCase(TestCase):
    """As a user would write it."""

    def test_a_task_runs_at_once_within_eager(self):
        with eager():
            assert tasks.add.delay(1, 2).get() == 3
        assert not Job.objects.exists()

    def test_what_a_task_raises_within_eager_is_raised(self):
        with eager(), self.assertRaisesMessage(ValueError, "broken"):
            tasks.fail.delay()

    def test_queued_jobs_run_when_asked_to(self):
        result = tasks.add.delay(1, 2)
        assert result.state == "PENDING"
        assert run_jobs() == 1
        assert result.get(timeout=0) == 3

    def test_what_waits_for_a_commit_is_run_too(self):
        sent = []
        transaction.on_commit(lambda: sent.append(tasks.add.delay(1, 2)))
        with transaction.atomic():
            later = tasks.add.delay_on_commit(3, 4)
        assert sent == []
        assert run_jobs() == 2
        assert (sent[0].get(timeout=0), later.get(timeout=0)) == (3, 7)

    def test_what_waits_for_a_commit_may_be_left_waiting(self):
        tasks.add.delay_on_commit(1, 2)
        assert run_jobs(on_commit=False) == 0

    def test_what_rolls_back_is_not_run(self):
        try:
            with transaction.atomic():
                tasks.add.delay(1, 2)
                tasks.add.delay_on_commit(1, 2)
                raise KeyError
        except KeyError:
            pass
        assert run_jobs() == 0

    def test_a_commit_hook_that_raises_is_raised_unless_it_is_robust(self):
        transaction.on_commit(lambda: 1 / 0, robust=True)
        run_jobs()
        transaction.on_commit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_jobs()

    def test_a_failing_job_fails_alone(self):
        failing, good = tasks.fail.delay(), tasks.add.delay(1, 2)
        assert run_jobs() == 2
        assert failing.failed()
        assert good.successful()


pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("own_tasks")]


def test_jobs_that_jobs_send_are_run_too():
    @shared_task
    def countdown(number):
        if number:
            countdown.delay(number - 1)

    countdown.delay(3)
    assert run_jobs() == 4


def test_retries_run_at_once_and_stand_in_the_row(tmp_path):
    result = tasks.succeed_at.delay(str(tmp_path / "tries"), 3, countdown=3600)
    assert run_jobs() == 3
    assert (result.get(timeout=0), result.retries) == (2, 2)
    assert [each["ending"] for each in Job.objects.get().all_attempts()] == ["RETRY", "RETRY", "SUCCESS"]


def test_a_job_that_is_rejected_with_requeue_runs_until_it_is_given_up(tmp_path):
    result = tasks.rejected.delay(str(tmp_path / "runs"), requeue=True)
    assert run_jobs() == 3
    assert result.failed()


def test_jobs_of_a_later_time_stay():
    result = tasks.add.apply_async((1, 2), countdown=timedelta(hours=1))
    assert run_jobs() == 0
    assert result.state == "PENDING"


def test_only_the_queues_that_are_named_are_run():
    mail, other = tasks.add.apply_async((1, 2), queue="mail"), tasks.add.delay(3, 4)
    assert run_jobs("mail") == 1
    assert (mail.ready(), other.ready()) == (True, False)


def test_jobs_run_in_the_order_of_their_priorities():
    order = []

    @shared_task
    def note(name):
        order.append(name)

    for name, priority in (("low", -5), ("high", 9), ("middle", 0)):
        note.apply_async((name,), priority=priority)
    run_jobs()
    assert order == ["high", "middle", "low"]


def test_a_job_that_sends_itself_for_ever_is_noticed(monkeypatch):
    monkeypatch.setattr("djtasks.testing.running.MOST_RUNS", 20)

    @shared_task
    def endless():
        endless.delay()

    endless.delay()
    with pytest.raises(RuntimeError, match="does one send itself"):
        run_jobs()


def test_progress_is_stored():
    @shared_task(bind=True)
    def work(self):
        self.update_state(state="PROGRESS", meta={"done": 3})

    work.delay()
    run_jobs()
    row = Job.objects.get()
    assert (row.state, row.progress()) == ("SUCCESS", {"done": 3})


def test_the_eager_settings_end_with_the_block(settings):
    with eager(propagates=False):
        assert tasks.fail.delay().failed()
    assert tasks.fail.delay().state == "PENDING"
