"""System checks: what `manage.py check` says of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.db import connections

from djtasks import code_schedules, conf, registry, routing
from djtasks.brokers import broker_for, get_broker
from djtasks.conf import settings
from djtasks.declare import OPTIONS
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured, ParseException
from djtasks.schedules import zone_named
from djtasks.task import Task

SETTINGS_PAGE = "The settings are described in docs/settings.md of djtasks."
SCHEDULES_PAGE = "Schedules are described in docs/schedules.md of djtasks."
RESERVED = frozenset(
    {
        "TASK_DEFAULT_RATE_LIMIT",
        "ERROR_EMAILS",
        "TRACE_ENQUEUE",
    }
)


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
    messages += [
        checks.Warning(f"DJTASKS[{name!r}] does nothing in this version.", hint=SETTINGS_PAGE, id="djtasks.W003")
        for name in sorted(RESERVED & given.keys())
        if given[name] != conf.DEFAULTS[name]
    ]
    return [*messages, *(_check_database() or _check_broker()), *_check_routes(), *_check_mail(), *_check_timezone()]


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


def _check_timezone() -> list[checks.CheckMessage]:
    try:
        zone_named(settings.TIMEZONE or django_settings.TIME_ZONE)
    except ParseException as error:
        return [checks.Error(f"DJTASKS['TIMEZONE']: {error}", hint=SETTINGS_PAGE, id="djtasks.E009")]
    return []


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
    """What is nearly an option of a task, but none, is likely to be a misspelling."""
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


@checks.register("djtasks", checks.Tags.database)
def check_sqlite_options(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """SQLite, where several processes write, wants a timeout and transactions that begin with their lock."""
    if settings.DATABASE not in (databases or []) or connections[settings.DATABASE].vendor != "sqlite":
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
def check_broker_server(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """The broker's server keeps what it takes: asked only with `check --database`, and at the start of a worker."""
    if settings.DATABASE not in (databases or []) or _check_broker():
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
