"""Waiting for file descriptors."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable


def readable(descriptors: Iterable[int], timeout: float) -> set[int]:
    """Wait up to `timeout` seconds; returns those of `descriptors` that can be read, or have come to their end.

    poll(2), since select(2) takes no descriptor above 1023, and a task may hold many files.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _event in poll.poll(timeout * 1000)}


class Doorbell:
    """What ends a wait for `descriptor`: a pipe, of which a job may close the ends without our knowing.

    Their numbers are given to what is opened next then, as to the file of a database. So nothing is written or read
    before it is seen that they are still the pipe's.
    """

    def __init__(self) -> None:
        self.descriptor, self._source = os.pipe()
        for end in (self.descriptor, self._source):
            os.set_blocking(end, False)
        self._pipe = _file_of(self.descriptor)

    @property
    def is_whole(self) -> bool:
        """Whether both ends are still the pipe's."""
        return _file_of(self.descriptor) == _file_of(self._source) == self._pipe

    def ring(self) -> None:
        """Make the descriptor readable, if it is there. Safe in a signal handler."""
        if _file_of(self._source) == self._pipe:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._source, b"\0")

    def hush(self) -> None:
        """Take what was rung."""
        if _file_of(self.descriptor) == self._pipe:
            with contextlib.suppress(BlockingIOError):
                os.read(self.descriptor, 4096)


def _file_of(descriptor: int) -> tuple[int, int] | None:
    """What a descriptor stands for; None if it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
