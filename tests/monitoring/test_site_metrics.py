"""What the view tells Prometheus of the whole site, and to whom."""

from collections import Counter
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db import OperationalError, connection
from django.test import RequestFactory
from prometheus_client import CollectorRegistry, generate_latest

from djtasks import control, statistics
from djtasks.brokers import get_broker
from djtasks.message import new_id
from djtasks.models import Job, Metric, Outbox, PeriodicTask, Worker
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures
from djtasks.monitoring import labels, site, totals, views
from djtasks.monitoring.site import SiteCollector
from tests import tasks
from tests.monitoring.scraping import Samples

TOKEN = "a-token-of-the-tests"


def scrape():
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SiteCollector())
    return Samples(generate_latest(registry).decode())


def live_worker(**fields):
    values = {"id": new_id()[:32], "hostname": "w", "pid": 1, "queues": "null", "pool": "prefork", "concurrency": 4}
    return Worker.objects.create(**{**values, **fields})


def counted(start, seconds, **figures):
    """A period that was counted, in which jobs of `tests.tasks.add` ended."""
    Metric.objects.begin(start, seconds)
    Metric.objects.add(start, seconds, {("tests.tasks.add", "default"): Figures(**figures)})


def test_a_day_that_was_added_up_is_told_once_until_the_next_has_begun(database):
    day = utc_now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    last = day + timedelta(hours=23)
    for start, seconds in ((last + timedelta(minutes=59), 60), (last, 3600), (day, 86_400)):
        counted(start, seconds, counts=Counter(SUCCESS=3))
    assert scrape()["djtasks_jobs_total", "default", "SUCCESS", "tests.tasks.add"] == 3


@pytest.mark.every_broker
def test_each_queue_tells_what_waits_in_it_and_for_how_long(database):
    live_worker(queues='["default"]')
    tasks.add.delay(1, 1)
    tasks.add.apply_async((1, 1), countdown=600)
    tasks.add.apply_async((1, 1), queue="mail")
    control.pause("mail")
    samples = scrape()
    assert samples["djtasks_broker_up",] == 1
    assert samples["djtasks_queue_ready_jobs", "default"] == samples["djtasks_queue_scheduled_jobs", "default"] == 1
    assert 0 <= samples["djtasks_queue_oldest_seconds", "default"] < 60
    assert (samples["djtasks_queue_workers", "default"], samples["djtasks_queue_workers", "mail"]) == (1, 0)
    assert (samples["djtasks_queue_paused", "default"], samples["djtasks_queue_paused", "mail"]) == (0, 1)


def test_of_a_queue_that_holds_very_many_it_tells_what_was_counted_last(database, monkeypatch):
    monkeypatch.setattr(site, "MOST_COUNTED", 3)
    for _ in range(5):
        tasks.add.delay(1, 1)
        tasks.add.apply_async((1, 1), countdown=600)
    assert scrape()["djtasks_queue_ready_jobs", "default"] == 3
    statistics.count(utc_now() + timedelta(seconds=75))
    tasks.add.delay(1, 1)
    assert scrape()["djtasks_queue_ready_jobs", "default"] == 5
    monkeypatch.setattr(site, "MOST_COUNTED", 7)
    assert scrape()["djtasks_queue_ready_jobs", "default"] == 6


