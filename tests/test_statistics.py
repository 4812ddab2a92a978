"""What ended is counted minute by minute, and added up."""

from collections import Counter
from datetime import timedelta

import pytest
from django.db import OperationalError, connections

from djtasks import states, statistics
from djtasks.message import Delivery, Message, Outcome, first_id, new_id
from djtasks.models import Job, Metric
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures, bucket_of, quantile
from djtasks.worker.tally import Tally

pytestmark = pytest.mark.every_broker("redis")
SECOND = timedelta(seconds=1)
MINUTE = timedelta(seconds=60)


def minute_ago(number):
    """The start of the minute `number` minutes before this one."""
    return utc_now().replace(second=0, microsecond=0) - number * MINUTE


def ended(at, *, state=states.SUCCESS, seconds=0.5, waited=2.0, **fields):
    begun = None if seconds is None else at - timedelta(seconds=seconds)
    values = {"id": new_id(), "task": "shop.pay", "queue": "default", "created_at": (begun or at) - waited * SECOND}
    times = {"finished_at": at, "started_at": begun, "seconds": seconds}
    return Job.objects.create(**{**values, **times, "state": state, **fields})


def of(start, task="shop.pay", queue="default", seconds=60):
    row = Metric.objects.filter(start_at=start, seconds=seconds, task=task, queue=queue).first()
    return row.figures if row else None


def test_what_ended_in_a_minute_is_counted_by_task_queue_and_state(database):
    start = minute_ago(5)
    for number in range(3):
        ended(start + timedelta(seconds=number))
    ended(start, state=states.FAILURE)
    ended(start, state=states.REVOKED, seconds=None)
    ended(start, task="shop.mail", queue="mail")
    ended(start + MINUTE)
    statistics.count()
    assert of(start).counts == {"SUCCESS": 3, "FAILURE": 1, "REVOKED": 1}
    assert of(start, "shop.mail", "mail").counts == {"SUCCESS": 1}
    assert of(start + MINUTE).counts == {"SUCCESS": 1}


def test_run_times_and_waits_are_known_to_a_tenth(database):
    start = minute_ago(5)
    for number in range(100):
        ended(start, seconds=0.01 * (number + 1), waited=10.0)
    ended(start, seconds=2.0, waited=50.0, run_at=start - timedelta(seconds=5))  # waited for 3 s since it was due
    statistics.count()
    runs, waits = of(start).runs, of(start).waits
    assert quantile(runs, 0.5) == pytest.approx(0.5, rel=0.15)
    assert quantile(runs, 0.95) == pytest.approx(0.95, rel=0.15)
    assert quantile(waits, 0.5) == pytest.approx(10.0, rel=0.15)
    assert quantile(waits, 0.0) == pytest.approx(3.0, rel=0.15)
    assert runs == Counter(bucket_of(job.seconds) for job in Job.objects.all())


def test_nothing_has_no_quantile():
    assert quantile({}, 0.5) is None


def test_a_minute_is_counted_once(database):
    start = minute_ago(5)
    ended(start)
    assert statistics.count() > 0
    ended(start)
    assert statistics.count() == 0
    assert of(start).counts == {"SUCCESS": 1}


def test_a_minute_that_is_not_over_for_long_is_not_counted_yet(database):
    now = minute_ago(0)
    ended(now - timedelta(seconds=1))
    statistics.count(now + statistics.LAG - timedelta(seconds=1))
    assert of(now - MINUTE) is None
    statistics.count(now + statistics.LAG)
    assert of(now - MINUTE).counts["SUCCESS"] == 1


def test_minutes_in_which_nobody_counted_are_made_up_for_as_long_as_they_would_be_kept(database):
    now, starts = utc_now(), [minute_ago(number) for number in (5, 100, 178, 182)]
    for start in starts:
        ended(start)
    statistics.count(now)
    assert [of(start) is not None for start in starts] == [True, True, True, False]


