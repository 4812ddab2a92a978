"""Under DEBUG, `runserver` runs a worker beside it, so that the first job needs no second terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from django.conf import settings as django_settings

from djtasks.conf import settings

_started: list[subprocess.Popen[bytes]] = []  # kept, so that nobody thinks it was lost
CONCURRENCY = 2  # enough to see that jobs run beside each other; a laptop has other things to do


def is_wanted(argv: list[str], environment: dict[str, str]) -> bool:
    """Whether this process is the one of `runserver` that serves, and RUNSERVER_WORKER (None: DEBUG) says yes."""
    if argv[1:2] != ["runserver"] or settings.TASK_ALWAYS_EAGER:
        return False
    serves = environment.get("RUN_MAIN") == "true" or "--noreload" in argv
    wanted = django_settings.DEBUG if settings.RUNSERVER_WORKER is None else settings.RUNSERVER_WORKER
    return bool(serves and wanted and hasattr(os, "fork"))


def start(arguments: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
    """Start a worker, with `arguments`; None: for few jobs at a time.

    It stops when this process ends, however that is: then its pipe ends, too.
    """
    if arguments is None:
        few = () if settings.WORKER_POOL == "solo" else ("--concurrency", str(CONCURRENCY))
        arguments = ("runworker", *few)
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, False)
    program = ["-m", "django"] if sys.argv[0].endswith("__main__.py") else [sys.argv[0]]
    command = [sys.executable, *program, *arguments, "--parent-pipe", str(read_end)]
    # In a session of its own: Ctrl-C is for this process, whose end then stops the worker.
    worker = subprocess.Popen(command, pass_fds=[read_end], stdin=subprocess.DEVNULL, start_new_session=True)
    os.close(read_end)
    _started.append(worker)
    return worker
