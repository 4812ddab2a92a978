"""System checks: what `manage.py check` says of the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.db import connections

from djtasks import code_schedules, conf, rates, registry, routing
from djtasks.brokers import broker_for, get_broker
from djtasks.conf import settings
from djtasks.declare import OPTIONS
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured, ParseException
from djtasks.limits import limits_of
from djtasks.message import checked_queue
from djtasks.schedules import zone_named
from djtasks.task import Task
from djtasks.worker import pools

LEVELS = {1: "READ UNCOMMITTED", 2: "READ COMMITTED", 3: "REPEATABLE READ", 4: "SERIALIZABLE"}  # psycopg's numbers
SETTINGS_PAGE = "The settings are described in docs/settings.md of djtasks."
SCHEDULES_PAGE = "Schedules are described in docs/schedules.md of djtasks."


@checks.register("djtasks")
def check_settings(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """DJTASKS is a dict of known keys with values that fit them, and names a broker and a database that exist."""
    given = getattr(django_settings, "DJTASKS", {})
    try:
        read = conf.Settings(given)
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), hint=SETTINGS_PAGE, id="djtasks.E001")]
    messages: list[checks.CheckMessage] = [
        checks.Error(
            f"DJTASKS has an unknown setting {name!r}.",
            hint=conf.nearest(name).strip() or SETTINGS_PAGE,
            id="djtasks.E002",
        )
        for name in read.unknown
    ]
    problems = [checks.Error(problem, hint=SETTINGS_PAGE, id="djtasks.E007") for problem in read.problems()]
    if problems:
        return [*messages, *problems]
    messages += _check_queue()
    messages += _check_database() or [*_check_isolation(), *_check_broker()]
    return [
        *messages,
        *_check_routes(),
        *_check_mail(),
        *_check_timezone(),
        *_check_pool(),
        *_check_rate(),
        *_check_time_limits(),
    ]


def _check_queue() -> list[checks.CheckMessage]:
    try:
        checked_queue(settings.TASK_DEFAULT_QUEUE)
    except ValueError as error:
        text = f"DJTASKS['TASK_DEFAULT_QUEUE']: {error}"
        return [checks.Error(text, hint=SETTINGS_PAGE, id="djtasks.E007")]
    return []


def _check_database() -> list[checks.CheckMessage]:
    if settings.DATABASE in connections.settings:
        return []
    return [
        checks.Error(
            f"DJTASKS['DATABASE'] is {settings.DATABASE!r}, which DATABASES does not have.",
            hint=f"There are: {', '.join(connections.settings)}.",
            id="djtasks.E003",
        )
    ]


def _check_isolation() -> list[checks.CheckMessage]:
    """What OPTIONS ask for; the server's own default is asked for with `check --database`."""
    options = connections.settings[settings.DATABASE].get("OPTIONS", {})
    vendor = connections[settings.DATABASE].vendor
    if vendor == "postgresql":
        level = LEVELS.get(options.get("isolation_level") or 0) or _level_in(str(options.get("options", "")))
    elif vendor == "mysql":
        level = options.get("isolation_level", "read committed") or "whatever is the server's default"
    else:
        return []
    return _unless_read_committed(level)


def _level_in(options: str) -> str:
    """The level that libpq's options, as `-c default_transaction_isolation=serializable`, ask for; "" if none."""
    found = re.search(r"default_transaction_isolation=([a-z\\ ]+)", options.lower())
    return found[1].replace("\\", "").strip() if found else ""


def _unless_read_committed(level: str) -> list[checks.CheckMessage]:
    if level.strip().upper() in ("", "READ COMMITTED"):
        return []
    return [
        checks.Error(
            f"The database {settings.DATABASE!r} is used with another isolation level than READ COMMITTED: {level}.",
            hint="What one process has committed must be seen by the next statement of another. Set "
            "\"isolation_level\" in its OPTIONS to that, or let DJTASKS['DATABASE'] name an alias that has it.",
            id="djtasks.E011",
        )
    ]


