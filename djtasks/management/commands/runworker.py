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
from djtasks.management.process import ProcessCommand, head, others, set_up_logging, show_at_once, site_mark
from djtasks.queues import known_queues
from djtasks.worker import autoreload, health, pools, port, scale, spawned
from djtasks.worker.hostname import expand_hostname
from djtasks.worker.one_process import run_in_one_process
from djtasks.worker.options import WorkerOptions
from djtasks.worker.pidfile import pidfile
from djtasks.worker.supervisor import Supervisor


class Command(ProcessCommand):
    help = (
        "Run background jobs until stopped. Ctrl-C or SIGTERM: finish what runs and give back what waits (a second "
        "one: give back what runs, too). SIGQUIT: stop at once; the other workers take over after WORKER_LOST_AFTER."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        self._add_queues(parser)
        self._add_pool(parser)
        self.add_process_arguments(parser, hostname="worker@%h")
        parser.add_argument("-B", "--beat", action="store_true", help="Send what schedules are due, too: the default.")
        parser.add_argument("--no-beat", action="store_true", help="Leave the schedules to others.")
        self._add_limits(parser)
        parser.add_argument(
            "--metrics-port",
            metavar="[HOST:]PORT",
            help=f"Serve /metrics for Prometheus, and /health; on {port.DEFAULT_HOST}, if no host is said. "
            "See docs/monitoring.md.",
        )
        parser.add_argument(autoreload.FLAG, action="store_true", help="Start anew when code changes: for development.")
        parser.add_argument("--burst", action="store_true", help="Stop when the queues are empty.")
        parser.add_argument("--spawned", help=argparse.SUPPRESS)
        parser.add_argument("--parent-pipe", type=int, help=argparse.SUPPRESS)

    def _add_queues(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-Q", "--queues", help="Serve only these queues, comma separated. Default: all.")
        parser.add_argument("-X", "--exclude-queues", default="", help="Serve all queues but these, comma separated.")
        parser.add_argument(
            "--strict-queues", action="store_true", help="Serve a queue only while those named before it are empty."
        )

    def _add_pool(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "-c",
            "--concurrency",
            metavar="N|PxN",
            help="Jobs that run at a time; 2x8: 8 in each of 2 processes (prefork has one in each). "
            f"Default: the CPUs this process may use; {pools.COROUTINES} with asyncio and gevent.",
        )
        parser.add_argument(
            "-P",
            "--pool",
            help="prefork (default): a process for each job, for what computes and whenever in doubt; "
            "threads: for what waits (HTTP, files), with less memory; asyncio: hundreds of 'async def' tasks in one "
            "process; gevent: the same for ordinary code that waits; solo: one job at a time in this very process, for "
            "a debugger. See docs/workers.md.",
        )

    def _add_limits(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--prefetch-multiplier",
            type=int,
            metavar="N",
            help="Claim N jobs ahead for each that runs at a time; 1: none. Default: as many as start within 50 ms.",
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
        parser.add_argument(
            "--autoscale",
            metavar="MAX,MIN",
            help="With prefork: as many processes as there is work for, between MIN and MAX; -c is not looked at then.",
        )

    def handle(self, **given: Any) -> None:
        set_up_logging(given["loglevel"])
        if given["spawned"]:
            show_at_once()
            return spawned.run(given["spawned"])
        if given["autoreload"]:
            sys.exit(autoreload.Watch(sys.argv[1:]).run())
        try:
            options = worker_options(given)
            with pidfile(given["pidfile"]):
                sys.exit(self._run(options, given["parent_pipe"]))
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def _run(self, options: WorkerOptions, parent_pipe: int | None) -> int:
        """Run the worker to its end. Returns the exit code."""
        self.check_all()
        self._warn(options)
        self.introduce(banner(options))
        with health.shown(site_mark()) as slots_file:
            if not options.forks:
                return run_in_one_process(options, parent_pipe, slots_file)
            return Supervisor(options, parent_pipe, slots_file).run()

    def _warn(self, options: WorkerOptions) -> None:
        if not options.forks and options.limits is not None and options.limits.hard:
            self.stderr.write(
                f"Warning: a worker of one process ({options.pool}) keeps no hard time limit, as nobody stands beside "
                "it to end it. Use -P prefork, or a soft time limit."
            )


def worker_options(given: dict[str, Any]) -> WorkerOptions:
    """What the command line says, completed by the settings. Raises ImproperlyConfigured."""
    get_broker()
    concurrency = settings.WORKER_CONCURRENCY if given["concurrency"] is None else given["concurrency"]
    most, least = scale.bounds(given["autoscale"]) if given["autoscale"] is not None else (None, None)
    pool = pools.pool(given["pool"] or settings.WORKER_POOL, most or concurrency)
    if least is not None and pool.name != "prefork":
        raise ImproperlyConfigured(f"--autoscale is for the pool prefork, not {pool.name}: say -c N there.")
    if pool.name == "solo" and given["concurrency"] is not None:
        _check_single(given["concurrency"])
    ahead = given["prefetch_multiplier"]
    if ahead is None and isinstance(settings.WORKER_PREFETCH_MULTIPLIER, int):
        ahead = settings.WORKER_PREFETCH_MULTIPLIER
    return WorkerOptions(
        hostname=expand_hostname(given["hostname"]),
        queues=_names(given["queues"]) or None,
        excluded=_names(given["exclude_queues"]),
        strict=given["strict_queues"],
        pool=pool.name,
        forks=pool.forks,
        spawns=pools.must_spawn(pool.name),
        processes=pool.processes,
        runs=pool.runs,
        least=least,
        ahead=None if ahead is None else max(1, ahead),
        max_tasks=given["max_tasks_per_child"] or settings.WORKER_MAX_TASKS_PER_CHILD,
        max_memory=given["max_memory_per_child"] or settings.WORKER_MAX_MEMORY_PER_CHILD,
        limits=_limits(given),
        burst=given["burst"],
        beat=not given["no_beat"],
        scrape=None if given["metrics_port"] is None else port.scrape_at(given["metrics_port"]),
    )


def _check_single(concurrency: int | str) -> None:
    """Raise ImproperlyConfigured for more than solo would run."""
    _name, processes, runs = pools.asked("solo", concurrency)
    if (processes or 1) * (runs or 1) > 1:
        raise ImproperlyConfigured(f"-P solo runs one job at a time: -c {concurrency} is for the other pools.")


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
        f"  concurrency: {number(options)} ({shape(options)})",
        f"  connections: up to {_connections(options)} to the database, {_users(options)}",
        f"  queues:      {_served(options)}",
        f"  others:      {others()}",
        *([] if options.scrape is None else [f"  metrics:     {port.address_of(options.scrape[0])}/metrics"]),
        "  tasks:",
        *(f"    . {name}" for name in registry.names()),
    ]
    return "\n".join(lines)


def number(options: WorkerOptions) -> str:
    """How many jobs run at a time."""
    return str(options.concurrency) if options.least is None else f"{options.least} to {options.processes}"


def shape(options: WorkerOptions) -> str:
    """The pool, and how many jobs run at a time in how many processes."""
    if options.pool in ("prefork", "solo"):
        return options.pool
    where = "one process" if options.processes == 1 else f"each of {options.processes} processes"
    return f"{options.pool}: {options.runs} in {where}"


def _connections(options: WorkerOptions) -> int:
    return options.processes * (options.runs + 1) + 1 + options.beat


def _users(options: WorkerOptions) -> str:
    keeper = "one the keeper and one beat" if options.beat else "one the keeper"
    kind = {"threads": "thread", "gevent": "greenlet", "asyncio": "sync job"}.get(options.pool)
    if kind is None:
        return f"two a process that runs jobs, {keeper}"
    return f"one a {kind} that uses it, one a process beside, {keeper}"


def _served(options: WorkerOptions) -> str:
    if options.queues:
        return ", ".join(name for name in options.queues if name not in options.excluded)
    excluded = f", but {', '.join(options.excluded)}" if options.excluded else ""
    now = [name for name in known_queues() if name not in options.excluded]
    return f"all (now {', '.join(now)}{excluded})"


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name for each in (text or "").split(",") if (name := each.strip()))
