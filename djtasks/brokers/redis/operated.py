"""What stands in the queues on a Redis server, as operators see and change it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import inf, isfinite
from operator import itemgetter
from typing import Any, Final, TypeVar

from djtasks.brokers.base import Broker, QueueSize, Whereabouts
from djtasks.brokers.redis.keys import Keys
from djtasks.brokers.redis.server import Server
from djtasks.brokers.redis.wire import as_field, delivery_of
from djtasks.message import Delivery, moment

BATCH: Final = 500  # jobs a script, so that other clients get their turn
Item = TypeVar("Item")


class OperatedQueues(Broker):
    """The operator's part of the Redis broker."""

    keys: Keys
    server: Server

    def owners(self) -> set[str]:
        return set(self._names(self.keys.owners))

    def cancel(self, ids: Sequence[str]) -> int:
        return sum(self._cancel(portion) for portion in slices(ids))

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
            for queue, group in grouped(itemgetter(1), known)
        )

    def hasten(self, ids: Sequence[str]) -> list[str]:
        keys = self.keys
        made: list[bytes] = []
        for portion in slices(ids):
            places = self.server.run("place", [keys.jobs], portion)
            known = [(job_id, place.decode()) for job_id, place in zip(portion, places, strict=True) if place]
            for queue, group in grouped(itemgetter(1), known):
                chosen = [job_id for job_id, _ in group]
                made += self.server.run("hasten", [keys.due, keys.scheduled(queue)], [queue, *chosen])
            self.promote()
        return [job_id.decode() for job_id in made]

    def leases(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        held: dict[str, tuple[str, int]] = {}
        for portion in slices(ids):
            answer = self.server.run("leased", [self.keys.jobs], portion)
            for job_id, owner, token in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
                held[job_id.decode()] = owner.decode(), token
        return held

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

    def locate(self, job_id: str) -> Whereabouts | None:
        keys = self.keys
        (place,) = self.server.run("place", [keys.jobs], [job_id])
        queue = place.decode()
        stores = [keys.messages, keys.jobs, keys.attempts, keys.ready(queue), keys.scheduled(queue), keys.paused]
        answer = self.server.run("locate", stores, [job_id, queue]) if queue else None
        if not answer:
            return None
        job, owner, before, due, is_paused = answer
        return Whereabouts(
            delivery=delivery_of(job, owner.decode(), queue),
            before=before if before >= 0 else None,
            due_at=moment(int(float(due)))
            if due and isfinite(float(due))
            else None,  # who waits for a place has no time
            is_paused=bool(is_paused),
        )

    def walk(self, portion: int = 500, *, held: bool = False) -> Iterator[Sequence[Delivery]]:
        cursor = b"0"
        while True:
            stores = [self.keys.messages, self.keys.jobs, self.keys.attempts]
            cursor, *jobs = self.server.run("walk", stores, [cursor, portion, int(held)])
            if jobs:
                yield [delivery_of(job, "", "") for job in jobs]
            if cursor == b"0":
                return

    def sizes(self, most: int | None = None) -> Mapping[str, QueueSize]:
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

    def is_paused(self, queue: str) -> bool:
        return bool(self.server.ask("SISMEMBER", self.keys.paused, queue))

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

    def count_keys(self) -> int:
        return sum(map(len, self._all_keys()))

    def erase(self) -> int:
        return sum(self.server.ask("UNLINK", *names) for names in self._all_keys() if names)

    def _all_keys(self) -> Iterator[list[bytes]]:
        cursor = b""
        while cursor != b"0":
            cursor, names = self.server.ask("SCAN", cursor or b"0", "MATCH", self.keys.pattern, "COUNT", BATCH)
            yield names

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
        return [count for portion in slices(keys) for count in self.server.run("count", portion, [])]


def grouped(key: Callable[[Item], Any], items: Iterable[Item]) -> list[tuple[Any, list[Item]]]:
    return [(name, list(group)) for name, group in groupby(sorted(items, key=key), key)]


def slices(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))
