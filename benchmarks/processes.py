"""A worker's processes: start them, weigh them, end them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL


class WorkerProcess:
    """A worker that runs. Its output goes to `log`."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            # In a session of its own, so that Ctrl-C reaches us alone and we end it in order.
            self._popen = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        self._process = psutil.Process(self._popen.pid)

    def running(self) -> bool:
        return self._popen.poll() is None

    def last_words(self) -> str:
        """The end of what the worker has printed."""
        return self.log.read_text(errors="replace")[-1500:].strip()

    def tree(self) -> list[psutil.Process]:
        """The worker's first process and all that came from it."""
        with suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that the tree has used so far."""
        seconds = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds

    def memory(self) -> float | None:
        """PSS of the tree in MiB: shared pages count once, split among who shares them. None off Linux."""
        shares = [_pss(process.pid) for process in self.tree()]
        return None if None in shares else sum(share or 0 for share in shares) / 1024

    def stop(self) -> None:
        """End the whole tree: politely, after STOP_TIMEOUT by force. Returns when it is gone."""
        tree = self.tree()
        with suppress(ProcessLookupError):
            os.kill(self._popen.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(tree, timeout=STOP_TIMEOUT)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait()


def _pss(pid: int) -> int | None:
    """KiB."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except ProcessLookupError:
        return 0  # it has ended meanwhile
    except OSError:
        return None
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0
