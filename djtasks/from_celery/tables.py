"""The rows of django-celery-beat, as schedules of djtasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import connections

from djtasks import registry
from djtasks.conf import settings
from djtasks.from_celery.found import Found, cron_field
from djtasks.models import PeriodicTask
from djtasks.models.fields import aware
from djtasks.schedules import clocked, crontab, schedule

TABLE: Final = "django_celery_beat_periodictask"


def read_tables(found: Found) -> None:
    """Note the rows of django-celery-beat, where its tables are."""
    connection = connections[settings.DATABASE]
    with connection.cursor() as cursor:
        if TABLE not in connection.introspection.table_names(cursor):
            return
    crontabs = {row["id"]: row for row in _rows("django_celery_beat_crontabschedule")}
    intervals = {row["id"]: row for row in _rows("django_celery_beat_intervalschedule")}
    moments = {row["id"]: row for row in _rows("django_celery_beat_clockedschedule")}
    for given in _rows(TABLE):
        if given["task"] == "celery.backend_cleanup":
            continue
        try:
            when, zone = _when(given, crontabs, intervals, moments)
            row = _row(given, when, zone, found.turned(given.get("priority")))
            row.clean_fields()
        except (KeyError, ValueError, TypeError, OverflowError, ValidationError) as error:
            found.remarks.append(f"The periodic task {given['name']!r} is left out: {error}")
        else:
            found.rows.append(row)
            found.remarks.extend(_left_behind(given))
    unknown = sorted({row.task for row in found.rows} - set(registry.names()))
    if unknown:
        found.remarks.append(f"Schedules name tasks that are not registered here, or not yet: {', '.join(unknown)}.")


def _left_behind(given: Mapping[str, Any]) -> Iterator[str]:
    names = [name for name in ("description", "exchange", "routing_key") if given.get(name)]
    if names:
        yield f"The periodic task {given['name']!r}: {', '.join(names)} has no place here, and is left behind."


def _rows(table: str) -> Iterator[dict[str, Any]]:
    with connections[settings.DATABASE].cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} ORDER BY id")  # noqa: S608 - one of our own names
        names = [column[0] for column in cursor.description]
        yield from (dict(zip(names, row, strict=True)) for row in cursor.fetchall())


Rows = Mapping[Any, Mapping[str, Any]]


def _when(given: Mapping[str, Any], crontabs: Rows, intervals: Rows, moments: Rows) -> tuple[Any, str]:
    """The schedule of a row, and the name of its zone."""
    if given.get("crontab_id") is not None:
        fields = crontabs[given["crontab_id"]]
        names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        cron = crontab(**{name: cron_field(str(fields[name]).replace(" ", ""), name) for name in names})
        return cron, str(fields.get("timezone") or "")
    if given.get("interval_id") is not None:
        fields = intervals[given["interval_id"]]
        return schedule(timedelta(**{str(fields["period"]): int(fields["every"])})), ""
    if given.get("clocked_id") is not None:
        return clocked(_aware(moments[given["clocked_id"]]["clocked_time"])), ""
    raise ValueError("a solar schedule has no counterpart: choose a crontab.")


def _row(given: Mapping[str, Any], when: Any, zone: str, priority: Any) -> PeriodicTask:
    seconds = given.get("expire_seconds")
    start = given.get("start_time")
    if start is None and given.get("interval_id") is not None:
        start = given.get("last_run_at")  # a week's interval goes on, and does not begin anew
    return PeriodicTask(
        name=given["name"],
        task=given["task"],
        schedule=when,
        timezone=zone,
        args=_json(given.get("args"), []),
        kwargs=_json(given.get("kwargs"), {}),
        headers=_json(given.get("headers"), {}),
        queue=given.get("queue") or "",
        priority=priority,
        expires=None if seconds is None else float(seconds),
        enabled=bool(given["enabled"]),
        one_off=bool(given.get("one_off")),
        end_at=None if given.get("expires") is None else _aware(given["expires"]),
        start_at=None if start is None else _aware(start),
    )


def _json(text: Any, empty: Any) -> str:
    """The column's text, which must be JSON of that kind."""
    value = json.loads(text) if text else empty
    if not isinstance(value, type(empty)):
        raise ValueError(f"{text!r:.100} is no JSON {type(empty).__name__}.")
    return json.dumps(value)


def _aware(given: Any) -> datetime:
    """A time as the driver gives it: SQLite's is a text, and that has the connection's zone."""
    moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    zone = connections[settings.DATABASE].timezone
    return moment.replace(tzinfo=zone) if moment.tzinfo is None and zone is not None else aware(moment)
