"""The job that every peer runs, and the instrument that times it.

The job notes its start in a file: one append of 16 bytes (its number, CLOCK_MONOTONIC in ns). That
clock is one for all processes of the machine, and so short an append is whole or not there at all.
"""

from __future__ import annotations

import os
import struct
import time
from functools import cache
from pathlib import Path
from typing import Final

VARIABLE: Final = "DJTASKS_BENCH_MARKS"  # names the file
RECORD: Final = struct.Struct("=qq")
LOOK: Final = 0.005  # seconds between two looks at the file's size


def mark(number: int, seconds: float = 0.0) -> int:
    """The job: note that `number` begins now, wait for so long, and return it."""
    os.write(_descriptor(os.getpid()), RECORD.pack(number, time.monotonic_ns()))
    if seconds:
        time.sleep(seconds)
    return number


@cache
def _descriptor(_pid: int) -> int:
    return os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Marks:
    """What the jobs have noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def count(self) -> int:
        """How many jobs have begun since the file was made."""
        return self.path.stat().st_size // RECORD.size

    def since(self, first: int) -> list[tuple[int, int]]:
        """(number, ns) of each job from the `first`-th on, in the order in which they began."""
        with self.path.open("rb") as file:
            file.seek(first * RECORD.size)
            return list(RECORD.iter_unpack(file.read()))

    def wait_for(self, count: int, timeout: float) -> None:
        """Return when `count` jobs have begun. Raises TimeoutError after `timeout` seconds without a new one."""
        seen, deadline = self.count(), time.monotonic() + timeout
        while seen < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{seen:,} of {count:,} jobs have begun, and for {timeout:.0f} s no more did")
            time.sleep(LOOK)
            now = self.count()
            if now > seen:
                seen, deadline = now, time.monotonic() + timeout
