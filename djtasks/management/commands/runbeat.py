"""`manage.py runbeat`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import CommandError

from djtasks.exceptions import ImproperlyConfigured
from djtasks.management.process import ProcessCommand, head, others, set_up_logging, site_mark
from djtasks.worker import health
from djtasks.worker.beat_alone import BeatAlone
from djtasks.worker.hostname import expand_hostname
from djtasks.worker.options import WorkerOptions
from djtasks.worker.pidfile import pidfile


class Command(ProcessCommand):
    help = (
        "Send what schedules are due, until stopped by Ctrl-C or SIGTERM; run no jobs. Each runworker does so, too: "
        "any number of both may run, and each tick is sent once."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        self.add_process_arguments(parser, hostname="beat@%h")

    def handle(self, **given: Any) -> None:
        options = WorkerOptions(
            hostname=expand_hostname(given["hostname"]), queues=(), pool="beat", processes=0, forks=False, beat=True
        )
        try:
            set_up_logging(given["loglevel"])
            with pidfile(given["pidfile"]):
                self.check_all()
                self.introduce(banner(options))
                with health.shown(site_mark()) as slots_file:
                    code = BeatAlone(options, slots_file).run()
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        sys.exit(code)


def banner(options: WorkerOptions) -> str:
    """What it says of itself at its start."""
    return "\n".join(
        [
            *head(options.hostname),
            "  connections: up to 2 to the database, one the keeper and one beat",
            f"  others:      {others()}",
        ]
    )
