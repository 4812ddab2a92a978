"""Waiting for file descriptors."""

from __future__ import annotations

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
