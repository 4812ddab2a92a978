"""What the commands that run until stopped have in common: `runworker` and `runbeat`."""

from __future__ import annotations

import argparse
import hashlib
import logging
import platform
import sys

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from django.db.migrations.executor import MigrationExecutor

import djtasks
from djtasks import signals
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.masking import masked_url
from djtasks.models import Worker

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class ProcessCommand(BaseCommand):
    """A command that looks whether all is there, says what it is, and runs until stopped."""

    requires_system_checks: list[str] = []  # some of Django's ask the database, which may come up later

    def add_process_arguments(self, parser: argparse.ArgumentParser, hostname: str) -> None:
        parser.add_argument(
            "-n",
            "--hostname",
            default=hostname,
            help=f"Its name; %%h is the machine's. Default: {hostname.replace('%', '%%')}.",
        )
        parser.add_argument(
            "-l", "--loglevel", default="INFO", type=str.upper, choices=LEVELS, help="Of the logger 'djtasks'."
        )
        parser.add_argument("--pidfile", help="Write the process number into this file.")

    def check_all(self) -> None:
        """Wait for nothing that may come up later, but refuse to start on what is wrong. Raises CommandError."""
        self._check_system()
        self._require_tables()
        self._check_broker()

    def introduce(self, banner: str) -> None:
        """Write the banner; from now on, what is printed is seen at once."""
        self.stdout.write(banner)
        self.stdout.flush()
        show_at_once()

    def _check_system(self) -> None:
        try:
            self.check()
        except OperationalError as error:
            self.stderr.write(f"A database does not answer yet, system checks are left out: {error}")

    def _require_tables(self) -> None:
        """Wait for no database, but say which migrations are missing on one that answers."""
        alias = settings.DATABASE
        if connections[alias].vendor == "sqlite" and ":memory:" in str(connections.settings[alias]["NAME"]):
            raise CommandError(f"The database {alias!r} is in memory, where no other process sees it: give it a file.")
        try:
            executor = MigrationExecutor(connections[alias])
            plan = executor.migration_plan([key for key in executor.loader.graph.leaf_nodes() if key[0] == "djtasks"])
        except OperationalError as error:
            self.stderr.write(f"The database {alias!r} does not answer yet, the worker keeps trying: {error}")
            return
        finally:
            connections[alias].close()
        if plan:
            suffix = "" if alias == DEFAULT_DB_ALIAS else f" --database={alias}"
            raise CommandError(
                f"The tables of djtasks are missing or out of date in the database {alias!r}. "
                f"Run: manage.py migrate djtasks{suffix}"
            )

    def _check_broker(self) -> None:
        """Wait for no broker, but take no work from one that may lose it."""
        try:
            errors, warnings = get_broker().check()
        except BrokerUnavailable as error:
            self.stderr.write(f"The broker does not answer yet, the worker keeps trying: {error}")
            return
        finally:
            get_broker().close()
        for warning in warnings:
            self.stderr.write(f"Warning: {warning}")
        if errors:
            raise CommandError("\n".join(errors))


def show_at_once() -> None:
    """From now on, what is printed is seen at once."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def set_up_logging(level: str) -> None:
    """Set the level of the logger 'djtasks'; give it a handler only if nobody would show its lines."""
    logger = logging.getLogger("djtasks")
    logger.setLevel(level)
    if signals.setup_logging.receivers:
        signals.setup_logging.notify(sender=None, loglevel=level, logfile=None, format=None, colorize=False)
        return
    if not _shows(logger, logging.getLevelName(level)):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(asctime)s: %(levelname)s/%(process)d] %(message)s"))
        logger.addHandler(handler)


def _shows(logger: logging.Logger | None, level: int) -> bool:
    while logger is not None:
        if any(_takes(handler, level) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _takes(handler: logging.Handler, level: int) -> bool:
    """Whether a record of this level gets through the handler and its filters (Django's asks for DEBUG)."""
    record = logging.LogRecord("djtasks", level, "", 0, "", None, None)
    return handler.level <= level and not isinstance(handler, logging.NullHandler) and bool(handler.filter(record))


def site_mark() -> str:
    """Twelve hex digits that stand for this site's broker and database."""
    database = connections.settings[settings.DATABASE]
    where = [str(database.get(each)) for each in ("ENGINE", "HOST", "PORT", "NAME")]
    return hashlib.sha256("\0".join([masked_url(settings.broker_url), *where]).encode()).hexdigest()[:12]


def head(hostname: str) -> list[str]:
    """The first lines of a banner: what runs, and on what."""
    database = connections.settings[settings.DATABASE]
    return [
        f"djtasks {djtasks.__version__} · {hostname} · Python {platform.python_version()}",
        f"  broker:      {masked_url(settings.broker_url)}",
        f"  database:    {settings.DATABASE} ({database['ENGINE'].rpartition('.')[2]}: {database.get('NAME')})",
    ]


def others() -> str:
    """The other workers that live, in words."""
    try:
        live = Worker.objects.filter(lost_at=None, stopped_at=None).values_list("hostname", "pid")[:10]
        names = [f"{hostname} ({pid})" for hostname, pid in live]
    except OperationalError:
        return "unknown: the database does not answer"
    finally:
        connections[settings.DATABASE].close()
    return ", ".join(names) or "none"
