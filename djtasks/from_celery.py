"""What a project's Celery settings and its tables of django-celery-beat mean in djtasks.

Nothing of Celery is imported; its objects are known by their names and attributes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import connections, transaction

from djtasks.code_schedules import OPTIONS
from djtasks.conf import settings
from djtasks.models import PeriodicTask
from djtasks.models.fields import aware
from djtasks.schedules import clocked, crontab, schedule

MOST_URGENT: Final = 9  # of Celery's priorities; on Redis it is 0
TABLE: Final = "django_celery_beat_periodictask"
SAME: Final = frozenset(
    {
        "timezone", "result_expires", "task_default_queue", "task_default_rate_limit", "task_acks_late",
        "task_ignore_result", "task_track_started", "task_time_limit", "task_soft_time_limit", "task_always_eager",
        "task_eager_propagates", "task_allow_error_cb_on_chord_header", "worker_concurrency",
        "worker_prefetch_multiplier", "worker_max_tasks_per_child", "worker_max_memory_per_child",
    }
)  # fmt: skip
OLD_NAMES: Final = {  # as Celery before 4 had them, within the namespace CELERY
    "always_eager": "task_always_eager", "ignore_result": "task_ignore_result", "acks_late": "task_acks_late",
    "default_queue": "task_default_queue", "routes": "task_routes", "include": "imports",
    "task_result_expires": "result_expires", "celerybeat_schedule": "beat_schedule",
    "celeryd_concurrency": "worker_concurrency", "celeryd_max_tasks_per_child": "worker_max_tasks_per_child",
    "celeryd_prefetch_multiplier": "worker_prefetch_multiplier", "eager_propagates_exceptions": "task_eager_propagates",
}  # fmt: skip
NEEDLESS: Final = {
    "result_backend": "results are rows of djtasks, in the database",
    "cache_backend": "results are rows of djtasks, in the database",
    "result_extended": "rows always have task, arguments and worker",
    "accept_content": "messages are JSON, and never pickle",
    "task_serializer": "messages are JSON; dates, decimals, UUIDs, bytes, sets and model instances travel too",
    "result_serializer": "results are JSON, as messages are",
    "event_serializer": "there are no events: the admin reads the rows",
    "worker_send_task_events": "there are no events: the admin reads the rows",
    "task_send_sent_event": "there are no events: the admin reads the rows",
    "broker_transport_options": "there is no visibility timeout: a dead worker is known by its heartbeat",
    "broker_connection_retry": "a worker always waits for its broker",
    "broker_connection_retry_on_startup": "a worker always waits for its broker",
    "broker_connection_max_retries": "a worker always waits for its broker",
    "broker_heartbeat": "WORKER_HEARTBEAT and WORKER_LOST_AFTER take its place",
    "broker_pool_limit": "a process holds one connection to the broker a thread",
    "beat_scheduler": "schedules are rows of djtasks; every worker has beat on board",
    "beat_schedule_filename": "schedules are rows of djtasks",
    "beat_max_loop_interval": "a change of a schedule takes effect within two seconds",
    "beat_sync_every": "each tick is stored as it is sent",
    "enable_utc": "times are stored in UTC",
    "task_queues": "a queue is there as soon as a job is sent to it",
    "task_create_missing_queues": "a queue is there as soon as a job is sent to it",
    "task_default_exchange": "there are queues, and no exchanges",
    "task_default_exchange_type": "there are queues, and no exchanges",
    "task_default_routing_key": "there are queues, and no exchanges",
    "task_reject_on_worker_lost": "a lost job always goes back, until TASK_MAX_LOSSES",
    "task_acks_on_failure_or_timeout": "a job is acknowledged with its outcome, whatever that is",
    "task_queue_max_priority": "every queue has priorities from -100 to 100",
    "worker_hijack_root_logger": "the worker leaves the site's logging as it is",
    "worker_redirect_stdouts": "what tasks print is seen",
    "worker_cancel_long_running_tasks_on_connection_loss": "a job goes on; its outcome is stored later",
    "result_chord_join_timeout": "a chord counts down with its results, and polls nothing",
    "task_store_errors_even_if_ignored": "a failure always leaves a row",
    "task_store_eager_result": "what runs eagerly is not stored",
    "task_publish_retry": "a call in a transaction waits in the outbox if Redis is away",
    "task_publish_retry_policy": "a call in a transaction waits in the outbox if Redis is away",
    "redis_max_connections": "a process holds one connection to the broker a thread",
    "redis_backend_use_ssl": "results are rows of djtasks, in the database",
    "broker_use_ssl": "rediss:// in BROKER_URL says so",
}


@dataclass(slots=True)
class Found:
    """What a Celery project means: `settings` for DJTASKS, `rows` for its schedules, and remarks for people."""

    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[PeriodicTask] = field(default_factory=list)
    needless: list[tuple[str, str]] = field(default_factory=list)  # setting, why it may go
    remarks: list[str] = field(default_factory=list)  # what needs a look


def found_in(given: Mapping[str, Any]) -> Found:
    """What Celery's settings mean, {name: value} with names as in `broker_url`, and the tables of the database."""
    found = Found()
    inverts = str(given.get("broker_url", "")).startswith(("redis", "rediss", "sentinel", "unix"))
    for name in sorted(given):
        _take_over(found, OLD_NAMES.get(name, name), given[name], inverts)
    if inverts and any("priority" in str(each) for each in found.settings.values()):
        found.remarks.append("Priorities are turned round: on Redis Celery's 0 is the most urgent, here 9 is (to 100).")
    _read_tables(found, inverts)
    return found


