"""Uninstalling: what djtasks keeps, what speaks against removing it, and the removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connections, router
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model

from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.models import Outbox, Worker
from djtasks.queues import standing

APP: Final = "djtasks"
AUTH: Final = "django.contrib.auth"


@dataclass(frozen=True, slots=True)
class Stock:
    """What djtasks keeps: rows by table (those that are there), keys in Redis, types and permissions of Django's."""

    database: str  # its name, as the settings say
    tables: Mapping[str, int]
    keys: int | None  # None: the queue is the job table
    content_types: int
    permissions: int


@dataclass(slots=True)
class Obstacles:
    """What speaks against it: names of live workers, jobs that have not ended, migrations of others built on ours."""

    workers: list[str] = field(default_factory=list)
    jobs: int = 0
    migrations: list[str] = field(default_factory=list)


def stock() -> Stock:
    """Count what there is. Raises BrokerUnavailable."""
    types = _content_types()
    return Stock(
        database=database_name(),
        tables={model._meta.db_table: model._default_manager.count() for model in _present()},
        keys=get_broker().count_keys() if _in_redis() else None,
        content_types=len(types),
        permissions=sum(each.permission_set.count() for each in types) if apps.is_installed(AUTH) else 0,
    )


def obstacles() -> Obstacles:
    """What should end first. Raises BrokerUnavailable."""
    found = Obstacles(migrations=_foreign_migrations())
    if _is_whole():
        found.workers = list(Worker.objects.live().order_by("hostname").values_list("hostname", flat=True))
        sizes = [each.size for each in standing()]
        found.jobs = sum(each.ready + each.scheduled + each.running for each in sizes) + Outbox.objects.count()
    return found


def remove(*, keep_tables: bool = False) -> Iterator[str]:
    """Remove it all, in steps, telling each that is done; what is gone already is no error, so that it may be repeated.

    With `keep_tables` these are emptied, and Django's types and permissions stay. Raises BrokerUnavailable.
    """
    # First, so that an error there leaves the tables, and with them the way to try again.
    if _in_redis():
        yield f"{get_broker().erase():,} key(s) in Redis removed"
    if keep_tables:
        _empty()
        yield "The tables are empty"
        return
    types = _content_types()
    call_command("migrate", APP, "zero", database=settings.DATABASE, interactive=False, verbosity=0)
    yield "The tables are dropped, and the notes of their migrations"
    for each in types:
        each.delete()
    yield f"{len(types)} content type(s), and their permissions, removed"


def settings_that_name_us() -> list[str]:
    """Where Django's settings speak of djtasks, for people who take that out."""
    found = [f'INSTALLED_APPS: "{name}"' for name in django_settings.INSTALLED_APPS if _is_ours(name)]
    found += [f"{name}[{key!r}]" for name in ("TASKS", "MAILERS") for key in _named(name)]
    found += ["EMAIL_BACKEND"] if _is_ours(getattr(django_settings, "EMAIL_BACKEND", "")) else []
    found += [f"LOGGING: the logger {name!r}" for name in django_settings.LOGGING.get("loggers", {}) if _is_ours(name)]
    return found + (["DJTASKS"] if hasattr(django_settings, "DJTASKS") else [])


def database_name() -> str:
    """The name of the database that holds our tables; of an SQLite file without its folder."""
    connection = connections[settings.DATABASE]
    name = str(connection.settings_dict["NAME"])
    return Path(name).name if connection.vendor == "sqlite" else name


def _in_redis() -> bool:
    return not get_broker().transactional


def _models() -> list[type[Model]]:
    return list(apps.get_app_config(APP).get_models())


def _present() -> list[type[Model]]:
    """The models whose tables are there."""
    there = set(connections[settings.DATABASE].introspection.table_names())
    return [model for model in _models() if model._meta.db_table in there]


def _is_whole() -> bool:
    return len(_present()) == len(_models())


def _empty() -> None:
    """Remove all rows, in one statement where the database can."""
    connection = connections[settings.DATABASE]
    names = [model._meta.db_table for model in _present()]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), names))


def _content_types() -> list[Any]:
    """Django's own notes of our models, where it keeps such."""
    if not apps.is_installed("django.contrib.contenttypes"):
        return []
    types: Any = apps.get_model("contenttypes", "ContentType")
    alias = router.db_for_write(types)
    if types._meta.db_table not in connections[alias].introspection.table_names():
        return []
    return list(types.objects.using(alias).filter(app_label=APP))


def _foreign_migrations() -> list[str]:
    """Migrations of other apps that would be taken back with ours, and their tables with them."""
    executor = MigrationExecutor(connections[settings.DATABASE])
    return [str(each) for each, _ in executor.migration_plan([(APP, None)]) if each.app_label != APP]


def _named(setting: str) -> list[str]:
    chosen = getattr(django_settings, setting, None) or {}
    return [key for key, value in chosen.items() if _is_ours(value.get("BACKEND", ""))]


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == APP
