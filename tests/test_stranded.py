"""Groups that wait for members that are gone end, and no others do."""

from datetime import timedelta

import pytest
from django.db import transaction

from djtasks import chain, chord, control, group, outbox, states, stranded
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable, ChordError
from djtasks.models import Job, JobGroup, Outbox
from djtasks.models.fields import utc_now
from djtasks.testing import run_jobs
from djtasks.why import why
from tests.canvas.tasks import identity, total
from tests.tasks import sleep
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker("redis")


@pytest.fixture
def long_ago(monkeypatch):
    """No group is too young, nor has anything happened to it too lately."""
    monkeypatch.setattr(stranded, "IDLE", 0.0)
    monkeypatch.setattr("djtasks.why.STILL_FOR", 0.0)


def take_away(queue):
    """What waits in a queue goes as if somebody had deleted it: its rows, or its messages."""
    if get_broker().transactional:
        assert Job.objects.waiting().filter(queue=queue).delete()[0]
    else:
        assert control.purge(queue)


def chord_without_a_member():
    result = chord([identity.s(1), identity.s(2).set(queue="gone"), identity.s(3)], total.s()).apply_async()
    take_away("gone")
    run_jobs()
    assert JobGroup.objects.get().remaining == 1
    return result


def kinds(job_id):
    return [each.kind for each in why(job_id)]


def test_a_chord_of_which_a_member_was_deleted_fails_and_says_so(broker, long_ago):
    result = chord_without_a_member()
    assert stranded.end() == 1
    run_jobs()
    with pytest.raises(ChordError, match="1 of the header's 3 results are gone"):
        result.get(timeout=5)
    assert JobGroup.objects.get().remaining == 0
    assert stranded.end() == 0


def test_it_is_told_before_with_what_to_do(broker, long_ago):
    result = chord_without_a_member()
    assert kinds(result.id) == ["group", "stranded"]
    assert "rows were deleted by hand, or a queue was purged" in why(result.id)[1].text


def test_nothing_is_ended_within_an_hour_of_what_happened_last(broker):
    result = chord_without_a_member()
    assert stranded.end() == 0
    assert kinds(result.id) == ["group"]
    earlier = utc_now() - timedelta(seconds=stranded.IDLE + 1)
    JobGroup.objects.update(created_at=earlier)
    assert stranded.end() == 0
    Job.objects.update(finished_at=earlier)
    assert stranded.end() == 1


def test_a_member_that_comes_back_after_all_sends_no_second_body(database, long_ago):
    chord_without_a_member()
    stranded.end()
    group_id = JobGroup.objects.get().pk
    with transaction.atomic(using=database):
        assert JobGroup.objects.all().count_down([(group_id, None)]) == []
    assert JobGroup.objects.get().remaining == 0


def test_a_group_without_a_body_ends_so_that_its_rows_can_expire(broker, long_ago):
    group(identity.s(1), identity.s(2).set(queue="gone"))()
    take_away("gone")
    run_jobs()
    assert stranded.end() == 1
    assert list(Job.objects.all().expired(-1.0)) == list(Job.objects.all())


def test_a_chord_within_a_group_ends_that_one_too(broker, long_ago):
    inner = chord([identity.s(1), identity.s(2).set(queue="gone")], total.s())
    result = chord([inner, identity.s(3)], identity.s()).apply_async()
    take_away("gone")
    run_jobs()
    assert stranded.end() == 1
    run_jobs()
    with pytest.raises(ChordError):
        result.get(timeout=5)
    assert not JobGroup.objects.unfinished().exists()


@pytest.mark.parametrize("options", [{}, {"countdown": 3600}, {"queue": "other"}], ids=["ready", "later", "unserved"])
def test_a_member_that_waits_keeps_its_group(broker, long_ago, options):
    result = chord([identity.s(1).set(queue="served"), identity.s(2).set(**options)], total.s()).apply_async()
    for delivery in broker.claim("served", limit=1, worker="w.1"):
        assert delivery.message.group_id
    assert stranded.end() == 0
    assert "stranded" not in kinds(result.id)


def test_a_member_that_is_claimed_keeps_its_group(broker, long_ago):
    chord([identity.s(1)], total.s()).apply_async()
    assert len(broker.claim("default", limit=2, worker="w.1")) == 1
    assert stranded.end() == 0


def test_a_later_step_and_the_body_of_a_group_within_keep_the_groups_around_them(broker, long_ago):
    steps = chain(identity.s(1), identity.s().set(countdown=3600))
    within = chord([identity.s(2).set(countdown=3600)], chord([identity.s()], total.s()))
    chord([steps, within], total.s()).apply_async()
    run_jobs()
    assert JobGroup.objects.unfinished().count() == 3
    assert stranded.end() == 0


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_member_in_the_outbox_keeps_its_group(database, long_ago, monkeypatch):
    def away(_messages):
        raise BrokerUnavailable("Redis does not answer.")

    monkeypatch.setattr(outbox._Breather, "until", outbox._Breather.until)
    monkeypatch.setattr(get_broker(), "enqueue", away)
    chord([identity.s(1)], total.s()).apply_async()
    assert Outbox.objects.exists()
    assert stranded.end() == 0


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_where_too_much_waits_to_look_at_nothing_is_said(database, long_ago):
    result = chord_without_a_member()
    for number in range(3):
        identity.delay(number)
    assert stranded.stranded(JobGroup.objects.all(), 0.0, most=3) == {JobGroup.objects.get().pk: 1}
    assert stranded.stranded(JobGroup.objects.all(), 0.0, most=2) == {}
    assert result.state == states.PENDING


def test_a_row_that_is_deleted_while_it_runs_is_missing_or_comes_again_with_its_outcome(start_worker, long_ago):
    result = chord([sleep.si(1.0), identity.si(2)], total.s()).apply_async()
    start_worker("-c", "1")
    wait_until(lambda: Job.objects.filter(task=sleep.name, state=states.STARTED).delete()[0])
    others = identity.delay(3)  # runs after it
    assert others.get(timeout=20) == 3
    if get_broker().transactional:
        wait_until(lambda: JobGroup.objects.get().remaining == 1)
        wait_until(lambda: stranded.end() == 1)
        with pytest.raises(ChordError, match="1 of the header's 2 results are gone"):
            result.get(timeout=20)
    else:
        wait_until(result.ready)
    assert stranded.end() == 0
