"""`manage.py runworker`."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import socket
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from django.db.migrations.executor import MigrationExecutor

import djtasks
from djtasks import registry, signals
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured
from djtasks.masking import masked_url
from djtasks.models import Worker
from djtasks.worker import pools
from djtasks.worker.consumer import known_queues
from djtasks.worker.options import WorkerOptions
from djtasks.worker.supervisor import Supervisor, run_solo

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Command(BaseCommand):
    help = (
        "Run background jobs until stopped. Ctrl-C or SIGTERM: finish what runs and give back what waits (a second "
        "one: give back what runs, too). SIGQUIT: stop at once; the other workers take over after WORKER_LOST_AFTER."
    )
    requires_system_checks: list[str] = []  # some of Django's ask the database, which may come up later

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-Q", "--queues", help="Serve only these queues, comma separated. Default: all.")
        parser.add_argument("-X", "--exclude-queues", default="", help="Serve all queues but these, comma separated.")
        parser.add_argument(
            "--strict-queues", action="store_true", help="Serve a queue only while those named before it are empty."
        )
        parser.add_argument(
            "-c", "--concurrency", type=int, help="Jobs that run at a time. Default: the CPUs this process may use."
        )
        parser.add_argument("-P", "--pool", help="prefork (default): child processes; solo: in this very process.")
        parser.add_argument(
            "-n",
            "--hostname",
            default="worker@%h",
            help="The worker's name; %%h is the machine's. Default: worker@%%h.",
        )
        parser.add_argument(
            "-l", "--loglevel", default="INFO", type=str.upper, choices=LEVELS, help="Of the logger 'djtasks'."
        )
        parser.add_argument("-B", "--beat", action="store_true", help=argparse.SUPPRESS)
        parser.add_argument("--no-beat", action="store_true", help=argparse.SUPPRESS)
        parser.add_argument(
            "--prefetch-multiplier",
            type=int,
            help="Claim so many jobs ahead in each process. Default: as many as start soon.",
        )
        parser.add_argument("--max-tasks-per-child", type=int, help="Replace a process after so many jobs.")
        parser.add_argument("--burst", action="store_true", help="Stop when the queues are empty.")
        parser.add_argument("--pidfile", help="Write the process number into this file.")
        parser.add_argument("--parent-pipe", type=int, help=argparse.SUPPRESS)

    def handle(self, **given: Any) -> None:
        try:
            options = worker_options(given)
            set_up_logging(given["loglevel"])
            self._check_system()
            self._require_tables()
            self._check_broker()
            self.stdout.write(banner(options))
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        self.stdout.flush()
        for stream in (sys.stdout, sys.stderr):  # so that what a task prints is seen at once
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)
        sys.exit(_with_pidfile(given["pidfile"], options, given["parent_pipe"]))

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


def worker_options(given: dict[str, Any]) -> WorkerOptions:
    """What the command line says, completed by the settings. Raises ImproperlyConfigured."""
    get_broker()
    concurrency = settings.WORKER_CONCURRENCY if given["concurrency"] is None else given["concurrency"]
    pool = pools.pool(given["pool"] or settings.WORKER_POOL, concurrency)
    ahead = given["prefetch_multiplier"]
    if ahead is None and isinstance(settings.WORKER_PREFETCH_MULTIPLIER, int):
        ahead = settings.WORKER_PREFETCH_MULTIPLIER
    return WorkerOptions(
        hostname=expand_hostname(given["hostname"]),
        queues=_names(given["queues"]) or None,
        excluded=_names(given["exclude_queues"]),
        strict=given["strict_queues"],
        pool=pool.name,
        concurrency=pool.processes,
        ahead=None if ahead is None else max(1, ahead),
        max_tasks=given["max_tasks_per_child"] or settings.WORKER_MAX_TASKS_PER_CHILD,
        burst=given["burst"],
        beat=not given["no_beat"],
    )


def expand_hostname(name: str) -> str:
    """`name` with %h (machine), %n (its short name), %d (its domain) filled in, as in Celery."""
    full = socket.gethostname()
    short, _, domain = full.partition(".")
    return name.replace("%h", full).replace("%n", short).replace("%d", domain)


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


def banner(options: WorkerOptions) -> str:
    """What the worker says of itself at its start."""
    database = connections.settings[settings.DATABASE]
    lines = [
        f"djtasks {djtasks.__version__} · {options.hostname} · Python {platform.python_version()}",
        f"  broker:      {masked_url(settings.broker_url)}",
        f"  database:    {settings.DATABASE} ({database['ENGINE'].rpartition('.')[2]}: {database.get('NAME')})",
        f"  concurrency: {options.concurrency} ({options.pool})",
        f"  connections: up to {_connections(options)} to the database, two a process that runs jobs, one the keeper",
        f"  queues:      {_served(options)}",
        f"  others:      {_others()}",
        "  tasks:",
        *(f"    . {name}" for name in registry.names()),
    ]
    return "\n".join(lines)


def _connections(options: WorkerOptions) -> int:
    return 2 * options.concurrency + 1


def _served(options: WorkerOptions) -> str:
    if options.queues:
        return ", ".join(name for name in options.queues if name not in options.excluded)
    excluded = f", but {', '.join(options.excluded)}" if options.excluded else ""
    return f"all (now {', '.join(known_queues())}{excluded})"


def _others() -> str:
    try:
        live = Worker.objects.filter(lost_at=None, stopped_at=None).values_list("hostname", "pid")[:10]
        names = [f"{hostname} ({pid})" for hostname, pid in live]
    except OperationalError:
        return "unknown: the database does not answer"
    finally:
        connections[settings.DATABASE].close()
    return ", ".join(names) or "none"


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name for each in (text or "").split(",") if (name := each.strip()))


def _with_pidfile(path: str | None, options: WorkerOptions, parent_pipe: int | None) -> int:
    if path:
        with open(path, "w") as file:  # noqa: PTH123 - one line
            file.write(f"{os.getpid()}\n")
    try:
        if options.pool == "solo":
            return run_solo(options, parent_pipe)
        return Supervisor(options, parent_pipe).run()
    finally:
        if path:
            os.unlink(path)  # noqa: PTH108
