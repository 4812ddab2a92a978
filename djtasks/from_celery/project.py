"""Celery's settings, and what each means in DJTASKS."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta, tzinfo
from typing import Any, Final
from urllib.parse import quote, urlsplit

from djtasks.code_schedules import OPTIONS
from djtasks.conf import EXPECTED
from djtasks.from_celery.found import Found, cron_field
from djtasks.schedules import clocked, crontab, schedule

ANY_MASTER: Final = "mymaster"
SAME: Final = frozenset(
    {
        "timezone", "result_expires", "task_default_queue", "task_default_rate_limit", "task_acks_late",
        "task_ignore_result", "task_track_started", "task_time_limit", "task_soft_time_limit", "task_always_eager",
        "task_eager_propagates", "task_allow_error_cb_on_chord_header", "worker_concurrency",
        "worker_prefetch_multiplier", "worker_max_tasks_per_child", "worker_max_memory_per_child",
    }
)  # fmt: skip
UNLIMITED: Final = {"RESULT_EXPIRES": None, "WORKER_CONCURRENCY": None, "WORKER_MAX_TASKS_PER_CHILD": None}  # by 0
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


def take_over(found: Found, given: Mapping[str, Any]) -> None:
    """Note what the settings mean, {name: value} with names as in `broker_url`."""
    for name in sorted(given):
        _take_one(found, OLD_NAMES.get(name, name), given[name])
    _name_master(found, given)
    if found.inverts and any("priority" in str(each) for each in found.settings.values()):
        found.remarks.append("Priorities are turned round: on Redis Celery's 0 is the most urgent, here 9 is (to 100).")


def _take_one(found: Found, name: str, value: Any) -> None:
    if name in _READERS:
        try:
            _READERS[name](found, value)
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
            found.remarks.append(f"{name} is not as Celery takes it, and is left out: {error}")
    elif name in SAME:
        _take_same(found, name.upper(), _plain(value))
    elif name in NEEDLESS:
        found.needless.append((name, NEEDLESS[name]))
    else:
        found.remarks.append(f"{name} has no counterpart that this command knows.")  # its value may be a secret


def _take_same(found: Found, name: str, value: Any) -> None:
    value = UNLIMITED.get(name, value) if value == 0 and not isinstance(value, bool) else value
    kind, is_right = EXPECTED.get(name, ("", lambda _value: True))
    if is_right(value):
        found.settings[name] = value
    else:
        found.remarks.append(f"{name} must be {kind}, and is left out: {value!r:.100}.")


def _imports(found: Found, value: Any) -> None:
    """`imports` and `include`, which Celery adds up."""
    if value:
        given = [value] if isinstance(value, str) else value
        found.settings["IMPORTS"] = list(dict.fromkeys([*found.settings.get("IMPORTS", []), *given]))


def _plain(value: Any) -> Any:
    if isinstance(value, tzinfo):
        return str(value)
    return list(value) if isinstance(value, (tuple, set, frozenset)) else value


def _broker_url(found: Found, value: Any) -> None:
    url = str(value)
    if url.startswith(("redis://", "rediss://", "unix://")):
        found.settings["BROKER_URL"] = url
    elif url.startswith("redis+socket://"):
        found.settings["BROKER_URL"] = url.replace("redis+socket://", "unix://", 1)
    elif url.startswith("sentinel://"):
        found.settings["BROKER_URL"] = _by_sentinels(url)
    else:
        scheme = url.partition(":")[0]
        found.remarks.append(
            f"broker_url is {scheme}://, which djtasks does not serve: its queues are in the site's database, or in "
            "Redis if BROKER_URL names one."
        )


def _by_sentinels(url: str) -> str:
    """One URL of ours for Celery's `sentinel://…;sentinel://…`, the name of the master left open."""
    parts = [urlsplit(each if "://" in each else f"sentinel://{each}") for each in url.split(";") if each.strip()]
    hosts = ",".join(each.netloc.rpartition("@")[2] for each in parts)
    login = next((f"{each.netloc.rpartition('@')[0]}@" for each in parts if "@" in each.netloc), "")
    database = next((each.path.strip("/") for each in parts if each.path.strip("/")), "0")
    return f"redis+sentinel://{login}{hosts}/{database}?service={ANY_MASTER}"


def _name_master(found: Found, given: Mapping[str, Any]) -> None:
    """What Celery keeps of its sentinels beside the URL."""
    url = str(found.settings.get("BROKER_URL", ""))
    if not url.endswith(f"?service={ANY_MASTER}"):
        return
    options = given.get("broker_transport_options")
    name = options.get("master_name") if isinstance(options, Mapping) else None
    if name:
        found.settings["BROKER_URL"] = url.removesuffix(ANY_MASTER) + quote(str(name))
    else:
        found.remarks.append("BROKER_URL: set `service` to the name of the master; broker_transport_options has none.")
    if isinstance(options, Mapping) and options.get("sentinel_kwargs"):
        found.remarks.append("sentinel_kwargs: a login of the sentinels' own goes into the URL (docs/brokers.md).")


