"""The broker: it moves messages; it knows queues, leases and time.

It never imports a task, decodes an argument or stores a result. Methods stand in the order in which
a job lives; then those for the operator.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, Literal, NamedTuple

from djtasks.exceptions import ImproperlyConfigured
from djtasks.masking import masked_url
from djtasks.message import Delivery, Message, Wait

NEXT_TRY: Final = 0.05  # seconds after which other workers may take what one has left
FARTHEST: Final = 10.0  # seconds; slots are given no farther ahead: one that is was given before the clock was put back
Count = Literal["losses", "refusals"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A process that died, the owner of leases. `started` is the (id, token) of each job that ran in it.

    With `known=False` nobody saw what ran: the machine went with the process, so each leased job may
    have. With `beat`, `worker` is a whole worker, lost only if its beat still stands at that count. With `final`, what
    was `started` was ended on purpose: it counts no loss, and must not run again.
    """

    worker: str
    started: tuple[tuple[str, int], ...] = ()
    known: bool = True
    beat: int | None = None
    final: bool = False

    def was_alone(self, leased: int) -> bool:
        """Whether one job alone can have caused it, `leased` being how many the process held."""
        return len(self.started) <= 1 if self.known else leased == 1


@dataclass(frozen=True, slots=True)
class QueueSize:
    """How many jobs stand in a queue; at least so many where it was not counted to the end."""

    ready: int
    scheduled: int
    running: int
    paused: bool = False
    more_ready: bool = False
    more_scheduled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where a job stands that has not ended: `delivery.worker` is who holds it, "" if it waits."""

    delivery: Delivery
    before: int | None = None  # jobs that are ready before it; None: it is not ready
    due_at: datetime | None = None  # None: it does not wait for a time
    is_paused: bool = False  # its queue


@dataclass(frozen=True, slots=True)
class LimitStanding:
    """How one limit stands: jobs that wait for it and that hold a place; the slot given last (µs since 1970)."""

    limit: str
    waiting: int = 0
    holding: int = 0
    last_slot: int = 0

    @property
    def key(self) -> str:
        """Its key: the task, with a value in brackets if the task's limit has one."""
        return self.limit.partition(":")[2]


def unreadable(url: str, error: Exception) -> ImproperlyConfigured:
    """The error for a BROKER_URL that cannot be taken apart."""
    text = f"BROKER_URL {masked_url(url)} cannot be read: {error}"
    if re.search(r"://[^:@]*:[^@]*[/?#\[\]@%].*@", url):
        text += ". In a password / ? # [ ] @ % : stand as %2F %3F %23 … (urllib.parse.quote(password, safe=''))"
    return ImproperlyConfigured(text)


class Watcher(NamedTuple):
    """What may know of new jobs before a claim is made."""

    may_be_ready: Callable[[], bool]  # raises BrokerUnavailable
    is_free: bool  # whether it may be asked all the time


