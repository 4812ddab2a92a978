"""What a project's Celery settings and its tables of django-celery-beat mean in djtasks.

Nothing of Celery is imported; its objects are known by their names and attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from djtasks.conf import settings
from djtasks.from_celery.found import Found
from djtasks.from_celery.project import take_over
from djtasks.from_celery.tables import read_tables
from djtasks.models import PeriodicTask

__all__ = ["Found", "app_settings_of", "as_source", "django_settings_of", "found_in", "write"]


def found_in(given: Mapping[str, Any]) -> Found:
    """What Celery's settings mean, {name: value} with names as in `broker_url`, and the tables of the database."""
    found = Found(inverts=str(given.get("broker_url", "")).startswith(("redis", "rediss", "sentinel", "unix")))
    take_over(found, given)
    read_tables(found)
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
    if any("re.compile(" in line for line in lines):
        head.insert(0, "import re")
    return [*head, *lines]
