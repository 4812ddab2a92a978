"""What `manage.py djtasks destroy` says and does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.core.management.base import CommandError

from djtasks.management.tables import printable
from djtasks.removal import Obstacles, Stock, database_name, obstacles, remove, settings_that_name_us, stock

SHOWN: Final = 5  # names of workers

DESCRIPTION: Final = """
Removes all that djtasks keeps, for good: the keys under its prefix in Redis; its tables, with all jobs, results and
schedules; Django's content types and permissions of its models. Your own tables are not touched.

Before: stop the site, `djtasks drain`, stop the workers. It refuses while workers live (--with-workers: they are known
to be gone) or jobs have not ended (--with-jobs: they are to be lost), and if migrations of other apps build on its own.
It says what it will remove and asks for the name of the database. --dry-run only says it, --no-input does not ask.
Afterwards it names the settings to take out. Should it fail half-way, call it again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Only say what would be removed.")
    parser.add_argument("--no-input", "--noinput", action="store_true", help="Do not ask.")
    parser.add_argument("--with-jobs", action="store_true", help="Although jobs have not ended. They are lost.")
    parser.add_argument("--with-workers", action="store_true", help="Although workers seem to live. They will fail.")
    parser.add_argument("--keep-tables", action="store_true", help="Empty the tables, do not drop them: a fresh start.")


def run(given: Mapping[str, Any]) -> Iterator[str]:
    """Remove it all, once it is allowed to and somebody has said so; lines for people, as it goes on."""
    yield from _contents(stock(), keep_tables=given["keep_tables"])
    reasons = _reasons(obstacles(), given)
    if given["dry_run"]:
        yield from reasons
        yield "Nothing was removed."
        return
    if reasons:
        raise CommandError("\n".join([*reasons, "Nothing was removed."]))
    if not given["no_input"]:
        _confirm(database_name())
    for step in remove(keep_tables=given["keep_tables"]):
        yield f"{step}."
    if not given["keep_tables"]:
        yield from _farewell()


def _contents(found: Stock, *, keep_tables: bool) -> Iterator[str]:
    yield f"In the database {printable(found.database)!r}:"
    yield from (f"  {name}: {rows:,} row(s)" for name, rows in found.tables.items())
    if not found.tables:
        yield "  no tables"
    if not keep_tables:
        yield f"  {found.content_types} content type(s) with {found.permissions} permission(s)"
    if found.keys is not None:
        yield f"In Redis: {found.keys:,} key(s)."


def _reasons(found: Obstacles, given: Mapping[str, Any]) -> list[str]:
    reasons = []
    if found.workers and not given["with_workers"]:
        names = ", ".join(map(printable, found.workers[:SHOWN]))
        reasons.append(f"{len(found.workers)} worker(s) live: {names}. Stop them, or add --with-workers.")
    if found.jobs and not given["with_jobs"]:
        reasons.append(f"{found.jobs:,} job(s) have not ended: manage.py djtasks drain, or add --with-jobs.")
    if found.migrations and not given["keep_tables"]:
        reasons.append(f"Migrations of other apps build on those of djtasks: {', '.join(found.migrations)}.")
    return reasons


def _confirm(name: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise CommandError("There is nobody to ask whether to remove all of this: add --no-input.")
    if input(f"All of this is removed for good. Type the name of the database, {name}, to go on: ").strip() != name:
        raise CommandError("Nothing was removed.")


def _farewell() -> Iterator[str]:
    yield "Before the next `migrate`, which would bring the tables back, take out of the settings:"
    yield from (f"  {each}" for each in settings_that_name_us())
    yield "and from the code what imports djtasks, from the deployment the workers; then: pip uninstall djtasks"