class Broker(ABC):
    """Keeps the queues. All methods take or give many jobs, so that one round trip serves a batch.

    Shared by the threads of a process, never carried over a fork. Every method raises
    BrokerUnavailable when the server cannot be reached; whether to try again is the caller's choice.
    """

    transactional: ClassVar[bool] = False  # whether the queue is the job table: `enqueue` joins open transactions
    first_pause: ClassVar[float] = 0.002  # seconds until a waiting worker looks again unasked, doubled up to a second

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def enqueue(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Put messages in their queues, in this order; an id that was taken before is left as it is.

        So is a unique key: a message whose key another job has is not taken, but with `replaces` takes the place of
        that job if it waits, under its id. Returns the ids of those that were not taken, each with the id of that job.
        """

    @abstractmethod
    def claim(
        self, queue: str, *, limit: int, worker: str, refused: Collection[str] = (), only: str | None = None
    ) -> list[Delivery]:
        """Lease up to `limit` (≥ 1) ready jobs of `queue` to `worker`: highest priority first, then oldest.

        Leaves out tasks named in `refused`; with `only`, all but that task, of which it finds what stands among the
        first in the queue. Never blocks, never leases a job to two workers, and
        gives nothing from a paused queue but what was revoked. Returns [] if nothing is ready.
        """

    @abstractmethod
    def forget_claims(self, worker: str, *, but: Collection[str]) -> int:
        """Give back, unharmed, what `worker` has leased but for these ids: the answer to its claim got lost.

        Called by the worker itself after an error. Returns how many that were.
        """

    @abstractmethod
    def revoked(self, ids: Sequence[str]) -> set[str]:
        """Which of these jobs, that are leased, have been revoked since they were claimed."""

    @abstractmethod
    def start(self, deliveries: Sequence[Delivery]) -> list[str]:
        """Acknowledge jobs before they run: once begun they are never run again. Returns the ids still leased."""

    @abstractmethod
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Forget finished jobs. A delivery whose lease has passed to another worker is ignored."""

    @abstractmethod
    def release(self, deliveries: Sequence[Delivery], *, delay: float = 0.0, count: Count | None = None) -> None:
        """Give jobs back, to be ready in `delay` seconds, at their old place; `count` names a counter to raise."""

    @abstractmethod
    def reschedule(self, deliveries: Sequence[tuple[Delivery, Message]]) -> None:
        """Put each message in the place of its delivery, under the same id, and drop the lease, in one step."""

    @abstractmethod
    def defer(
        self, deliveries: Sequence[Delivery], key: str, interval: float, *, ahead: float, most: int
    ) -> list[Delivery]:
        """Give jobs slots of the rate `key`, `interval` seconds apart over all workers, in this order.

        Up to `most` whose slots come within `ahead` seconds stay leased, and are returned with them
        (`Delivery.grants`). The others are given back in the same step, scheduled for theirs, and keep them: first
        come, first served. They are ready half of `ahead` before, so that they can begin in time. What has a grant of
        this rate, but could not begin in time, comes before those that wait. A job that is given back before it began
        (`release`) leaves its slot to others.
        """

    @abstractmethod
    def take_places(self, deliveries: Sequence[Delivery], key: str, places: int, *, most: int) -> list[Delivery]:
        """Let up to `most` of these jobs run, if at most `places` of `key` then do, over all workers; in this order.

        They are returned, with their grants; a place ends with the lease, however that ends. The others are given back
        in the same step, to wait without being claimed until a place is free: by priority, then oldest first.
        """

    @abstractmethod
    def recall(self, limit: str) -> int:
        """Make all that wait for a limit ready at once, in their old order: it has changed. Returns how many."""

    @abstractmethod
    def fill_places(self) -> int:
        """Make ready what waits for places that are free, as of workers that died. Returns how many."""

    @abstractmethod
    def limits(self) -> list[LimitStanding]:
        """The limits for which jobs wait, or that have let some through lately; by name."""

    @abstractmethod
    def waits(self, ids: Sequence[str]) -> dict[str, Wait]:
        """For which limits these jobs wait, by id."""

    @abstractmethod
    def until_due(self) -> float | None:
        """Seconds until the first of the scheduled jobs is due, at most 0 if it is; None if none is scheduled."""

    @abstractmethod
    def promote(self, *, limit: int = 1000) -> int:
        """Make scheduled jobs ready whose time has come, at most `limit`. Returns how many."""

    @abstractmethod
    def queues(self) -> list[str]:
        """The names of the queues in which something is ready; costs the same at any backlog."""

    @abstractmethod
    def beat(self, workers: Sequence[str]) -> set[str]:
        """Raise the beat counters of these workers. Returns those that nobody has declared lost."""

    @abstractmethod
    def beats(self) -> Mapping[str, int]:
        """The beat counters of all workers that live, as far as anybody knows."""

    @abstractmethod
    def owners(self) -> set[str]:
        """Who holds leases now."""

    @abstractmethod
    def rescue(self, losses: Sequence[Loss], *, rescuer: str) -> list[Delivery]:
        """Take back what dead processes had leased: what had begun counts a loss, the rest goes back unharmed.

        Returns, leased to `rescuer`, what must not run again: jobs with `TASK_MAX_LOSSES` losses (the
        last of which happened alone), those acknowledged before they ran, and what a `final` loss has ended.
        """

    @abstractmethod
    def wait(self, queues: Sequence[str], *, timeout: float) -> None:
        """Block until one of `queues` may hold a ready job, at most `timeout` seconds."""

    @abstractmethod
    def cancel(self, ids: Sequence[str]) -> int:
        """Flag jobs as revoked and make the waiting ones ready at once. Returns how many had not ended."""

    @abstractmethod
    def hasten(self, ids: Sequence[str]) -> list[str]:
        """Make jobs ready now that wait for their time. Returns the ids of those that did.

        Not for what waits for a limit (`waits`): it would leave its line.
        """

    @abstractmethod
    def leases(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Who holds these jobs now: owner and token of each that is leased, by its id."""

    @abstractmethod
    def peek(self, queue: str, *, scheduled: bool = False, offset: int = 0, limit: int = 100) -> list[Delivery]:
        """What is ready in `queue`, in the order in which it will be claimed; or what waits for its time, next first.

        Given as deliveries that nobody holds (`worker` is ""). Changes nothing.
        """

    @abstractmethod
    def locate(self, job_id: str) -> Whereabouts | None:
        """Where a job stands; None if it is not here, or has ended. Changes nothing."""

    @abstractmethod
    def walk(self, portion: int = 500, *, held: bool = False) -> Iterator[Sequence[Delivery]]:
        """All that waits, of whatever queue and in no order, about so many at a time; with `held` what is leased, too.

        What is there all the while is given, what comes or goes meanwhile may be. Changes nothing.
        """

    @abstractmethod
    def sizes(self, most: int | None = None) -> Mapping[str, QueueSize]:
        """The queues that hold jobs or are set, with their sizes.

        With `most`, a broker to which counting is work looks at so many ready jobs of each queue and at ten times as
        many scheduled ones in all, and a queue may be missing that holds others alone.
        """

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Remove all that waits in `queue`, ready or scheduled. Returns how many."""

    @abstractmethod
    def pause(self, queue: str) -> None:
        """Give out nothing more from `queue`; what runs goes on."""

    @abstractmethod
    def resume(self, queue: str) -> None:
        """End a pause."""

    @abstractmethod
    def is_paused(self, queue: str) -> bool:
        """Whether `queue` gives out nothing for now."""

    @abstractmethod
    def move(
        self, source: str, target: str, *, task: str | None = None, limit: int | None = None
    ) -> Iterator[Sequence[str]]:
        """Move what waits in `source` to `target`, what runs first at first: all, those of `task`, at most `limit`.

        Each keeps its place in the order. Goes on as it is asked for more; gives the ids of each portion.
        """

    @abstractmethod
    def age(self, queue: str, *, step: float, limit: int = 100) -> int:
        """Raise what is ready by one priority for each `step` seconds that it has waited, up to the highest.

        Looks at the `limit` oldest of each priority: those behind them have their turn once these have run. Returns how
        many were raised.
        """

    def oldest(self, queues: Collection[str]) -> dict[str, datetime]:
        """Since when the job of each of these queues has been ready that has been so for longest, if one is.

        Where that cannot be told at little cost, it is the one that runs next.
        """
        first = {queue: self.peek(queue, limit=1) for queue in queues}
        return {
            queue: max(each.created_at, each.message.eta or each.created_at)
            for queue, found in first.items()
            for each in found
            if each.created_at is not None
        }

    def set_default_priorities(self, priorities: Mapping[str, int]) -> None:
        """Take a copy of the default priorities of all queues that have one, for a queue that is not the job table."""

    @property
    def leases_unasked(self) -> bool:
        """Whether a new job may be leased by its row alone, for a moment: none was revoked before it came.

        As this thread's last claim has seen it.
        """
        return True

    def lease(self, deliveries: Sequence[Delivery]) -> None:
        """Take in jobs that never were in a queue, as leased by a first claim. Ids that are known stay as they are."""

    @property
    def reconnects(self) -> int:
        """How often this process has opened a connection: what it knew of its leases may not hold on a new one."""
        return 0

    def holders(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """What `enqueue` would return of these, for those that replace nothing; nothing is sent."""
        return {}

    def unlock(self, messages: Sequence[Message], *, have_ended: bool = False) -> None:
        """Let go of the unique keys of these jobs, which begin, or have ended and keep a key that has a time to go."""

    def pardon(self, ids: Sequence[str]) -> None:
        """Forget that these ids were revoked before they came."""

    def known(self, ids: Sequence[str]) -> set[str]:
        """Which of these ids wait or are leased here."""
        return set(ids)

    def patience(
        self, seconds: float, meanwhile: AbstractContextManager[None] | None = None
    ) -> AbstractContextManager[None]:
        """Within the block this thread waits so long for a server that does not answer, not `BROKER_TIMEOUT`.

        `meanwhile`: what it enters, again and again, while it waits for a server that is not the database.
        """
        return nullcontext()

    def sign_off(self, worker: str) -> None:
        """The worker ends in good order: nobody is to miss its beats."""

    def has_forgotten(self) -> bool:
        """Whether the store has come back, or been emptied, since `remember`: it may not know all that it took."""
        return False

    def remember(self) -> None:
        """What the store may have forgotten has been put right."""

    def check(self) -> tuple[list[str], list[str]]:
        """What is wrong with the server's settings: errors, with which nothing may be queued, and warnings.

        Asks the server. Raises BrokerUnavailable.
        """
        return [], []

    def count_keys(self) -> int:
        """How many keys the store has of ours, beside the tables."""
        return 0

    def erase(self) -> int:
        """Remove all that the store has of ours beside the tables: jobs, leases, limits. Returns how many keys."""
        return 0

    @property
    def one_writer(self) -> bool:
        """Whether the store takes one writer at a time, so that those of one worker had better queue up."""
        return False

    def wakeable(self, queues: Sequence[str], *, worker: str | None = None, limit: int = 1) -> int | None:
        """A file descriptor that becomes readable when `queues` may hold a ready job, for a loop that waits for more.

        None where there is none. Each call is followed by one of `drain_wakeups`, by the same thread. With `worker`
        the broker may look into these queues in their turn at that moment, and lease up to `limit` jobs to it.
        """
        return None

    def drain_wakeups(self) -> list[Delivery] | None:
        """Take what stands in `wakeable`'s descriptor, and wait no more.

        Returns what was leased with it; None if nobody has looked into the queues for us.
        """
        return None

    def watcher(self, queues: Sequence[str]) -> Watcher | None:
        """What tells this thread whether `queues` may hold a ready job, where that costs less than to claim.

        None elsewhere. It is asked as long as no error has come.
        """
        return None

    def close(self) -> None:
        """Close this thread's connections."""