def _annotations(found: Found, value: Any) -> None:
    if not isinstance(value, Mapping):
        found.remarks.append("task_annotations: options belong to the task, or to a class that is given as base.")
        return
    for name, options in value.items():
        names = ", ".join(map(str, options)) if isinstance(options, Mapping) else "its options"
        target = "a class that tasks have as `base`" if name == "*" else "that task's @shared_task(…)"
        found.remarks.append(f"task_annotations[{str(name)!r}]: give {names} to {target}.")


def _pool(found: Found, value: Any) -> None:
    if value in ("prefork", "threads", "gevent", "solo"):
        found.settings["WORKER_POOL"] = value
    else:
        found.remarks.append(f"worker_pool = {value!r}: the pools are prefork, threads, asyncio, gevent and solo.")


def _priority(found: Found, value: Any) -> None:
    if value is not None:
        found.settings["TASK_DEFAULT_PRIORITY"] = found.turned(value)


def _routes(found: Found, value: Any) -> None:
    routes: dict[str, Any] = {}
    for given in value if isinstance(value, (list, tuple)) else [value]:
        each = dict(given) if _are_pairs(given) else given
        if isinstance(each, Mapping):
            read = {_pattern(name): _route(found, str(name), one) for name, one in each.items()}
            routes |= {name: route for name, route in read.items() if route}
        else:
            found.remarks.append(f"The router {each!r} goes into TASK_ROUTES as it is: it is called in the same way.")
    if routes:
        found.settings["TASK_ROUTES"] = routes


def _pattern(name: Any) -> Any:
    return name if isinstance(name, re.Pattern) else str(name)


def _are_pairs(given: Any) -> bool:
    """Whether routes are given as Celery takes them where their order counts: [(name, route), …]."""
    return isinstance(given, (list, tuple)) and all(
        isinstance(each, (list, tuple)) and len(each) == 2 for each in given
    )


def _route(found: Found, name: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        return {"queue": given}
    others = given.keys() - {"queue", "priority"}
    if others:
        found.remarks.append(
            f"task_routes[{str(name)!r}]: {', '.join(sorted(others))} means nothing without exchanges."
        )
    route = {key: given[key] for key in ("queue", "priority") if key in given}
    if "priority" in route:
        route["priority"] = found.turned(route["priority"])
    return route


def _beat_schedule(found: Found, value: Any) -> None:
    entries = {}
    for name, entry in dict(value or {}).items():
        try:
            entries[name] = {**_entry(found, name, entry), "schedule": schedule_of(entry["schedule"])}
        except (KeyError, ValueError, TypeError) as error:
            found.remarks.append(f"beat_schedule[{name!r}] is left out: {error}")
    if entries:
        found.settings["BEAT_SCHEDULE"] = entries


def _entry(found: Found, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    entry = {key: given[key] for key in ("task", "args", "kwargs") if key in given}
    options = dict(given.get("options") or {})
    lost = [key for key in options if key not in OPTIONS]
    if given.get("relative"):
        lost.append("relative")
    if lost:
        found.remarks.append(f"beat_schedule[{name!r}]: {', '.join(sorted(lost))} means nothing here.")
    if "priority" in options:
        options["priority"] = found.turned(options["priority"])
    kept = {key: value for key, value in options.items() if key not in lost}
    return {**entry, "options": kept} if kept else entry


def schedule_of(given: Any) -> Any:
    """A schedule of Celery's as one of ours. Raises ValueError for one that has no counterpart."""
    kind = type(given).__name__
    if isinstance(given, (int, float, timedelta, crontab, schedule)):
        return given
    if kind == "crontab":
        names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        return crontab(**{name: cron_field(getattr(given, f"_orig_{name}", None), name) for name in names})
    if kind == "schedule" and hasattr(given, "run_every"):
        return schedule(given.run_every)
    if kind == "clocked" and hasattr(given, "clocked_time"):
        return clocked(given.clocked_time)
    raise ValueError(f"{kind} has no counterpart: choose a crontab, an interval, or a time.")


_READERS: Final[Mapping[str, Callable[[Found, Any], None]]] = {
    "broker_url": _broker_url,
    "imports": _imports,
    "beat_schedule": _beat_schedule,
    "task_routes": _routes,
    "task_default_priority": _priority,
    "task_annotations": _annotations,
    "worker_pool": _pool,
}
