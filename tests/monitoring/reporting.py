"""Sentry's SDK, with a transport that writes the events of a test's processes into a file."""

import json
import os
from pathlib import Path

import sentry_sdk
from sentry_sdk.transport import Transport

from djtasks.monitoring.sentry import DjtasksIntegration

DSN = "http://key@127.0.0.1:9/1"  # nothing is sent there


class FileTransport(Transport):
    """Appends a JSON line an event."""

    def __init__(self, path):
        super().__init__()
        self.path = Path(path)

    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            with self.path.open("a") as file:
                file.write(f"{json.dumps(event, default=str)}\n")


def report_into(path, **integration):
    """Let this process report into a file what it would send to Sentry."""
    sentry_sdk.init(
        dsn=DSN,
        transport=FileTransport(path),
        integrations=[DjtasksIntegration(**integration)],
        auto_session_tracking=False,
    )


if "DJTASKS_TEST_EVENTS" in os.environ:  # in the worker of a test, which imports this as a module of tasks
    report_into(os.environ["DJTASKS_TEST_EVENTS"])
