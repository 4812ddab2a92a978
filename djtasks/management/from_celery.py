"""What `manage.py djtasks from_celery` says and does."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from django.conf import settings as django_settings

from djtasks.from_celery import Found, app_settings_of, as_source, django_settings_of, found_in, write
from djtasks.management.tables import printable
from djtasks.masking import masked_url
from djtasks.models import PeriodicTask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace", default="CELERY", help="What Celery's settings begin with in Django's. Default: CELERY."
    )
    parser.add_argument("--app", metavar="MODULE:NAME", help="Read the settings of this Celery app instead.")
    parser.add_argument(
        "--write", action="store_true", help="Store the schedules that are shown. Else nothing is changed."
    )


def look(given: Mapping[str, Any]) -> Found:
    """What is there to be taken over. Raises ValueError for an app that there is not."""
    if not given["app"]:
        return found_in(django_settings_of(django_settings, given["namespace"]))
    module, _, name = given["app"].partition(":")
    try:
        app = getattr(import_module(module), name or "app")
        return found_in(app_settings_of(app))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"There is no Celery app {given['app']!r}: {error}") from error


def lines(found: Found, given: Mapping[str, Any]) -> Iterator[str]:
    """What was found, for people; with --write, the rows are stored."""
    yield from _settings(found)
    yield from _rows(found, given["write"])
    if found.needless:
        yield "\n# Not needed any more:"
        yield from (f"#   {name}: {why}" for name, why in found.needless)
    if found.remarks:
        yield "\n# To be looked at:"
        yield from (f"#   {printable(each)}" for each in found.remarks)
    yield "\n# Names in the code: docs/celery.md of djtasks."


def _settings(found: Found) -> Iterator[str]:
    if not found.settings:
        yield "# No setting of Celery's asks for one of DJTASKS."
        return
    shown = dict(found.settings)
    url = str(shown.get("BROKER_URL", ""))
    if url and masked_url(url) != url:
        shown["BROKER_URL"] = masked_url(url)
        yield "# The password of the broker is not shown: keep it as it is."
    yield from as_source(shown)


def _details(row: PeriodicTask) -> Iterator[str]:
    """What of a row is not as usual."""
    texts = ((row.args, "[]", "args"), (row.kwargs, "{}", "kwargs"), (row.headers, "{}", "headers"))
    yield from (f"{name} {text}" for text, usual, name in texts if text != usual)
    values = (
        (row.queue or None, "queue {}"),
        (row.priority, "priority {}"),
        (row.expires, "expires after {:g} s"),
        (row.start_at, "counted from {:%Y-%m-%d %H:%M:%S %Z}"),
        (row.end_at, "until {:%Y-%m-%d %H:%M:%S %Z}"),
        (row.one_off or None, "once"),
        (None if row.enabled else True, "disabled"),
    )
    yield from (form.format(value) for value, form in values if value is not None)


def _rows(found: Found, is_written: bool) -> Iterator[str]:
    if not found.rows:
        yield "\n# No schedules of django-celery-beat were found."
        return
    yield f"\n# {len(found.rows)} schedule(s) of django-celery-beat:"
    for row in found.rows:
        zone = f" ({row.timezone})" if row.timezone else ""
        more = "".join(f", {each}" for each in _details(row))
        yield printable(f"#   {row.name}: {row.task}, {row.schedule}{zone}{more}")
    if is_written:
        stored, taken = write(found)
        left = f"; {taken} have names that are taken, and are left as they are" if taken else ""
        yield f"# {stored} stored{left}. Stop Celery's beat now, or both send their jobs."
    else:
        yield "# Nothing was stored yet: --write does that."
