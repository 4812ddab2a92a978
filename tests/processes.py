"""Real processes of djtasks: how they are started, and what a test may do to them."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent


class WorkerProcess:
    """A real `runworker` in a process group of its own."""

    def __init__(self, process, log):
        self.process = process
        self.log = log
        self.pid = process.pid

    @property
    def output(self):
        return self.log.read_text()

    def children(self):
        """The pids of the processes that the supervisor has forked: the keeper and the children."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def kill_all(self):
        """End the supervisor, the keeper and the children in one moment, as a power cut would."""
        for pid in (self.pid, *self.children()):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def end(self):
        """Warm stop, and a cold one of what goes on after a second. Leaves alone what does not end by that."""
        for seconds in (1, 5):
            with suppress(subprocess.TimeoutExpired, ProcessLookupError):
                self.stop(seconds)
                return

    def stop(self, seconds=20):
        """Warm stop. Returns the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)


def worker_environment(djtasks_settings):
    """The environment of a process that works on the test's databases with these settings."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DJTASKS_TEST_SETTINGS": json.dumps(djtasks_settings),
        "PYTHONPATH": str(ROOT),
    }
