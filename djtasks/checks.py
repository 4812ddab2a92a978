"""System checks: what `manage.py check` says of the settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.db import connections

from djtasks import conf
from djtasks.brokers import broker_for
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured


@checks.register("djtasks")
def check_settings(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """DJTASKS is a dict of known keys, and names a broker and a database that exist."""
    try:
        unknown = conf.Settings(getattr(django_settings, "DJTASKS", {})).unknown
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), hint="See the page of settings in the README.", id="djtasks.E001")]
    messages: list[checks.CheckMessage] = [
        checks.Error(
            f"DJTASKS has an unknown setting {name!r}.",
            hint=conf.nearest(name).strip() or "See the page of settings in the README.",
            id="djtasks.E002",
        )
        for name in unknown
    ]
    return [*messages, *(_check_database() or _check_broker())]


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
        return [checks.Error(str(error), hint="BROKER_URL = 'database://' needs no server.", id="djtasks.E004")]
    return []


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
