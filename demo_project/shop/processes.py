"""Child processes of the demo: watched while they run, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

PATIENCE = 15.0  # seconds that a child has to end by itself once it is asked to
TAIL = 40  # lines of its log that are shown when it died
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class ChildDied(Exception):
    """A child ended that should have gone on; carries the end of its log."""


class Child:
    """One process, which writes all it says into a log file.

    It has a session of its own, so that Ctrl-C in a terminal reaches the parent alone: the parent
    asks it to stop, once.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )

    def check(self) -> None:
        """Raise `ChildDied` if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ChildDied(f"The {self.name} ended with code {code}. The end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL:])

    def kill(self) -> None:
        """End the process and whatever it has started, at once."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()


@contextmanager
def stopping(children: list[Child]) -> Iterator[None]:
    """Stop whatever is in `children` when the block is left, however that happens."""
    try:
        yield
    finally:
        try:
            stop(children)
        finally:
            for child in children:
                child.kill()


def stop(children: Sequence[Child]) -> None:
    """Ask all to end, and wait until they have or `PATIENCE` is over."""
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + PATIENCE
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))


@contextmanager
def signals_as_exit() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end this process as `sys.exit` does, so that it cleans up.

    Ctrl-C raises KeyboardInterrupt, also where a shell has put us in the background; `nohup` keeps its meaning.
    """
    handlers = {"SIGINT": signal.default_int_handler, "SIGTERM": leave, "SIGHUP": leave}
    numbers = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in numbers.items():
        if number == signal.SIGINT or before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def end_with_parent() -> Callable[[], None] | None:
    """Return what a child must call so that it is asked to stop should its parent be killed; Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port(first: int) -> int:
    """Return the first port from `first` on at which nothing listens on 127.0.0.1. Raises OSError if none is free."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as probe:
            if os.name == "posix":  # elsewhere it would let two servers share the port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError(f"no port from {first} on is free")
