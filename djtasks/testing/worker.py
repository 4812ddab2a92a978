"""A real worker, as a copy of the test's process: it has the test's settings, and so its databases."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections

from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured
from djtasks.models import Worker
from djtasks.worker.options import WorkerOptions
from djtasks.worker.supervisor import Supervisor

PATIENCE: Final = 30.0  # seconds for a worker to start, and to stop


@contextmanager
def worker(**options: Any) -> Iterator[int]:
    """Within the block a real worker runs what is queued, in processes of its own. Gives its process id.

    For tests with real transactions (TransactionTestCase, `transactional_db`): other processes see nothing of a
    TestCase's. `options` are those of WorkerOptions: `queues`, `processes`, `runs`, …. Raises TypeError for another
    option, ImproperlyConfigured for a database in memory and within a transaction, RuntimeError if the worker does not
    start.
    """
    chosen = WorkerOptions(hostname="testing", **options)
    if connections[settings.DATABASE].in_atomic_block:
        raise ImproperlyConfigured(
            "Other processes see nothing of the transaction that is open, as that of a TestCase is: use a "
            "TransactionTestCase, or pytest.mark.django_db(transaction=True)."
        )
    name = str(connections[settings.DATABASE].settings_dict["NAME"])
    if ":memory:" in name or "mode=memory" in name:
        raise ImproperlyConfigured(
            'Other processes see no database in memory: set DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}.'
        )
    get_broker().close()
    connections.close_all()  # a copy of a connection would talk between the words of the first
    pid = os.fork()
    if pid == 0:
        _be_worker(chosen)
    try:
        _wait_for_beat(pid)
        yield pid
    finally:
        _end(pid)


def _be_worker(options: WorkerOptions) -> None:
    """The rest of this process's life, which ends without a word to the test runner that it is a copy of."""
    code = 1
    try:
        os.setsid()
        code = Supervisor(options).run()
    finally:
        os._exit(code)


def _wait_for_beat(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not Worker.objects.live().filter(pid=pid, beat__gt=0).exists():
        if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > deadline:
            raise RuntimeError("The worker did not start; its log says why (logger 'djtasks').")
        time.sleep(0.02)


def _end(pid: int) -> None:
    """Stop the worker warmly; kill all its processes if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    try:
        os.kill(pid, signal.SIGTERM)
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.02)
    except (ProcessLookupError, ChildProcessError):
        pass
