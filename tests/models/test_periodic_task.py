"""Rows of schedules: what a change does to the next run, whichever way it is made; and what is refused."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from django.db import connections

from djtasks import encoding
from djtasks.models import PeriodicTask, statements
from djtasks.schedules import crontab, schedule

PAST = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def now(database):
    return lambda: statements.now(connections[database])


def make(name="nightly", **values):
    return PeriodicTask.objects.create(**{"name": name, "task": "a.task", "schedule": "every hour", **values})


def read(name="nightly"):
    return PeriodicTask.objects.get(name=name)


def force(**values):
    """Write past the model, as beat does."""
    PeriodicTask.objects.update(**values, **({} if "next_run_at" in values else {"next_run_at": PAST}))


# When the next run is set


def test_a_new_row_runs_at_its_first_tick_from_now(now):
    before = now()
    make()
    assert before + HOUR <= read().next_run_at <= now() + HOUR


@pytest.mark.parametrize(
    "given", [crontab(30, 9), schedule(90), 90, 1.5, timedelta(minutes=2), datetime(2040, 1, 1, tzinfo=UTC), "@daily"]
)
def test_a_schedule_may_be_given_as_a_value_and_stands_as_text(database, given):
    row = make(schedule=given)
    assert isinstance(row.schedule, str)
    assert read().schedule == row.schedule
    assert read().next_run_at is not None


def test_what_is_no_schedule_is_refused_at_once(database):
    with pytest.raises(TypeError, match="A schedule is a crontab"):
        make(schedule=object())
    assert not PeriodicTask.objects.exists()


def test_a_text_that_cannot_be_read_is_stored_with_the_problem(database):
    make(schedule="99 * * * *")
    row = read()
    assert (row.next_run_at, row.status) == (None, "broken")
    assert row.problem.startswith("schedule: ")
    assert list(PeriodicTask.objects.broken()) == [row]


@pytest.mark.parametrize(
    "values",
    [
        {"timezone": "Nowhere/Land"}, {"args": "{}"}, {"args": "nonsense"}, {"kwargs": "[1]"}, {"headers": "1"},
        {"priority": 101}, {"queue": "a\nb"}, {"jitter": -1}, {"expires": 0}, {"max_runs": 0}, {"catch_up": "never"},
        {"kwargs": '{"a": {"$": "nonsense", "v": 1}}'}, {"misfire_grace": -0.5},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_wrong_is_said_of_its_field(database, values):
    (field,) = values
    with pytest.raises(ValidationError) as refused:
        PeriodicTask(name="n", task="t", schedule="every hour", **values).full_clean()
    assert list(refused.value.message_dict) == [field]
    make(**values)
    assert read().problem.startswith(f"{field}: ")
    assert read().next_run_at is None


def test_fields_that_a_form_leaves_out_are_not_complained_about(database):
    PeriodicTask(name="n", task="t", schedule="nonsense", kwargs="[1]").full_clean(exclude={"schedule", "kwargs"})


def test_full_clean_takes_schedules_as_values(database):
    row = PeriodicTask(name="n", task="t", schedule=crontab(30, 9))
    row.full_clean()
    assert row.schedule == "30 9 * * *"


def test_the_zone_of_a_row_without_one_is_that_of_the_settings(database, settings):
    settings.TIME_ZONE = "Asia/Seoul"
    assert make().zone == ZoneInfo("Asia/Seoul")
    settings.DJTASKS = {**settings.DJTASKS, "TIMEZONE": "America/New_York"}
    assert read().zone == ZoneInfo("America/New_York")
    assert make("other", timezone="Europe/Berlin").zone == ZoneInfo("Europe/Berlin")


# What an edit does


@pytest.mark.parametrize(
    "values",
    [{"schedule": "every 2 hours"}, {"timezone": "Asia/Seoul"}, {"start_at": datetime(2041, 1, 1, tzinfo=UTC)}],
)
def test_a_change_of_the_timing_sets_the_next_run_anew(now, values):
    row = make()
    force()
    row = read()
    for name, value in values.items():
        setattr(row, name, value)
    row.save()
    assert read().next_run_at > now()
    assert read().changed_at > now() - timedelta(minutes=1)


def test_a_change_of_anything_else_leaves_the_next_run_alone(database):
    make()
    force()
    row = read()
    row.args = "[1]"
    row.save()
    assert (read().args, read().next_run_at) == ("[1]", PAST)


def test_what_was_missed_while_a_row_was_disabled_is_not_made_up_for(now):
    row = make()
    force()
    row = read()
    row.enabled = False
    row.save()
    assert (read().next_run_at, read().status) == (None, "disabled")
    row.enabled = True
    row.save()
    assert read().next_run_at > now() + HOUR / 2


def test_an_update_by_queryset_counts_like_an_edit(now):
    make()
    make("other", schedule="@daily")
    PeriodicTask.objects.filter(name="nightly").update(enabled=False)
    assert (read().next_run_at, read("other").status) == (None, "live")
    PeriodicTask.objects.filter(enabled=False).update(enabled=True, schedule=schedule(7200))
    assert now() + HOUR < read().next_run_at <= now() + 2 * HOUR
    force()
    before = read().changed_at
    PeriodicTask.objects.update(args="[2]")
    assert (read().next_run_at, read().args) == (PAST, "[2]")
    assert read().changed_at > before


def test_rows_that_are_made_in_bulk_have_their_next_run(now):
    PeriodicTask.objects.bulk_create(
        [PeriodicTask(name=f"{number}", task="t", schedule=crontab()) for number in range(3)]
    )
    assert PeriodicTask.objects.live().filter(next_run_at__gt=now() - HOUR).count() == 3


def test_bulk_update_counts_like_an_edit(now):
    row = make()
    force()
    row.schedule = "every 3 hours"
    PeriodicTask.objects.bulk_update([row], ["schedule"])
    assert read().next_run_at > now() + 2 * HOUR


def test_a_save_does_not_undo_what_beat_has_written_meanwhile(database):
    stale = make()
    later = datetime(2050, 1, 1, tzinfo=UTC)
    force(next_run_at=later, last_run_at=PAST, last_job="j", total_run_count=7)
    stale.queue = "mail"
    stale.save()
    row = read()
    assert (row.queue, row.next_run_at, row.last_job, row.total_run_count) == ("mail", later, "j", 7)


def test_a_save_of_some_fields_leaves_the_others_to_the_next_save(database):
    row = make()
    row.queue, row.priority = "mail", 5
    row.save(update_fields=["queue"])
    assert (read().queue, read().priority) == ("mail", None)
    row.save()
    assert read().priority == 5


def test_a_save_of_the_schedule_alone_sets_the_next_run_too(now):
    row = make()
    row.schedule = "every 5 hours"
    row.save(update_fields=["schedule"])
    assert read().next_run_at > now() + 4 * HOUR


def test_any_edit_of_a_broken_row_gives_it_another_chance(now):
    row = make(args="nonsense")
    row.args = "[1]"
    row.save()
    assert read().problem is None
    assert read().next_run_at > now()
    force(problem="router: no", next_run_at=None)
    PeriodicTask.objects.update(queue="other")
    assert (read().problem, read().status) == (None, "live")


def test_a_row_that_was_deleted_meanwhile_is_saved_as_a_new_one(now):
    row = make()
    PeriodicTask.objects.all().delete()
    row.queue = "mail"
    row.save()
    assert read().queue == "mail"


def test_only_some_fields_may_be_loaded_and_saved(now):
    make()
    row = PeriodicTask.objects.only("name", "queue").get()
    row.queue = "mail"
    row.save()
    row.enabled = False
    row.save()
    assert (read().queue, read().next_run_at) == ("mail", None)


# When a row has no next run


@pytest.mark.parametrize(
    "values",
    [
        {"enabled": False},
        {"gone": True, "source": "task"},
        {"max_runs": 2, "total_run_count": 2},
        {"end_at": PAST},
        {"schedule": "at 2020-01-01T00:00:00+00:00"},
    ],
    ids=str,
)
def test_what_will_not_run_is_neither_live_nor_due(database, values):
    row = make(**values)
    assert row.next_run_at is None
    assert row.upcoming() == []
    assert not PeriodicTask.objects.live().exists()
    assert not PeriodicTask.objects.due(datetime(2100, 1, 1, tzinfo=UTC)).exists()
    assert row.status in ("disabled", "gone", "ended")


def test_more_runs_are_allowed_by_raising_the_limit(now):
    row = make(max_runs=2, total_run_count=2)
    assert row.status == "ended"
    row.max_runs = 3
    row.save()
    assert read().status == "live"
    assert len(read().upcoming()) == 1


def test_what_is_due_comes_with_the_oldest_first(database):
    for name, minutes in (("b", 20), ("a", 10), ("later", -10)):
        make(name)
        PeriodicTask.objects.filter(name=name).update(next_run_at=PAST - timedelta(minutes=minutes))
    assert [row.name for row in PeriodicTask.objects.due(PAST)] == ["b", "a"]


def test_the_runs_to_come_are_shown_in_the_zone_of_the_row(database):
    row = make(schedule="30 9 * * *", timezone="America/New_York")
    runs = row.upcoming(3)
    assert [run.strftime("%H:%M") for run in runs] == ["09:30"] * 3
    assert runs[0] == row.next_run_at


def test_arguments_are_typed_json(database):
    args, kwargs = encoding.encode_arguments((Decimal("1.5"), PAST), {"text": "größe"})
    row = make(args=args, kwargs=kwargs)
    assert row.problem is None
    assert read().arguments() == ([Decimal("1.5"), PAST], {"text": "größe"})


def test_what_was_written_past_the_model_is_found(now):
    make()
    make("done", schedule="at 2020-01-01T00:00:00+00:00")
    PeriodicTask.objects.filter(name="nightly").update(next_run_at=None)
    assert {row.name for row in PeriodicTask.objects.unreckoned()} == {"nightly", "done"}
    assert PeriodicTask.objects.unreckoned().reckon(now()) == 1
    assert (read().status, read("done").status) == ("live", "ended")
