"""What waits in one queue, in the order in which it will run: a page of it, as the broker says at this moment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from django.utils.safestring import SafeString

from djtasks.admin import page
from djtasks.admin.charts import ready_text, scheduled_text
from djtasks.admin.presentation import age, breakable, wait_text
from djtasks.brokers import get_broker
from djtasks.brokers.base import QueueSize
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Delivery, Message, Wait, checked_queue
from djtasks.models import Job
from djtasks.queues import Standing, standing_of

PER_PAGE: Final = 100  # jobs
# Jobs that are paged through, by their place: that is what is asked for, as the order moves on while it is looked at.
# To skip 9,900 takes a database about as long as to show a page; to skip a million would not.
FARTHEST: Final = 10_000
LONGEST_ARGUMENTS: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class Row:
    """One job that waits. `url` is '' if it has no page, `arguments` if they may not be seen or there are none."""

    position: int
    delivery: Delivery
    url: str
    arguments: str
    wait: Wait | None = None  # for a limit

    @property
    def message(self) -> Message:
        return self.delivery.message

    @property
    def name(self) -> str:
        return self.message.task.rpartition(".")[2]

    @property
    def module(self) -> SafeString:
        return breakable(self.message.task.rpartition(".")[0])

    @property
    def enqueued(self) -> str:
        return age(self.delivery.created_at)

    @property
    def due(self) -> str:
        return wait_text(self.wait) if self.wait else age(self.message.eta)

    @property
    def expires(self) -> str:
        return age(self.message.expires_at) if self.message.expires_at else ""

    @property
    def has_notes(self) -> bool:
        delivery = self.delivery
        return bool(delivery.malformed or delivery.revoked or delivery.token or delivery.losses)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what waits in a queue: `deliveries` are those after the first `offset`, of `total`."""

    scheduled: bool
    offset: int
    standing: Standing
    deliveries: Collection[Delivery] = ()
    has_more: bool = False  # whether something waits behind these
    error: str = ""

    @property
    def size(self) -> QueueSize:
        return self.standing.size

    @property
    def total(self) -> int:
        return self.size.scheduled if self.scheduled else self.size.ready

    @property
    def ready(self) -> str:
        return ready_text(self.size)

    @property
    def scheduled_count(self) -> str:
        return scheduled_text(self.size)

    @property
    def is_cut(self) -> bool:
        """Whether what waits behind these is not shown."""
        return self.has_more and self.last >= FARTHEST

    @property
    def offsets(self) -> dict[str, int]:
        """Where the pages before and behind this one begin, if there are any."""
        found = {"previous": max(0, self.offset - PER_PAGE)} if self.offset else {}
        return {**found, "next": self.last} if self.has_more and not self.is_cut else found

    @property
    def first(self) -> int:
        return self.offset + 1

    @property
    def last(self) -> int:
        return self.offset + len(self.deliveries)


def offset_in(text: str) -> int:
    """How many jobs to skip; 0 for what is no number of jobs."""
    try:
        offset = int(text)
    except ValueError:
        return 0
    return offset if 0 <= offset < FARTHEST else 0


def look(queue: str, *, scheduled: bool, offset: int) -> Part:
    """What the broker says of the queue at this moment."""
    part = Part(scheduled, offset, Standing(name=queue))
    if not is_queue(queue):  # and PostgreSQL refuses to be asked for a NUL
        return part
    try:
        part = replace(part, standing=standing_of(queue, FARTHEST))
        # One more than is shown, as the count may end before it; Redis gives fewer where messages are big.
        found = get_broker().peek(queue, scheduled=scheduled, offset=offset, limit=PER_PAGE + 1)
        is_more = len(found) > PER_PAGE or 0 < len(found) < part.total - offset
        return replace(part, deliveries=found[:PER_PAGE], has_more=is_more)
    except BrokerUnavailable as error:
        return replace(part, error=str(error))


def is_queue(name: str) -> bool:
    """Whether a queue can have this name."""
    try:
        checked_queue(name)
    except ValueError:
        return False
    return True


def arguments_of(message: Message) -> str:
    """The arguments in one line, masked; cut where it gets too long."""
    shown = page.private(Job(task=message.task, args=message.args, kwargs=message.kwargs))
    pieces = [f"{each.name}={each.value}" if each.name else each.value for each in shown.arguments]
    lines = (shown.raw_arguments or ", ".join(pieces)).splitlines()
    text = " ".join(line.strip() for line in lines)
    return text if len(text) <= LONGEST_ARGUMENTS else f"{text[:LONGEST_ARGUMENTS]}…"
