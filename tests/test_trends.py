"""What was counted is read: in points of a window, by task and by queue, together with what nobody has counted yet."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djtasks import states, statistics, trends
from djtasks.message import Message, first_id, new_id
from djtasks.models import Job, Metric
from djtasks.models.metric import Figures
from djtasks.trends import WINDOWS

pytestmark = pytest.mark.every_broker("redis")
CAME = Counter({statistics.ENQUEUED: 1})
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
# Not before the hour's first minutes, so that "20 minutes ago" lies in the same day, and not in this machine's future.
NOW = datetime.now(UTC).replace(second=30, microsecond=0) - 2 * MINUTE


def ended(ago, *, count=1, state=states.SUCCESS, seconds=0.5, waited=2.0, task="shop.pay", queue="default"):
    """Jobs that ended so long before NOW."""
    end = NOW - ago
    begun = end - timedelta(seconds=seconds)
    Job.objects.bulk_create(
        Job(
            id=f"{first_id(end)}{new_id()[13:]}", task=task, queue=queue, state=state, seconds=seconds,
            created_at=begun - waited * SECOND, started_at=begun, finished_at=end,
        )
        for _ in range(count)
    )  # fmt: skip


def point_of(found, ago):
    start = statistics.start_of(found.window.level, NOW - ago)
    return next(point for point in found.points if point.start == start)


def test_each_window_has_its_points_up_to_now(database):
    for name, points in (("10m", 10), ("1h", 60), ("1d", 144), ("1w", 168)):
        found = trends.read(WINDOWS[name], NOW)
        assert len(found.points) == points
        assert found.points[-1].start <= NOW < found.points[-1].start + timedelta(seconds=found.window.level.seconds)
        assert found.total.ended == 0
        assert found.gap is None


def test_what_was_counted_stands_in_its_point_by_task_and_queue(database):
    ended(20 * MINUTE, count=3)
    ended(20 * MINUTE, state=states.FAILURE)
    ended(40 * MINUTE, task="shop.mail", queue="mail", seconds=4.0, waited=50.0)
    statistics.count(NOW)
    Job.objects.all().delete()  # it is not read from the rows
    found = trends.read(WINDOWS["1h"], NOW)
    point = point_of(found, 20 * MINUTE)
    assert (point.total.ended, point.total.failed, point.total.came) == (4, 1, 4)
    assert point.rate(point.total.ended) == pytest.approx(4 / 60)
    assert found.total.ended == 5
    assert found.tasks["shop.pay"].failure_rate == 0.25
    assert found.tasks["shop.mail"].run(0.95) == pytest.approx(4.0, rel=0.15)
    assert found.queues["mail"].wait(0.5) == pytest.approx(50.0, rel=0.15)
    assert set(found.queues) == {"default", "mail"}


def test_what_ended_a_moment_ago_is_there_before_anybody_has_counted_it(database):
    ended(5 * MINUTE)
    statistics.count(NOW)
    ended(10 * SECOND, count=2)
    for name in WINDOWS:
        found = trends.read(WINDOWS[name], NOW)
        assert found.total.ended == 3, name
        assert found.gap is None
    assert point_of(trends.read(WINDOWS["1h"], NOW), 10 * SECOND).total.ended == 2


def test_nothing_is_counted_twice_on_its_way_from_minutes_to_hours(database):
    for minutes in range(1, 175):
        ended(minutes * MINUTE)
    statistics.count(NOW)
    for name, count in (("1d", 174), ("1w", 174)):
        assert trends.read(WINDOWS[name], NOW).total.ended == count, name


def test_a_time_that_nobody_has_counted_is_not_taken_for_an_idle_one(database):
    ended(50 * MINUTE)
    statistics.count(NOW - 40 * MINUTE)
    ended(20 * MINUTE, count=5)
    ended(30 * SECOND)
    found = trends.read(WINDOWS["1h"], NOW)
    assert found.gap is not None
    assert found.total.ended == 2
    assert not point_of(found, 20 * MINUTE).known
    assert point_of(found, 20 * MINUTE).rate(0) is None
    assert point_of(found, 50 * MINUTE).known
    assert found.seconds < 30 * 60
    statistics.count(NOW)
    assert trends.read(WINDOWS["1h"], NOW).gap is None


def test_depths_are_means_of_the_looks(broker):
    broker.enqueue([Message(id=new_id(), task="shop.pay", queue="mail") for _ in range(4)])
    statistics.count(NOW)
    found = trends.read(WINDOWS["1h"], NOW)
    looked = next(point for point in found.points if point.looks)
    assert looked.depth("mail") == 4
    assert looked.depth("another") == 0
    assert point_of(found, 30 * MINUTE).depth("mail") is None  # nobody knows


def test_a_queue_that_was_empty_at_some_looks_is_less_deep_on_average(broker):
    hour = statistics.start_of(statistics.LEVELS[2], NOW)
    at = hour - 30 * MINUTE
    statistics.count(at + MINUTE + 20 * SECOND)
    broker.enqueue([Message(id=new_id(), task="shop.pay", queue="mail") for _ in range(4)])
    ended(NOW - at)
    statistics.count(at + 2 * MINUTE + 20 * SECOND)
    found = trends.read(WINDOWS["1d"], at + 3 * MINUTE)
    (looked,) = [point for point in found.points if point.looks]
    assert (looked.looks, looked.depth("mail")) == (2, 2.0)


def counted_hours(*, whole):
    """Eight days of hours up to this one, in each of which two jobs of a task ended and one came; added up by day."""
    this = statistics.start_of(statistics.LEVELS[2], NOW)
    rows = {("shop.pay", "default"): Figures(Counter(SUCCESS=2), Counter({-3: 2})), ("", "mail"): Figures(CAME)}
    for hours in range(1, 8 * 24):
        start = this - timedelta(hours=hours)
        Metric.objects.begin(start, 3600, whole=whole)
        Metric.objects.add(start, 3600, {**rows, ("", ""): Figures(CAME + Counter(SUCCESS=2), Counter({-3: 2}))})
    statistics.count(NOW)


def figures_of(found):
    points = [(each.start, each.total.ended, each.total.came, each.total.runs) for each in found.points]
    return points, found.tasks["shop.pay"], found.queues["mail"].came, found.queues["default"].ended, found.gap


def test_what_was_counted_before_periods_were_whole_reads_the_same(database):
    counted_hours(whole=True)
    expected = figures_of(trends.read(WINDOWS["1w"], NOW))
    Metric.objects.all().delete()
    counted_hours(whole=False)
    Metric.objects.filter(task="", queue="").update(counts="{}", histogram="{}")
    assert figures_of(trends.read(WINDOWS["1w"], NOW)) == expected
    points, _task, came, out, _gap = expected
    assert [ends for _start, ends, _came, _runs in points] == [2] * 167 + [0]
    assert out == 2 * came == 334


def test_of_days_that_have_been_counted_the_hours_of_tasks_are_not_read(database):
    counted_hours(whole=True)
    expected = figures_of(trends.read(WINDOWS["1w"], NOW))
    day = statistics.start_of(statistics.LEVELS[3], NOW) - timedelta(days=3)
    hours = Metric.objects.of(3600, day, day + timedelta(days=1)).filter(task="shop.pay")
    assert hours.delete()[0] == 24
    assert figures_of(trends.read(WINDOWS["1w"], NOW)) == expected


def test_what_leaves_no_row_is_there_before_its_minute_is_counted(database):
    statistics.count(NOW)
    minute = statistics.start_of(statistics.LEVELS[0], NOW)
    Metric.objects.add(minute, 60, {("shop.pay", "default"): Figures(Counter(SUCCESS=3))})
    for name in WINDOWS:
        found = trends.read(WINDOWS[name], NOW)
        assert found.total.ended == found.tasks["shop.pay"].ended == found.points[-1].total.ended == 3


def test_it_costs_the_same_whatever_ran(database):
    def statements():
        with CaptureQueriesContext(connections[database]) as captured:
            trends.read(WINDOWS["1w"], NOW)
        return len(captured)

    ended(90 * MINUTE)
    statistics.count(NOW)
    before = statements()
    ended(30 * MINUTE, count=200)
    ended(20 * SECOND, count=200)
    statistics.count(NOW)
    assert statements() == before <= 3 + 2 * 4


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_of_a_time_the_periods_of_one_length_are_read_and_no_others(database):
    plan = Metric.objects.of(600, NOW - 60 * MINUTE, NOW).explain()
    assert "(seconds=? AND start_at>? AND start_at<?)" in plan


def test_more_rows_than_can_be_read_cost_the_oldest_part(database, monkeypatch):
    monkeypatch.setattr(trends, "MOST_ROWS", 16)
    for minutes in range(5, 15):
        ended(minutes * MINUTE)
    statistics.count(NOW)
    found = trends.read(WINDOWS["1h"], NOW)
    assert found.is_cut
    assert 0 < found.total.ended < 10
    assert not found.points[0].known
    assert found.points[-2].known


def test_of_one_task_only_what_ended_of_it_is_read(database):
    ended(20 * MINUTE, count=3)
    ended(20 * MINUTE, task="shop.mail", state=states.FAILURE)
    statistics.count(NOW)
    ended(5 * SECOND, count=2)
    ended(5 * SECOND, task="shop.mail")
    found = trends.read(WINDOWS["1h"], NOW, task="shop.pay")
    assert (found.total.ended, found.total.failed) == (5, 0)
    assert list(found.tasks) == ["shop.pay"]
    assert point_of(found, 20 * MINUTE).total.ended == 3
    assert found.gap is None