def _check_broker() -> list[checks.CheckMessage]:
    try:
        broker_for(settings.BROKER_URL)
    except ImproperlyConfigured as error:
        hint = "All forms are in docs/brokers.md of djtasks; BROKER_URL = 'database://' needs no server."
        return [checks.Error(str(error), hint=hint, id="djtasks.E004")]
    return []


def _check_routes() -> list[checks.CheckMessage]:
    try:
        routing.check()
    except (ImproperlyConfigured, ImportError) as error:
        return [checks.Error(str(error), hint="See DJTASKS['TASK_ROUTES'].", id="djtasks.E005")]
    return []


def _check_mail() -> list[checks.CheckMessage]:
    if settings.EMAIL_BACKEND != "djtasks.mail.EmailBackend":
        return []
    return [
        checks.Error(
            "DJTASKS['EMAIL_BACKEND'] is djtasks.mail.EmailBackend, so each mail would be queued anew for ever.",
            hint="Django's EMAIL_BACKEND names that one; DJTASKS['EMAIL_BACKEND'] names what delivers, e.g. by SMTP.",
            id="djtasks.E006",
        )
    ]


def _check_pool() -> list[checks.CheckMessage]:
    """What makes no sense on any system; what this one lacks is the worker's to say."""
    try:
        pools.asked(settings.WORKER_POOL, settings.WORKER_CONCURRENCY)
    except ImproperlyConfigured as error:
        text = f"DJTASKS['WORKER_POOL'] and ['WORKER_CONCURRENCY']: {error}"
        return [checks.Error(text, hint="See docs/workers.md of djtasks.", id="djtasks.E007")]
    return []


def _check_timezone() -> list[checks.CheckMessage]:
    try:
        zone_named(settings.TIMEZONE or django_settings.TIME_ZONE)
    except ParseException as error:
        return [checks.Error(f"DJTASKS['TIMEZONE']: {error}", hint=SETTINGS_PAGE, id="djtasks.E009")]
    return []


def _check_rate() -> list[checks.CheckMessage]:
    try:
        rates.checked_rate(settings.TASK_DEFAULT_RATE_LIMIT)
    except ValueError as error:
        hint = "Limits are described in docs/limits.md of djtasks."
        return [checks.Error(f"DJTASKS['TASK_DEFAULT_RATE_LIMIT']: {error}", hint=hint, id="djtasks.E014")]
    return []


def _check_time_limits() -> list[checks.CheckMessage]:
    hard, soft = settings.TASK_TIME_LIMIT, settings.TASK_SOFT_TIME_LIMIT
    if hard is None or soft is None or soft < hard:
        return []
    return [
        checks.Warning(
            f"DJTASKS['TASK_SOFT_TIME_LIMIT'] ({soft:g} s) is not below ['TASK_TIME_LIMIT'] ({hard:g} s).",
            hint="At the hard limit the process is killed, so the soft one is never raised: let it come some seconds "
            "before.",
            id="djtasks.W008",
        )
    ]