def write(found: Found) -> tuple[int, int]:
    """Store the rows whose names are not taken. Returns how many were stored, and how many were there before."""
    with transaction.atomic(using=settings.DATABASE):
        names = [row.name for row in found.rows]
        taken = set(PeriodicTask.objects.filter(name__in=names).values_list("name", flat=True))
        new = [row for row in found.rows if row.name not in taken]
        for row in new:
            row.save()
    return len(new), len(taken)


def django_settings_of(source: Any, namespace: str) -> dict[str, Any]:
    """The settings of `source` that begin with the namespace, as Celery names them; of `CELERY_X` that is `x`."""
    prefix = f"{namespace}_"
    return {name.removeprefix(prefix).lower(): getattr(source, name) for name in dir(source) if name.startswith(prefix)}


def app_settings_of(app: Any) -> dict[str, Any]:
    """What was set of a Celery app's settings: neither Celery's defaults nor what else stood where it read them."""
    maps = getattr(app.conf, "maps", ())
    usual = dict(maps[-1]) if maps else {}
    given = {name: value for name, value in dict(app.conf.changes).items() if name == name.lower()}
    return {name: value for name, value in given.items() if name not in usual or usual[name] != value}


# Settings


def _take_over(found: Found, name: str, value: Any, inverts: bool) -> None:
    if name in _READERS:
        _READERS[name](found, value, inverts)
    elif name in SAME:
        found.settings[name.upper()] = _plain(value)
    elif name in NEEDLESS:
        found.needless.append((name, NEEDLESS[name]))
    else:
        found.remarks.append(f"{name} has no counterpart that this command knows.")  # its value may be a secret


def _imports(found: Found, value: Any, _inverts: bool) -> None:
    """`imports` and `include`, which Celery adds up."""
    if value:
        given = [value] if isinstance(value, str) else value
        found.settings["IMPORTS"] = list(dict.fromkeys([*found.settings.get("IMPORTS", []), *given]))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, set, frozenset)) else value


def _broker_url(found: Found, value: Any, _inverts: bool) -> None:
    url = str(value)
    if url.startswith(("redis://", "rediss://", "unix://")):
        found.settings["BROKER_URL"] = url
    elif url.startswith("redis+socket://"):
        found.settings["BROKER_URL"] = url.replace("redis+socket://", "unix://", 1)
    elif url.startswith("sentinel://"):
        hosts = ",".join(each.removeprefix("sentinel://").rstrip("/") for each in url.split(";"))
        found.settings["BROKER_URL"] = f"redis+sentinel://{hosts}/0?service=mymaster"
        found.remarks.append("BROKER_URL: set `service` to the name of the master (broker_transport_options has it).")
    else:
        scheme = url.partition(":")[0]
        found.remarks.append(
            f"broker_url is {scheme}://, which djtasks does not serve: its queues are in the site's database, or in "
            "Redis if BROKER_URL names one."
        )


def _pool(found: Found, value: Any, _inverts: bool) -> None:
    if value in ("prefork", "threads", "gevent", "solo"):
        found.settings["WORKER_POOL"] = value
    else:
        found.remarks.append(f"worker_pool = {value!r}: the pools are prefork, threads, asyncio, gevent and solo.")


def _priority(found: Found, value: Any, inverts: bool) -> None:
    if value is not None:
        found.settings["TASK_DEFAULT_PRIORITY"] = _turned(value, inverts)


def _turned(priority: Any, inverts: bool) -> Any:
    return MOST_URGENT - priority if inverts and isinstance(priority, int) else priority


def _routes(found: Found, value: Any, inverts: bool) -> None:
    routes: dict[str, Any] = {}
    for given in value if isinstance(value, (list, tuple)) else [value]:
        each = dict(given) if _are_pairs(given) else given
        if isinstance(each, Mapping):
            routes |= {str(name): _route(found, str(name), one, inverts) for name, one in each.items()}
        else:
            found.remarks.append(f"The router {each!r} goes into TASK_ROUTES as it is: it is called in the same way.")
    if routes:
        found.settings["TASK_ROUTES"] = routes


def _are_pairs(given: Any) -> bool:
    """Whether routes are given as Celery takes them where their order counts: [(name, route), …]."""
    return isinstance(given, (list, tuple)) and all(
        isinstance(each, (list, tuple)) and len(each) == 2 for each in given
    )