def test_a_broker_that_does_not_answer_is_told_and_the_rest_goes_on(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TEST_BROKER_URL": "redis://127.0.0.1:1/0", "BROKER_TIMEOUT": 0.1}
    samples = scrape()
    assert samples["djtasks_broker_up",] == 0
    assert samples["djtasks_workers",] == 0


def test_workers_schedules_and_the_outbox_are_told_of(database):
    now = utc_now()
    live_worker(scheduler_at=now - timedelta(seconds=30))
    live_worker(lost_at=now)
    schedule = PeriodicTask.objects.create(name="late", task="tests.tasks.noop", schedule="every 1 hour")
    PeriodicTask.objects.filter(pk=schedule.pk).update(next_run_at=now - timedelta(seconds=90))
    Outbox.objects.create(id="1", message="{}", created_at=now - timedelta(seconds=40))
    samples = scrape()
    assert (samples["djtasks_workers",], samples["djtasks_workers_lost",], samples["djtasks_places",]) == (1, 1, 4)
    assert samples["djtasks_scheduler_age_seconds",] == pytest.approx(30, abs=20)
    assert samples["djtasks_schedule_lag_seconds",] == pytest.approx(90, abs=20)
    assert samples["djtasks_outbox_messages",] == 1
    assert samples["djtasks_outbox_oldest_seconds",] == pytest.approx(40, abs=20)


@pytest.mark.every_broker
def test_jobs_that_wait_for_a_limit_are_counted_by_task_and_not_by_key(database):
    broker = get_broker()
    for number in range(4):
        tasks.add.delay(number, 1)
    for customer in (7, 8):
        claimed = broker.claim("default", limit=2, worker="w.1")
        broker.defer(claimed, f"tests.tasks.add[{customer}]", 600.0, ahead=0.0, most=10)
    assert scrape()["djtasks_limit_waiting_jobs", "rate", "tests.tasks.add"] == 2


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_ended_today_is_added_up_over_all_levels(database):
    now = utc_now().replace(hour=5, minute=17, second=0, microsecond=0)
    counted(now.replace(hour=3, minute=0), 3600, counts={"SUCCESS": 100, "FAILURE": 1}, runs={0: 101}, waits={-5: 101})
    counted(now.replace(hour=4, minute=0), 3600, counts={"SUCCESS": 10}, runs={0: 10})
    counted(now.replace(minute=0), 600, counts={"SUCCESS": 7}, runs={5: 7})
    counted(now.replace(minute=10), 60, counts={"SUCCESS": 2}, runs={60: 2})
    counted(now - timedelta(days=1), 3600, counts={"SUCCESS": 5000})
    samples = scrape()
    assert samples["djtasks_jobs_total", "default", "SUCCESS", "tests.tasks.add"] == 119
    assert samples["djtasks_jobs_total", "default", "FAILURE", "tests.tasks.add"] == 1
    assert samples["djtasks_run_seconds_bucket", "2.718", "tests.tasks.add"] == 111
    assert samples["djtasks_run_seconds_bucket", "7.389", "tests.tasks.add"] == 118
    assert samples["djtasks_run_seconds_bucket", "+Inf", "tests.tasks.add"] == 120
    assert samples["djtasks_wait_seconds_bucket", "1", "default"] == 101
    assert samples["djtasks_wait_seconds_bucket", "0.3679", "default"] == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_counter_begins_anew_at_midnight_and_never_shrinks_else(database):
    midnight = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    counted(midnight - timedelta(hours=2), 3600, counts={"SUCCESS": 10})
    counted(midnight - timedelta(minutes=1), 60, counts={"SUCCESS": 5})
    key = ("tests.tasks.add", "default")
    assert totals.today().ended[key].counts == {"SUCCESS": 15}
    counted(midnight, 60, counts={"SUCCESS": 1})
    assert totals.today().ended[key].counts == {"SUCCESS": 1}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_statistics_say_how_old_they_are(database):
    assert scrape()["djtasks_statistics_age_seconds",] == float("inf")
    statistics.count()
    assert scrape()["djtasks_statistics_age_seconds",] < 120


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_names_that_anybody_makes_up_make_no_series_of_their_own(database):
    Job.objects.bulk_create(
        Job(id=new_id(), task=f"no.such{number}", queue=f"customer{number}", state="PENDING") for number in range(150)
    )
    named = {key[1] for key in scrape() if key[0] == "djtasks_queue_ready_jobs"}
    assert len(named) == labels.MOST_QUEUES + 1
    assert labels.OTHER in named
    counted(utc_now().replace(second=0, microsecond=0), 60, counts={"SUCCESS": 1})
    Metric.objects.update(task="no.such.task")
    assert {task for task, _queue in totals.today().ended} <= {labels.UNKNOWN}


def answer(user=None, **headers):
    request = RequestFactory().get("/metrics", headers=headers)
    request.user = user or AnonymousUser()
    return views.metrics(request)


def member(*permissions, **fields):
    user = User.objects.create(username=new_id(), is_staff=True, **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.mark.django_db
def test_without_a_token_only_who_may_view_metrics_sees_them():
    assert answer().status_code == answer(member()).status_code == 401
    assert answer(Authorization="Bearer None").status_code == answer(Authorization="Bearer ").status_code == 401
    assert answer(member("view_metric")).status_code == 200
    assert answer(member("view_metric", is_active=False)).status_code == 401


@pytest.mark.django_db
def test_who_brings_the_token_sees_them(settings):
    settings.DJTASKS = {**settings.DJTASKS, "METRICS_TOKEN": TOKEN}
    response = answer(Authorization=f"Bearer {TOKEN}")
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    assert "djtasks_workers 0.0" in response.content.decode()
    assert answer(Authorization=f"Bearer {TOKEN}x").status_code == answer().status_code == 401


@pytest.mark.django_db
def test_what_is_written_is_not_taken_for_a_read():
    assert views.metrics(RequestFactory().post("/metrics")).status_code == 405


@pytest.mark.django_db
def test_a_database_that_does_not_answer_is_an_answer(settings):
    def hang_up(*_args):
        raise OperationalError("gone")

    settings.DJTASKS = {**settings.DJTASKS, "METRICS_TOKEN": TOKEN}
    with connection.execute_wrapper(hang_up):
        assert answer(Authorization=f"Bearer {TOKEN}").status_code == 503


@pytest.mark.parametrize("token", ["", "short"])
def test_a_token_that_is_none_opens_the_view_to_nobody(db, settings, token):
    settings.DJTASKS = {**settings.DJTASKS, "METRICS_TOKEN": token}
    assert answer(Authorization=f"Bearer {token}").status_code == 401
    assert answer(Authorization="Bearer").status_code == 401
