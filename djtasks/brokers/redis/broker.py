"""The Redis broker: each step of a job is one Lua script, so nothing can be lost between two."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from math import inf
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeVar

from djtasks.brokers import base
from djtasks.brokers.base import Broker, Loss, QueueSize
from djtasks.brokers.redis.keys import Keys
from djtasks.brokers.redis.requirements import NOT_DURABLE, is_durable, unmet
from djtasks.brokers.redis.server import DOUBT, Refused, Server, facts_of, script
from djtasks.brokers.redis.wakeup import Wakeup
from djtasks.brokers.redis.wire import (
    LOST,
    STATE_FIELD,
    as_field,
    delivery_of,
    doubted,
    rescheduled,
    sent,
    sent_again,
    tokens,
)
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured
from djtasks.masking import masked_url
from djtasks.message import Delivery, Message, portions

BATCH: Final = 500  # jobs a script, so that other clients get their turn
BATCH_SIZE: Final = 4 * 1024 * 1024  # bytes of messages a script
Item = TypeVar("Item")


class RedisBroker(Broker):
    """Keeps the queues on a Redis or Valkey server, under the hash tag `{prefix}`."""

    first_pause = 1.0  # the markers tell of new jobs

    def __init__(self, url: str) -> None:
        super().__init__(url)
        options = settings.BROKER_OPTIONS
        prefix = options.get("prefix", "djtasks")
        if not prefix or set(prefix) & set("{}"):
            raise ImproperlyConfigured(f"BROKER_OPTIONS['prefix'] must be a text without braces, not {prefix!r}.")
        self.keys = Keys(prefix)
        self.server = Server(url, f"{{{prefix}}}", self._greet)
        self._durable = bool(options.get("durable"))
        self._local = threading.local()

    def enqueue(self, messages: Sequence[Message]) -> None:
        for portion in portions(messages, attrgetter("size"), BATCH, BATCH_SIZE):
            queues = sorted({each.queue for each in portion})
            keys = self.keys
            self.server.run(
                "enqueue",
                [keys.messages, keys.jobs, keys.queues, keys.due, keys.clock, keys.tombstones, keys.defaults]
                + [key for queue in queues for key in (keys.ready(queue), keys.scheduled(queue), keys.wake(queue))],
                sent(queues, portion),
                repeated=partial(sent_again, queues, portion),
                durable=self._durable,
            )

    def claim(self, queue: str, *, limit: int, worker: str, refused: Collection[str] = ()) -> list[Delivery]:
        keys = self.keys
        answer = self.server.run_once(
            "claim",
            [
                keys.ready(queue),
                keys.wake(queue),
                keys.messages,
                keys.jobs,
                keys.attempts,
                keys.leases(worker),
                keys.owners,
                keys.paused,
                keys.doubt,
                keys.tombstones,
            ],
            [min(limit, BATCH), worker, queue, *refused],
        )
        self._local.has_tombstones = bool(answer[0] & 2)
        claimed = [delivery_of(job, worker, queue) for job in answer[1:]]
        return [doubted(each) for each in claimed] if answer[0] & 1 else claimed

    @property
    def leases_unasked(self) -> bool:
        return not getattr(self._local, "has_tombstones", True)

    def lease(self, deliveries: Sequence[Delivery]) -> None:
        keys = self.keys
        for worker, group in _by(attrgetter("worker"), deliveries):
            fields = [(m.id, m.to_json(), m.queue, 100 - m.priority, m.task) for m in (each.message for each in group)]
            self.server.run(
                "lease",
                [keys.messages, keys.jobs, keys.leases(worker), keys.owners, keys.clock, keys.tombstones],
                [worker, *(value for each in fields for value in each)],
            )

    def forget_claims(self, worker: str, *, but: Collection[str]) -> int:
        leases = self._leases(worker)
        return sum(
            self._release(worker, queue, [lease for lease in group if lease[0] not in but])
            for queue, group in _by(itemgetter(2), leases)
        )

    def start(self, deliveries: Sequence[Delivery]) -> list[str]:
        held: list[str] = []
        for worker, group in _by(attrgetter("worker"), deliveries):
            answer = self.server.run("start", [self.keys.jobs], [worker, *tokens(group)])
            held += [job_id.decode() for job_id in answer]
        return held

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        keys = self.keys
        for worker, group in _by(attrgetter("worker"), deliveries):
            for portion in _slices(group):
                self.server.run(
                    "ack",
                    [keys.messages, keys.jobs, keys.attempts, keys.leases(worker), keys.owners],
                    [worker, *tokens(portion)],
                )

    def release(self, deliveries: Sequence[Delivery], *, delay: float = 0.0, count: base.Count | None = None) -> None:
        for (worker, queue), group in _by(lambda each: (each.worker, each.message.queue), deliveries):
            leases = [(each.id, each.token, queue) for each in group]
            self._release(worker, queue, leases, delay, count)

    def reschedule(self, deliveries: Sequence[tuple[Delivery, Message]]) -> None:
        keys = self.keys
        for (worker, queue), group in _by(lambda pair: (pair[0].worker, pair[1].queue), deliveries):
            self.server.run(
                "reschedule",
                [
                    keys.messages,
                    keys.jobs,
                    keys.attempts,
                    keys.leases(worker),
                    keys.owners,
                    keys.queues,
                    keys.due,
                    keys.clock,
                    keys.ready(queue),
                    keys.scheduled(queue),
                    keys.wake(queue),
                    keys.defaults,
                ],
                [worker, queue, *rescheduled(group)],
                durable=self._durable,
            )

    def promote(self, *, limit: int = 1000) -> int:
        keys = self.keys
        promoted = 0
        for name in self.server.run("due", [keys.due], [100]):
            if promoted >= limit:
                break
            queue = name.decode()
            promoted += self.server.run(
                "promote",
                [keys.jobs, keys.due, keys.queues, keys.scheduled(queue), keys.ready(queue), keys.wake(queue)],
                [queue, limit - promoted],
            )
        return promoted

    def queues(self) -> list[str]:
        names = self._names(self.keys.queues)
        ready = self._counts([self.keys.ready(name) for name in names])
        for name, count in zip(names, ready, strict=True):
            if not count:
                key = self.keys
                self.server.run("retire", [key.queues, key.ready(name), key.scheduled(name)], [name])
        return [name for name, count in zip(names, ready, strict=True) if count]

    def beat(self, workers: Sequence[str]) -> set[str]:
        return {each.decode() for each in self.server.run("beat", [self.keys.beats, self.keys.lost], workers)}

    def beats(self) -> Mapping[str, int]:
        return {worker: int(count) for worker, count in self._hash(self.keys.beats)}

    def sign_off(self, worker: str) -> None:
        self.server.ask("HDEL", self.keys.beats, worker)

    def owners(self) -> set[str]:
        return set(self._names(self.keys.owners))

    def rescue(self, losses: Sequence[Loss], *, rescuer: str) -> list[Delivery]:
        ended: list[Delivery] = []
        for loss in losses:
            if loss.beat is not None and not self._declare_lost(loss):
                continue
            owners = [loss.worker] if loss.beat is None else self._owners_of(loss.worker)
            leases = {owner: self._leases(owner) for owner in owners}
            alone = loss.known or sum(map(len, leases.values())) == 1
            for owner, leased in leases.items():
                for portion in _slices(leased):
                    ended += self._rescue(loss, owner, portion, rescuer, alone)
        return ended

    def wait(self, queues: Sequence[str], *, timeout: float) -> None:
        select.select([descriptor] if (descriptor := self.wakeable(queues)) is not None else [], [], [], timeout)
        self.drain_wakeups()

    def wakeable(self, queues: Sequence[str]) -> int | None:
        return self._wakeup().fileno([self.keys.wake(queue) for queue in queues]) if queues else None

    def drain_wakeups(self) -> None:
        self._wakeup().drain()

    def cancel(self, ids: Sequence[str]) -> int:
        return sum(self._cancel(portion) for portion in _slices(ids))

    def _cancel(self, ids: Sequence[str]) -> int:
        keys = self.keys
        places = self.server.run("bury", [keys.jobs, keys.tombstones], ids)
        known = [(job_id, place.decode()) for job_id, place in zip(ids, places, strict=True) if place]
        return sum(
            self.server.run(
                "cancel",
                [keys.jobs, keys.queues, keys.ready(queue), keys.scheduled(queue), keys.wake(queue)],
                [queue, *(job_id for job_id, _ in group)],
            )
            for queue, group in _by(itemgetter(1), known)
        )

    def leases(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        held: dict[str, tuple[str, int]] = {}
        for portion in _slices(ids):
            answer = self.server.run("leased", [self.keys.jobs], portion)
            for job_id, owner, token in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
                held[job_id.decode()] = owner.decode(), token
        return held

    @property
    def reconnects(self) -> int:
        return self.server.reconnects

    def pardon(self, ids: Sequence[str]) -> None:
        if ids:
            self.server.ask("ZREM", self.keys.tombstones, *ids)

    def known(self, ids: Sequence[str]) -> set[str]:
        if not ids:
            return set()
        states = self.server.ask("HMGET", self.keys.jobs, *ids)
        return {job_id for job_id, state in zip(ids, states, strict=True) if state}

    def peek(self, queue: str, *, scheduled: bool = False, offset: int = 0, limit: int = 100) -> list[Delivery]:
        keys = self.keys
        place = keys.scheduled(queue) if scheduled else keys.ready(queue)
        jobs = self.server.run(
            "peek", [place, keys.messages, keys.jobs, keys.attempts], [offset, offset + min(limit, BATCH) - 1]
        )
        return [delivery_of(job, "", queue) for job in jobs] if limit > 0 else []

    def sizes(self) -> Mapping[str, QueueSize]:
        running: dict[str, int] = {}
        for owner in self.owners():
            for _id, _token, queue in self._leases(owner):
                running[queue] = running.get(queue, 0) + 1
        paused = set(self._names(self.keys.paused))
        names = sorted({*self._names(self.keys.queues), *running, *paused})
        ready = self._counts([self.keys.ready(name) for name in names])
        scheduled = self._counts([self.keys.scheduled(name) for name in names])
        sizes = {
            name: QueueSize(ready[at], scheduled[at], running.get(name, 0), name in paused)
            for at, name in enumerate(names)
        }
        return {name: size for name, size in sizes.items() if size != QueueSize(0, 0, 0)}

    def purge(self, queue: str) -> int:
        keys = self.keys
        places = [keys.ready(queue), keys.scheduled(queue), keys.wake(queue)]
        purged = 0
        while count := self.server.run(
            "purge", [keys.messages, keys.jobs, keys.attempts, keys.due, *places], [queue, BATCH]
        ):
            purged += count
        return purged

    def pause(self, queue: str) -> None:
        self.server.ask("SADD", self.keys.paused, queue)

    def resume(self, queue: str) -> None:
        self.server.run("resume", [self.keys.paused, self.keys.ready(queue), self.keys.wake(queue)], [queue])

    def move(
        self, source: str, target: str, *, task: str | None = None, limit: int | None = None
    ) -> Iterator[Sequence[str]]:
        keys = self.keys
        left = inf if limit is None else limit
        for scheduled, place in enumerate((keys.ready, keys.scheduled)):
            offset, found = 0, BATCH
            while found == BATCH and left > 0:
                most = int(min(BATCH, left))
                found, *ids = self.server.run_once(
                    "move",
                    [keys.messages, keys.jobs, keys.queues, keys.due, place(source), place(target), keys.wake(target)],
                    [source, target, as_field(source), as_field(target), offset, BATCH, task or "", scheduled, most],
                )
                offset, left = offset + found - len(ids), left - len(ids)
                if ids:
                    yield [each.decode() for each in ids]

    def age(self, queue: str, *, step: float, limit: int = 100) -> int:
        keys = [self.keys.ready(queue), self.keys.jobs]
        return int(self.server.run("age", keys, [round(step * 1_000_000), limit]))

    def set_default_priorities(self, priorities: Mapping[str, int]) -> None:
        self.server.run("defaults", [self.keys.defaults], [value for each in priorities.items() for value in each])

    def has_forgotten(self) -> bool:
        seen = self.server.ask("GET", self.keys.server)
        return bool(seen is None or seen.decode() != self.server.facts("server").get("run_id"))

    def remember(self) -> None:
        self.server.run("note", [self.keys.server], [self.server.facts("server").get("run_id", ""), 0])

    def check(self) -> tuple[list[str], list[str]]:
        try:
            facts = self.server.facts()
            self.server.run("due", [self.keys.due], [1])
            never_syncs = self._durable and self._setting("appendfsync") == "no"
        except Refused as error:
            return [str(error)], []
        return unmet(facts, never_syncs=never_syncs)

    def close(self) -> None:
        wakeup: Wakeup | None = getattr(self._local, "wakeup", None)
        if wakeup is not None:
            wakeup.close()
        self.server.close()

    def _setting(self, name: str) -> str:
        """One of the server's settings; "" where we may not ask."""
        try:
            return str(self.server.ask("CONFIG", "GET", name)[1].decode())
        except (BrokerUnavailable, IndexError):
            return ""

    def patience(self, seconds: float) -> AbstractContextManager[None]:
        return self.server.patience(seconds)

    def _greet(self, ask: Callable[..., Any]) -> None:
        """On a new connection: a server that is not the one seen last may have lost what it acknowledged (rule 14).

        One that cannot promise what `durable` asks for is refused before it gets a job.
        """
        facts = facts_of(ask("INFO"))
        if self._durable and not is_durable(facts):
            raise Refused(f"{masked_url(self.url)}: {NOT_DURABLE}")
        seen = ask("GET", self.keys.server)
        if seen is not None and seen.decode() != facts.get("run_id"):
            ask("EVAL", script("note")[0], 1, self.keys.doubt, 1, DOUBT)

    def _wakeup(self) -> Wakeup:
        wakeup: Wakeup | None = getattr(self._local, "wakeup", None)
        if wakeup is None:
            wakeup = self._local.wakeup = Wakeup(self.server)
        return wakeup

    def _release(
        self,
        worker: str,
        queue: str,
        leases: Sequence[tuple[str, int, str]],
        delay: float = 0.0,
        count: base.Count | None = None,
    ) -> int:
        keys = self.keys
        return sum(
            self.server.run(
                "release",
                [
                    keys.jobs,
                    keys.leases(worker),
                    keys.owners,
                    keys.queues,
                    keys.due,
                    keys.ready(queue),
                    keys.scheduled(queue),
                    keys.wake(queue),
                ],
                [worker, queue, round(delay * 1_000_000), STATE_FIELD[count]]
                + [value for job_id, token, _queue in portion for value in (job_id, token)],
            )
            for portion in _slices(leases)
        )

    def _rescue(
        self, loss: Loss, owner: str, leases: Sequence[tuple[str, int, str]], rescuer: str, alone: bool
    ) -> list[Delivery]:
        keys = self.keys
        queues = sorted({queue for _id, _token, queue in leases})
        begun, token = loss.started or ("", 0)
        jobs = self.server.run_once(
            "rescue",
            [
                keys.messages,
                keys.jobs,
                keys.attempts,
                keys.leases(owner),
                keys.leases(rescuer),
                keys.owners,
                keys.queues,
                *(key for queue in queues for key in (keys.ready(queue), keys.wake(queue))),
            ],
            [owner, rescuer, settings.TASK_MAX_LOSSES, int(loss.known), int(alone), begun, token, int(loss.final)]
            + [len(queues), *queues]
            + [value for job_id, held, _queue in leases for value in (job_id, LOST % (held, owner))],
        )
        return [delivery_of(job, rescuer, "") for job in jobs]

    def _declare_lost(self, loss: Loss) -> bool:
        return bool(self.server.run_once("lose", [self.keys.beats, self.keys.lost], [loss.worker, loss.beat]))

    def _owners_of(self, worker: str) -> list[str]:
        return sorted(owner for owner in self.owners() if owner == worker or owner.startswith(f"{worker}."))

    def _leases(self, owner: str) -> list[tuple[str, int, str]]:
        """Id, token and queue of what `owner` has leased."""
        leases = []
        for job_id, lease in self._hash(self.keys.leases(owner)):
            token, _, queue = lease.partition(" ")
            leases.append((job_id, int(token), queue))
        return leases

    def _hash(self, key: str) -> Iterator[tuple[str, str]]:
        flat = [each.decode() for each in self.server.ask("HGETALL", key)]
        return zip(flat[::2], flat[1::2], strict=True)

    def _names(self, key: str) -> list[str]:
        return sorted(each.decode() for each in self.server.ask("SMEMBERS", key))

    def _counts(self, keys: Sequence[str]) -> list[int]:
        return [count for portion in _slices(keys) for count in self.server.run("count", portion, [])]


def _by(key: Callable[[Item], Any], items: Iterable[Item]) -> list[tuple[Any, list[Item]]]:
    return [(name, list(group)) for name, group in groupby(sorted(items, key=key), key)]


def _slices(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))
