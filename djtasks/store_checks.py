"""System checks that ask servers: with `check --database`, and of the broker with `check --deploy`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import django
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.brokers import get_broker
from djtasks.checks import check_broker_server, check_settings, is_asked
from djtasks.conf import settings
from djtasks.models import Job

Version = tuple[int, ...]

OLDEST: Final[Mapping[str, tuple[Version, str]]] = MappingProxyType(
    {  # where Django itself takes older ones
        "SQLite": ((3, 35), "RETURNING"),
        "MySQL": ((8, 0, 1), "SKIP LOCKED"),
        "MariaDB": ((10, 6), "SKIP LOCKED"),
    }
)


@checks.register("djtasks", checks.Tags.database)
def check_version(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """The database knows the statements by which jobs are claimed."""
    if not is_asked(databases):
        return []
    product, version = _version_of(connections[settings.DATABASE])
    return too_old(product, version)


def too_old(product: str, version: Version) -> list[checks.CheckMessage]:
    """What is said of a database of that version, such as ("MariaDB", (10, 5, 9))."""
    oldest, feature = OLDEST.get(product, ((), ""))
    if version >= oldest:
        return []
    needed, found = (".".join(map(str, each)) for each in (oldest, version))
    return [
        checks.Error(
            f"The database {settings.DATABASE!r} is {product} {found}; djtasks needs {needed} or newer.",
            hint=f"Workers claim jobs by {feature}, which it does not know. Upgrade it, or let DJTASKS['DATABASE'] "
            "name another one.",
            id="djtasks.E013",
        )
    ]


def _version_of(connection: BaseDatabaseWrapper) -> tuple[str, Version]:
    backend: Any = connection
    if connection.vendor == "sqlite":
        return "SQLite", backend.Database.sqlite_version_info
    if connection.vendor == "mysql":
        return "MariaDB" if backend.mysql_is_mariadb else "MySQL", backend.mysql_version
    return connection.vendor, ()


@checks.register("djtasks", checks.Tags.database)
def check_tables(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Of another database than the default one it is easily forgotten that it has to be migrated, too."""
    if not is_asked(databases):
        return []
    alias = settings.DATABASE
    if alias == DEFAULT_DB_ALIAS:
        return []
    with connections[alias].cursor() as cursor:
        if Job._meta.db_table in connections[alias].introspection.table_names(cursor):
            return []
    return [
        checks.Warning(
            f"The database {alias!r}, which DJTASKS['DATABASE'] names, has no tables of djtasks.",
            hint=f"Run: manage.py migrate djtasks --database={alias}. A router whose allow_migrate() says no keeps "
            "them out.",
            id="djtasks.W009",
        )
    ]


@checks.register("djtasks", deploy=True)
def check_broker_at_deploy(app_configs: Any = None, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """A Redis that may throw jobs away is found out before the site goes live; `check --database` asks, too."""
    # From Django 6.1 on all databases are named where nobody asked for any: better told twice than not at all.
    has_been_asked = django.VERSION < (6, 1) and is_asked(databases)
    if has_been_asked or any(each.level >= checks.ERROR for each in check_settings()):
        return []
    return [] if get_broker().transactional else check_broker_server(databases=[settings.DATABASE])