def _route(found: Found, name: str, given: Any, inverts: bool) -> Any:
    if not isinstance(given, Mapping):
        return {"queue": given}
    others = given.keys() - {"queue", "priority"}
    if others:
        found.remarks.append(
            f"task_routes[{str(name)!r}]: {', '.join(sorted(others))} means nothing without exchanges."
        )
    route = {key: given[key] for key in ("queue", "priority") if key in given}
    if "priority" in route:
        route["priority"] = _turned(route["priority"], inverts)
    return route


def _beat_schedule(found: Found, value: Any, inverts: bool) -> None:
    entries = {}
    for name, entry in dict(value or {}).items():
        try:
            entries[name] = {**_entry(found, name, entry, inverts), "schedule": schedule_of(entry["schedule"])}
        except (KeyError, ValueError, TypeError) as error:
            found.remarks.append(f"beat_schedule[{name!r}] is left out: {error}")
    if entries:
        found.settings["BEAT_SCHEDULE"] = entries


def _entry(found: Found, name: str, given: Mapping[str, Any], inverts: bool) -> dict[str, Any]:
    entry = {key: given[key] for key in ("task", "args", "kwargs") if key in given}
    options = dict(given.get("options") or {})
    lost = [key for key in options if key not in OPTIONS]
    if given.get("relative"):
        lost.append("relative")
    if lost:
        found.remarks.append(f"beat_schedule[{name!r}]: {', '.join(sorted(lost))} means nothing here.")
    if "priority" in options:
        options["priority"] = _turned(options["priority"], inverts)
    kept = {key: value for key, value in options.items() if key not in lost}
    return {**entry, "options": kept} if kept else entry


def schedule_of(given: Any) -> Any:
    """A schedule of Celery's as one of ours. Raises ValueError for one that has no counterpart."""
    kind = type(given).__name__
    if isinstance(given, (int, float, timedelta, crontab, schedule)):
        return given
    if kind == "crontab":
        names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        return crontab(**{name: _cron_field(getattr(given, f"_orig_{name}", None), name) for name in names})
    if kind == "schedule" and hasattr(given, "run_every"):
        return schedule(given.run_every)
    if kind == "clocked" and hasattr(given, "clocked_time"):
        return clocked(given.clocked_time)
    raise ValueError(f"{kind} has no counterpart: choose a crontab, an interval, or a time.")


def _cron_field(given: Any, name: str) -> Any:
    """As Celery has it: its Sunday may be 7 in a text."""
    if given is None:
        return "*"
    text = given if isinstance(given, (str, int)) else list(given)
    return "0" if name == "day_of_week" and str(text) == "7" else text


_READERS: Final[Mapping[str, Callable[[Found, Any, bool], None]]] = {
    "broker_url": _broker_url,
    "imports": _imports,
    "beat_schedule": _beat_schedule,
    "task_routes": _routes,
    "task_default_priority": _priority,
    "worker_pool": _pool,
}


# The tables of django-celery-beat


def _read_tables(found: Found, inverts: bool) -> None:
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
            row = _row(given, when, zone, inverts)
            row.clean_fields()
        except (KeyError, ValueError, TypeError, ValidationError) as error:
            found.remarks.append(f"The periodic task {given['name']!r} is left out: {error}")
        else:
            found.rows.append(row)


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
        cron = crontab(**{name: _cron_field(str(fields[name]).replace(" ", ""), name) for name in names})
        return cron, str(fields.get("timezone") or "")
    if given.get("interval_id") is not None:
        fields = intervals[given["interval_id"]]
        return schedule(timedelta(**{str(fields["period"]): int(fields["every"])})), ""
    if given.get("clocked_id") is not None:
        return clocked(_aware(moments[given["clocked_id"]]["clocked_time"])), ""
    raise ValueError("a solar schedule has no counterpart: choose a crontab.")


def _row(given: Mapping[str, Any], when: Any, zone: str, inverts: bool) -> PeriodicTask:
    seconds = given.get("expire_seconds")
    return PeriodicTask(
        name=given["name"],
        task=given["task"],
        schedule=when,
        timezone=zone,
        args=_json(given.get("args"), []),
        kwargs=_json(given.get("kwargs"), {}),
        headers=_json(given.get("headers"), {}),
        queue=given.get("queue") or "",
        priority=_turned(given.get("priority"), inverts),
        expires=None if seconds is None else float(seconds),
        enabled=bool(given["enabled"]),
        one_off=bool(given.get("one_off")),
        end_at=None if given.get("expires") is None else _aware(given["expires"]),
        start_at=None if given.get("start_time") is None else _aware(given["start_time"]),
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


def as_source(values: Mapping[str, Any]) -> Sequence[str]:
    """Lines of Python that set DJTASKS to these values, with the import that they need."""
    lines = ["DJTASKS = {"]
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"    {name!r}: {{", *(f"        {key!r}: {each!r}," for key, each in value.items()), "    },"]
        else:
            lines.append(f"    {name!r}: {value!r},")
    lines.append("}")
    names = [each for each in ("crontab", "schedule", "clocked") if any(f"{each}(" in line for line in lines)]
    head = [f"from djtasks.schedules import {', '.join(names)}", ""] if names else []
    if any("datetime." in line for line in lines):
        head.insert(0, "import datetime")
    return [*head, *lines]
