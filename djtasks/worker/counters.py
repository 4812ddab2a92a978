"""What ended in a worker, counted for `runworker --metrics-port`: its processes send the keeper what they count.

By a pair of datagram sockets that stands before they are forked, so that a process that is replaced takes along
nothing but what it had not sent; and nobody ever waits for the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Final

from djtasks import states
from djtasks.message import Outcome
from djtasks.models.metric import Figures, Sum
from djtasks.monitoring.labels import task_label
from djtasks.worker.options import WorkerOptions
from djtasks.worker.tally import count

SEND_EVERY: Final = 0.5  # seconds
PORTION: Final = 20  # tasks and queues in a datagram
BUFFER: Final = 256 * 1024  # bytes; what macOS gives is too little for a datagram
LONGEST_DATAGRAM: Final = 128 * 1024  # bytes
_COUNTED: Final = frozenset({*states.SETTLED, states.RETRY, states.REJECTED})

ByKind = dict[tuple[str, str], Figures]  # by task and queue


def pair() -> tuple[int, int]:
    """Two descriptors: where counts are heard, and where they are sent. Neither blocks."""
    hears, sends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for each in (hears, sends):
        each.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            each.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    return hears.detach(), sends.detach()


def counters_of(options: WorkerOptions) -> Counters | None:
    """What counts in a process of that worker; None if nobody wants to know."""
    return Counters(options.scrape[2]) if options.scrape is not None else None


class Counters:
    """Of one process: counts outcomes, and sends them on to `descriptor` twice a second."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is = os.fstat(descriptor)
        self._figures: ByKind = {}
        self._since = 0.0

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count what has been stored."""
        if not self._figures:
            self._since = time.monotonic()
        for outcome in outcomes:
            self._add(outcome)
            for later in outcome.also:
                self._add(later)

    def _add(self, outcome: Outcome) -> None:
        if outcome.state in _COUNTED:
            message = outcome.delivery.message
            kind = task_label(message.task), message.queue
            count(outcome, self._figures.setdefault(kind, Figures()), outcome.state)

    def send(self, *, at_once: bool = False) -> None:
        """Send what has gathered, if it is time. What the other side has no room for stays for later."""
        if not self._figures or (not at_once and time.monotonic() - self._since < SEND_EVERY):
            return
        self._since = time.monotonic()
        with contextlib.suppress(OSError):
            while self._figures and os.path.samestat(os.fstat(self._descriptor), self._is):  # a job may have closed it
                kinds = list(self._figures)[:PORTION]
                portion = [
                    [*kind, figures.counts, figures.stored_histogram]
                    for kind in kinds
                    for figures in (self._figures[kind],)
                ]
                os.write(self._descriptor, json.dumps(portion).encode())
                for kind in kinds:
                    del self._figures[kind]


def received(descriptor: int) -> Iterator[tuple[str, str, Figures]]:
    """Task, queue and figures of all that has come to where counts are heard."""
    while True:
        try:
            data = os.read(descriptor, LONGEST_DATAGRAM)
        except BlockingIOError:
            return
        for task, queue, counts, histogram in json.loads(data):
            whole = Sum()
            whole.add(counts, histogram)
            yield task, queue, whole.figures
