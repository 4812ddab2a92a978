"""`manage.py runworker`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import CommandError

from djtasks import registry
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured
from djtasks.limits import Limits, limits_of
from djtasks.management.process import ProcessCommand, head, others, set_up_logging
from djtasks.queues import known_queues
from djtasks.worker import health, pools
from djtasks.worker.hostname import expand_hostname
from djtasks.worker.options import WorkerOptions
from djtasks.worker.pidfile import pidfile
from djtasks.worker.supervisor import Supervisor, run_solo


class Command(ProcessCommand):
    help = (
        "Run background jobs until stopped. Ctrl-C or SIGTERM: finish what runs and give back what waits (a second "
        "one: give back what runs, too). SIGQUIT: stop at once; the other workers take over after WORKER_LOST_AFTER."
    )

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
        self.add_process_arguments(parser, hostname="worker@%h")
        parser.add_argument("-B", "--beat", action="store_true", help="Send what schedules are due, too: the default.")
        parser.add_argument("--no-beat", action="store_true", help="Leave the schedules to others.")
        parser.add_argument(
            "--prefetch-multiplier",
            type=int,
            help="Claim so many jobs ahead in each process. Default: as many as start soon.",
        )
        parser.add_argument(
            "--time-limit", type=float, help="Kill the process of a job that runs for so many seconds, and replace it."
        )
        parser.add_argument(
            "--soft-time-limit", type=float, help="Raise SoftTimeLimitExceeded in a job that runs for so many seconds."
        )
        parser.add_argument("--max-tasks-per-child", type=int, help="Replace a process after so many jobs.")
        parser.add_argument(
            "--max-memory-per-child", type=int, metavar="KIB", help="Replace a process that has taken so much memory."
        )
        parser.add_argument("--burst", action="store_true", help="Stop when the queues are empty.")
        parser.add_argument("--parent-pipe", type=int, help=argparse.SUPPRESS)

    def handle(self, **given: Any) -> None:
        try:
            options = worker_options(given)
            set_up_logging(given["loglevel"])
            with pidfile(given["pidfile"]):
                sys.exit(self._run(options, given["parent_pipe"]))
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def _run(self, options: WorkerOptions, parent_pipe: int | None) -> int:
        """Run the worker to its end. Returns the exit code."""
        self.check_all()
        self._warn(options)
        self.introduce(banner(options))
        with health.shown() as slots_file:
            if options.pool == "solo":
                return run_solo(options, parent_pipe, slots_file)
            return Supervisor(options, parent_pipe, slots_file).run()

    def _warn(self, options: WorkerOptions) -> None:
        if options.pool == "solo" and options.limits is not None and options.limits.hard:
            self.stderr.write(
                "Warning: the solo pool keeps no hard time limit, since nobody stands beside the process to end it. "
                "Use -P prefork, or a soft time limit."
            )


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
        max_memory=given["max_memory_per_child"] or settings.WORKER_MAX_MEMORY_PER_CHILD,
        limits=_limits(given),
        burst=given["burst"],
        beat=not given["no_beat"],
    )


def _limits(given: dict[str, Any]) -> Limits:
    """The time limits of what has none of its own. Raises ImproperlyConfigured."""
    options = {name: given[name] for name in ("time_limit", "soft_time_limit")}
    try:
        limits_of(options, None)
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from error
    return Limits(
        options["time_limit"] or settings.TASK_TIME_LIMIT, options["soft_time_limit"] or settings.TASK_SOFT_TIME_LIMIT
    )


def banner(options: WorkerOptions) -> str:
    """What the worker says of itself at its start."""
    lines = [
        *head(options.hostname),
        f"  concurrency: {options.concurrency} ({options.pool})",
        f"  connections: up to {_connections(options)} to the database, {_users(options)}",
        f"  queues:      {_served(options)}",
        f"  others:      {others()}",
        "  tasks:",
        *(f"    . {name}" for name in registry.names()),
    ]
    return "\n".join(lines)


def _connections(options: WorkerOptions) -> int:
    return 2 * options.concurrency + 1 + options.beat


def _users(options: WorkerOptions) -> str:
    keeper = "one the keeper and one beat" if options.beat else "one the keeper"
    return f"two a process that runs jobs, {keeper}"


def _served(options: WorkerOptions) -> str:
    if options.queues:
        return ", ".join(name for name in options.queues if name not in options.excluded)
    excluded = f", but {', '.join(options.excluded)}" if options.excluded else ""
    now = [name for name in known_queues() if name not in options.excluded]
    return f"all (now {', '.join(now)}{excluded})"


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name for each in (text or "").split(",") if (name := each.strip()))
