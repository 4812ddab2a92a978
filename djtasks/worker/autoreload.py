"""`runworker --autoreload`: when the code changes, the worker stops warmly and another takes its place.

The one that watches runs no jobs: a worker forks, and must not do so beside the threads of a reloader.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.utils.autoreload import StatReloader

from djtasks.worker.beside_runserver import start

LOOK_EVERY: Final = 0.5  # seconds
FLAG: Final = "--autoreload"


class Watch:
    """Keeps a worker running that has the code as it stands."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = [each for each in arguments if each != FLAG]
        self.is_asked_to_stop = False
        self._worker: subprocess.Popen[bytes] | None = None
        self._files = StatReloader()
        for folder in _own_folders():
            self._files.watch_dir(folder, "**/*.py")

    def run(self) -> int:
        """Run workers, one after another, until told to stop. Returns the last one's exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._pass_on)
        before = self._standing()
        self._worker = start(self.arguments)
        while (code := self._ended()) is None:
            time.sleep(LOOK_EVERY)
            now = self._standing()
            if now != before and not self.is_asked_to_stop:
                self._replace(_changed(before, now))
            before = now
        return code

    def _ended(self) -> int | None:
        """The worker's exit code if there is to be no other one: it was told to stop, or had nothing more to do."""
        assert self._worker is not None  # noqa: S101 - it was started before
        code = self._worker.poll()
        return code if self.is_asked_to_stop or code == 0 else None

    def _replace(self, path: Path) -> None:
        assert self._worker is not None  # noqa: S101 - it was started before
        print(f"djtasks: {path} has changed, so the worker is replaced", flush=True)
        self._worker.terminate()
        self._worker.wait()
        if not self.is_asked_to_stop:
            self._worker = start(self.arguments)

    def _pass_on(self, number: int, _frame: Any) -> None:
        """The worker is in a session of its own, so that a Ctrl-C comes to it once, from here."""
        self.is_asked_to_stop = True
        if self._worker is not None:
            self._worker.send_signal(number)

    def _standing(self) -> Mapping[Path, float]:
        return dict(self._files.snapshot_files())


def _own_folders() -> Iterator[Path]:
    """The folders of apps that are the site's own: what is installed does not change while one works."""
    installed = tuple(Path(each) for each in sys.path if each.endswith(("site-packages", "dist-packages")))
    for config in apps.get_app_configs():
        folder = Path(config.path)
        if not any(folder.is_relative_to(each) for each in installed):
            yield folder


def _changed(before: Mapping[Path, float], now: Mapping[Path, float]) -> Path:
    different = before.items() ^ now.items()
    return min(path for path, _changed_at in different)