def test_minutes_add_up_to_ten_and_these_to_hours(database):
    hour = (utc_now() - timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
    for number in (0, 5, 9, 10, 59, 60):
        ended(hour + number * MINUTE)
    statistics.count()
    assert of(hour, seconds=600).counts == {"SUCCESS": 3}
    assert of(hour, seconds=3600).counts == {"SUCCESS": 5}
    assert sum(of(hour, seconds=3600).runs.values()) == sum(of(hour, seconds=3600).waits.values()) == 5


def test_what_was_sent_is_counted_by_its_ids(database):
    start = minute_ago(3)
    ended(start)
    for moment in (start, start + timedelta(seconds=59.9), start + MINUTE):
        Job.objects.create(id=f"{first_id(moment)}-7aaa", task="shop.pay", queue="mail", created_at=moment)
    statistics.count()
    assert of(start, "", "mail").counts["ENQUEUED"] == 2


def test_what_a_period_comes_to_stands_in_the_row_that_says_that_it_was_counted(database):
    hour = (utc_now() - timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
    for number, task, queue in ((0, "shop.pay", "default"), (0, "shop.mail", "mail"), (11, "shop.pay", "default")):
        ended(hour + number * MINUTE, task=task, queue=queue)
    Job.objects.create(id=f"{first_id(hour)}-7aaa", task="shop.pay", queue="mail", created_at=hour)
    Metric.objects.add(hour, 60, {("shop.ping", "default"): Figures(Counter(SUCCESS=5), Counter({-3: 5}))})
    statistics.count()
    for seconds, ends in ((60, 7), (600, 7), (3600, 8)):
        whole = Metric.objects.get(start_at=hour, seconds=seconds, task="", queue="")
        assert whole.whole
        assert whole.figures.counts == {"SUCCESS": ends, "ENQUEUED": 1}
        assert (sum(whole.figures.runs.values()), sum(whole.figures.waits.values())) == (ends, ends - 5)


def test_a_period_is_not_whole_if_a_part_of_it_is_not(database):
    """Workers of an older version count meanwhile."""
    hour = (utc_now() - timedelta(hours=3)).replace(minute=0, second=0, microsecond=0)
    for number in range(6):
        Metric.objects.begin(hour + 10 * number * MINUTE, 600, whole=number != 3)
    statistics.count()
    assert not Metric.objects.get(start_at=hour, seconds=3600, task="", queue="").whole
    assert Metric.objects.get(start_at=hour + timedelta(hours=1), seconds=3600, task="", queue="").whole


def test_hours_add_up_to_days_though_they_were_counted_before_there_were_any(database):
    now = utc_now()
    day = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    for hours in (0, 1, 23, 24):
        Metric.objects.begin(day + timedelta(hours=hours), 3600)
        Metric.objects.add(day + timedelta(hours=hours), 3600, {("shop.pay", "default"): Figures(Counter(SUCCESS=2))})
    statistics.count(now)
    assert of(day, seconds=86_400).counts == {"SUCCESS": 6}
    assert of(day + timedelta(days=1), seconds=86_400).counts == {"SUCCESS": 2}
    assert of(day + timedelta(days=2), seconds=86_400) is None  # it is not over


def test_how_deep_queues_are_is_looked_at_each_time(broker):
    broker.enqueue([Message(id=new_id(), task="shop.pay", queue="mail", countdown=at) for at in (None, None, 3600)])
    now = minute_ago(0) + MINUTE / 2
    statistics.count(now)
    last = of(minute_ago(1), "", "mail").counts
    assert (last["ready"], last["scheduled"], last["looks"]) == (2, 1, 1)
    assert of(minute_ago(2), "", "mail") is None  # nobody knows


def test_what_is_old_goes_level_by_level(database):
    now = utc_now()
    for hours, seconds in ((4, 60), (4, 600), (49, 600), (49, 3600), (24 * 91, 3600), (24 * 91, 86_400)):
        Metric.objects.create(start_at=now - timedelta(hours=hours), seconds=seconds, task="t", queue="q")
    assert statistics.prune() == 4
    assert sorted(Metric.objects.values_list("seconds", flat=True)) == [600, 3600]


def test_several_add_to_the_same_minute(database):
    for _ in range(2):
        statistics.add({("t", "q"): Figures(Counter(SUCCESS=2), Counter({-3: 2}))})
    rows = [row.figures for row in Metric.objects.filter(task="t")]
    assert sum((each.counts for each in rows), Counter()) == {"SUCCESS": 4}
    assert sum((each.runs for each in rows), Counter()) == {-3: 4}


def test_what_leaves_no_row_is_tallied_by_its_worker(database):
    tally = Tally()
    created = utc_now() - timedelta(seconds=3)
    delivery = Delivery(Message(id=new_id(), task="shop.ping", queue="default"), "w.1", 1, created_at=created)
    tally.add(
        [Outcome(delivery=delivery, state=states.SUCCESS, seconds=1.0, forget=forget) for forget in (True, False)]
    )
    tally.write()
    assert not Metric.objects.filter(task="shop.ping").exists()  # not yet time
    tally.write(at_once=True)
    figures = Metric.objects.get(task="shop.ping").figures
    assert figures.counts == {"SUCCESS": 1}
    assert quantile(figures.waits, 0.5) == pytest.approx(2.0, rel=0.15)
    assert Metric.objects.get(task="", queue="default").figures.counts == {"ENQUEUED": 1}
    tally.write(at_once=True)
    assert Metric.objects.get(task="shop.ping").figures.counts == {"SUCCESS": 1}


def test_counts_that_cannot_be_written_hold_up_nothing(database, monkeypatch, caplog):
    tally = Tally()
    tally.add([Outcome(delivery=Delivery(Message(id="x", task="t"), "w.1", 1), state=states.SUCCESS, forget=True)])
    with connections[database].execute_wrapper(_refuse):
        tally.write(at_once=True)
    assert "statistics are lost" in caplog.text


def _refuse(execute, sql, params, many, context):
    raise OperationalError("gone away")