@checks.register("djtasks")
def check_schedules(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Schedules that stand in the code can be used, and name tasks that there are."""
    if check_settings():
        return []
    entries = code_schedules.entries()
    errors: list[checks.CheckMessage] = [
        checks.Error(problem.text, hint=problem.hint or SCHEDULES_PAGE, id="djtasks.E010")
        for entry in entries
        for problem in code_schedules.problems(entry)
    ]
    unknown = [
        (entry, entry.given["task"])
        for entry in entries
        if isinstance(entry.given, Mapping)
        and isinstance(entry.given.get("task"), str)
        and registry.find(entry.given["task"]) is None
    ]
    unfit = [warning for entry in entries for warning in _unfit_arguments(entry)]
    return [*errors, *(_unknown_task(entry, task) for entry, task in unknown), *unfit]


def _unfit_arguments(entry: code_schedules.Entry) -> list[checks.CheckMessage]:
    """Each tick of such an entry would be a job that fails."""
    given = entry.given
    if code_schedules.problems(entry) or (task := registry.find(str(given["task"]))) is None:
        return []
    try:
        task.check_arguments(tuple(given.get("args") or ()), given.get("kwargs") or {})
    except TypeError as error:
        return [checks.Warning(f"{entry.where}: {error}", hint="Correct its args and kwargs.", id="djtasks.W007")]
    return []


def _unknown_task(entry: code_schedules.Entry, task: str) -> checks.CheckMessage:
    close = get_close_matches(task, registry.names(), n=1)
    return checks.Warning(
        f"{entry.where} names the task {task!r}, which is not registered here.",
        hint=f"Did you mean {close[0]!r}?" if close else "Is its module in AUTODISCOVER_MODULES or IMPORTS?",
        id="djtasks.W006",
    )


@checks.register("djtasks")
def check_tasks(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Each task's own options make sense together, and with the settings."""
    if not conf.is_readable():
        return []
    return [*_misspelt_options(), *_contrary_limits()]


def _contrary_limits() -> list[checks.CheckMessage]:
    """Each call of such a task would raise ValueError."""
    found: list[checks.CheckMessage] = []
    for task in registry.all_tasks():
        try:
            limits_of({}, task)
        except ValueError as error:
            hint = (
                "Its own limits count, and TASK_TIME_LIMIT where it has no time_limit. See docs/workers.md of djtasks."
            )
            found.append(checks.Warning(f"The task {task.name}: {error}", hint=hint, id="djtasks.W010"))
    return found


def _misspelt_options() -> list[checks.CheckMessage]:
    """What is nearly an option of a task, but none."""
    return [
        checks.Warning(
            f"The task {task.name} has an attribute {name!r}, which is no option of djtasks.",
            hint=f"Did you mean {close[0]!r}?",
            id="djtasks.W002",
        )
        for task in registry.all_tasks()
        for name in vars(type(task))
        if not name.startswith("_") and not hasattr(Task, name)
        if (close := get_close_matches(name, OPTIONS, n=1, cutoff=0.8))
    ]


def is_asked(databases: Any) -> bool:
    """Whether the database of djtasks is among those that checks may ask; of wrong settings others tell."""
    if not conf.is_readable() or settings.problems():
        return False
    return settings.DATABASE in (databases or []) and not _check_database()


@checks.register("djtasks", checks.Tags.database)
def check_sqlite_options(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """SQLite, where several processes write, wants a timeout and transactions that begin with their lock."""
    if not is_asked(databases) or connections[settings.DATABASE].vendor != "sqlite":
        return []
    options = connections.settings[settings.DATABASE].get("OPTIONS", {})
    if options.get("transaction_mode") == "IMMEDIATE" and options.get("timeout", 0) >= 5:
        return []
    return [
        checks.Warning(
            f"The SQLite database {settings.DATABASE!r} is written by web and worker processes at once.",
            hint='Set its "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE", '
            '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}.',
            id="djtasks.W001",
        )
    ]


@checks.register("djtasks", checks.Tags.database)
def check_server_isolation(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """The server, too, may have been given another isolation level."""
    asks = {
        "postgresql": "SELECT current_setting('default_transaction_isolation')",
        "mysql": "SHOW SESSION VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')",
    }
    if not is_asked(databases) or _check_isolation():
        return []
    connection = connections[settings.DATABASE]
    options = connection.settings_dict.get("OPTIONS", {})
    if connection.vendor not in asks or (connection.vendor == "postgresql" and options.get("isolation_level")):
        return []
    with connection.cursor() as cursor:
        cursor.execute(asks[connection.vendor])
        *_, level = cursor.fetchone()
    return _unless_read_committed(level.replace("-", " "))


@checks.register("djtasks", checks.Tags.database)
def check_broker_server(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """The broker's server keeps what it takes: asked only with `check --database`, and at the start of a worker."""
    if not is_asked(databases) or _check_broker():
        return []
    try:
        errors, warnings = get_broker().check()
    except BrokerUnavailable as error:
        return [
            checks.Warning(str(error), hint="Start it, or correct BROKER_URL; see docs/brokers.md.", id="djtasks.W005")
        ]
    hint = "See docs/brokers.md of djtasks."
    return [
        *(checks.Error(error, hint=hint, id="djtasks.E008") for error in errors),
        *(checks.Warning(warning, hint=hint, id="djtasks.W004") for warning in warnings),
    ]
