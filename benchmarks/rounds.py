"""Rounds: in each, every peer has one session, a process of its own; they take turns at being first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from benchmarks import work
from benchmarks.figures import Plan, Values
from benchmarks.peers import Entry
from tests import servers


@dataclass
class Peers:
    """The peers of a run, and what was found of each."""

    entries: dict[str, Entry]
    rounds: dict[str, list[Values]] = field(default_factory=lambda: defaultdict(list))
    durability: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # why a peer cannot be measured here
    failed: dict[str, str] = field(default_factory=dict)  # what went wrong while it was


class Progress:
    """Shows which peer is at which scenario: in a terminal's last line, elsewhere a line a session."""

    def __init__(self, console: Console, rounds: int) -> None:
        self.console = console
        self.rounds = rounds
        self._status = console.status("looking for servers …")

    def __enter__(self) -> Self:
        self._status.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.__exit__(kind, error, trace)

    def begin(self, number: int, name: str) -> None:
        self._line = f"round {number + 1}/{self.rounds} · {name}"
        if not self.console.is_terminal:
            self.console.print(self._line)

    def step(self, scenario: str) -> None:
        self._status.update(f"{self._line} · {scenario} …")


def find_servers(peers: Peers) -> list[servers.Server]:
    """Find or start what the peers need, and tell the sessions by the environment. Notes which peers miss one."""
    found = {kind: servers.find(kind) for entry in peers.entries.values() for kind in entry.servers}
    for kind, server in found.items():
        if isinstance(server, servers.Server):
            os.environ[servers.variable(kind)] = server.url
    for name, entry in peers.entries.items():
        for kind in entry.servers:
            if isinstance(lacking := found[kind], servers.Missing):
                peers.missing[name] = f"no {kind}: {' '.join(lacking.reason.split())} {lacking.remedy}"
    return [server for server in found.values() if isinstance(server, servers.Server)]


def run_round(number: int, peers: Peers, plan: Plan, progress: Progress) -> None:
    """A session of each peer that can be measured, beginning with another one in each round."""
    names = list(peers.entries)
    first = number % len(names)
    for name in names[first:] + names[:first]:
        if name in peers.missing or name in peers.failed:
            continue
        progress.begin(number, name)
        found: dict[str, Any] = {}
        for word in _session(name, peers.entries[name], plan):
            if "step" in word:
                progress.step(word["step"])
            found |= word.get("figures", {})
            for kind, notes in (("durability", peers.durability), ("missing", peers.missing), ("failed", peers.failed)):
                if kind in word:
                    notes[name] = word[kind]
        peers.rounds[name].append(found)


def _session(name: str, entry: Entry, plan: Plan) -> Iterator[dict[str, Any]]:
    """What the session says, word by word. It is gone, and its worker with it, when this ends, however it ends."""
    with tempfile.TemporaryDirectory(prefix="djtasks-bench-") as folder, _process(name, entry, plan, folder) as process:
        failed = False
        for line in process.stdout or ():
            word = json.loads(line)
            failed = failed or "failed" in word or "missing" in word
            yield word
        if process.wait() and not failed:
            yield {"failed": f"its process ended with code {process.returncode}"}


@contextmanager
def _process(name: str, entry: Entry, plan: Plan, folder: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        **entry.environment,
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        "DJTASKS_BENCH_APP": entry.app,
        "DJTASKS_BENCH_DATABASE": entry.database,
        "DJTASKS_BENCH_FILES": folder,
        work.VARIABLE: str(Path(folder) / "marks"),
    }
    command = [sys.executable, "-m", "benchmarks.session", name, json.dumps(asdict(plan))]
    # In a session of its own: a terminal's Ctrl-C comes to us alone, and by us to it, once.
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
