"""Rates and concurrency limits where the queues are in Redis.

A place is held as long as the job's state says that it is leased: what a dead worker held is found by `fill_places`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from djtasks.brokers.base import FARTHEST, NEXT_TRY, LimitStanding
from djtasks.brokers.redis.keys import Keys
from djtasks.brokers.redis.server import Server
from djtasks.message import CONCURRENCY, RATE, Delivery, Grant, Wait, moment

SECOND: Final = 1_000_000  # µs
BATCH: Final = 500


class Limiting:
    """The limits under `keys` on `server`."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self.server = server
        self.keys = keys

    def defer(
        self, deliveries: Sequence[Delivery], key: str, interval: float, ahead: float, most: int
    ) -> list[Delivery]:
        limit, step = RATE + key, round(interval * SECOND)
        granted: list[Delivery] = []
        for queue, group in _by_queue(deliveries):
            turns = [int(any(grant.limit == limit for grant in each.grants)) for each in group]
            asked = time.monotonic()
            changed, *answer = self.server.run_once(
                "reserve",
                [*self._places_of(group[0].worker, queue), *self._keys_of(limit)],
                [group[0].worker, queue, limit, step, most - len(granted)]
                + [round(seconds * SECOND) for seconds in (ahead, ahead / 2, NEXT_TRY, max(ahead, FARTHEST))]
                + [value for each, turn in zip(group, turns, strict=True) for value in (each.id, each.token, turn)],
            )
            answered = time.monotonic()
            deferred = []
            for each, slot, wait in zip(group, answer[::2], answer[1::2], strict=True):
                if wait >= 0:
                    start = answered + wait / SECOND
                    granted.append(_with(each, Grant(limit, slot, step, start, answered - asked)))
                else:
                    deferred.append(each)
            self.give_back(deferred, begun=True)
            if changed:
                self.recall(limit)
        return granted

    def take_places(self, deliveries: Sequence[Delivery], key: str, places: int, most: int) -> list[Delivery]:
        limit = CONCURRENCY + key
        taken: list[Delivery] = []
        for queue, group in _by_queue(deliveries):
            left, *ids = self.server.run_once(
                "take",
                [
                    *self._places_of(group[0].worker, queue),
                    *self._keys_of(limit),
                    self.keys.holders(limit),
                    self.keys.called(limit),
                    self.keys.parked,
                ],
                [group[0].worker, queue, limit, places, most - len(taken), round(NEXT_TRY * SECOND)]
                + [value for each in group for value in (each.id, each.token)],
            )
            here = {each.decode() for each in ids}
            taken += [_with(each, Grant(limit)) for each in group if each.id in here]
            if left:
                self._fill(limit, most=left)
        return taken

    def give_back(self, deliveries: Iterable[Delivery], *, begun: bool) -> None:
        """Free the places of these, whose leases have ended; what has not begun leaves its slot, too."""
        places: dict[str, list[str]] = {}
        for each in deliveries:
            for grant in each.grants:
                if grant.limit.startswith(CONCURRENCY):
                    places.setdefault(grant.limit, []).append(each.id)
                elif not begun:
                    keys = [self.keys.limit(grant.limit), self.keys.line(grant.limit)]
                    self.server.run("leave", keys, [each.id, grant.slot, grant.interval])
        for limit, ids in places.items():
            self._fill(limit, ids, comes_again=not begun)

    def fill_places(self) -> int:
        limits = [each.decode() for each in self.server.ask("SMEMBERS", self.keys.parked)]
        return sum(self._fill(limit, looks=True) for limit in sorted(limits))

    def _fill(
        self, limit: str, ids: Sequence[str] = (), *, looks: bool = False, comes_again: bool = False, most: int = BATCH
    ) -> int:
        keys = self.keys
        found = self.server.run(
            "free",
            [keys.jobs, keys.limit(limit), keys.line(limit), keys.holders(limit), keys.called(limit), keys.parked],
            [limit, int(looks), most, int(comes_again), *ids],
        )
        return self._call(limit, found)

    def recall(self, limit: str) -> int:
        count = 0
        while found := self.server.run("recall", [self.keys.jobs, self.keys.line(limit)], [BATCH]):
            count += self._call(limit, found)
        return count

    def _call(self, limit: str, found: Sequence[bytes]) -> int:
        keys = self.keys
        pairs = [(queue.decode(), job_id) for job_id, queue in zip(found[::2], found[1::2], strict=True)]
        return sum(
            self.server.run(
                "call",
                [
                    keys.jobs,
                    keys.queues,
                    keys.scheduled(queue),
                    keys.ready(queue),
                    keys.wake(queue),
                    keys.line(limit),
                    keys.called(limit),
                ],
                [queue, *(job_id for _queue, job_id in group)],
            )
            for queue, group in _grouped(pairs)
        )

    def standings(self) -> list[LimitStanding]:
        keys, ask = self.keys, self.server.ask
        limits = [each.decode() for each in ask("ZRANGE", keys.limits, 0, -1)]
        for limit in limits:
            if ask("EXISTS", keys.holders(limit)):
                self._fill(limit, looks=True)  # a holder that was killed and does not come again says nothing
        return [
            LimitStanding(
                limit,
                waiting=ask("ZCARD", keys.line(limit)),
                holding=ask("SCARD", keys.holders(limit)),
                last_slot=int(float(ask("HGET", keys.limit(limit), "last") or 0)),
            )
            for limit in sorted(limits)
        ]

    def waits(self, ids: Sequence[str]) -> dict[str, Wait]:
        limits = self.server.run("waits", [self.keys.jobs], ids) if ids else []
        found: dict[str, Wait] = {}
        for job_id, name in zip(ids, limits, strict=True):
            limit = name.decode()
            score = self.server.ask("ZSCORE", self.keys.line(limit), job_id) if limit else None
            if score is not None:
                found[job_id] = Wait(limit, moment(int(float(score))) if limit.startswith(RATE) else None)
        return found

    def _places_of(self, worker: str, queue: str) -> list[str]:
        keys = self.keys
        return [keys.jobs, keys.leases(worker), keys.owners, keys.queues, keys.due, keys.scheduled(queue)]

    def _keys_of(self, limit: str) -> list[str]:
        return [self.keys.limit(limit), self.keys.line(limit), self.keys.limits]


def _with(delivery: Delivery, grant: Grant) -> Delivery:
    others = tuple(each for each in delivery.grants if each.limit != grant.limit)
    return replace(delivery, grants=(*others, grant))


def _by_queue(deliveries: Sequence[Delivery]) -> Iterator[tuple[str, list[Delivery]]]:
    """By queue, each in its order."""
    for queue, group in groupby(
        sorted(deliveries, key=lambda each: each.message.queue), lambda each: each.message.queue
    ):
        yield queue, list(group)


def _grouped(pairs: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Iterator[tuple[str, Any]]]]:
    yield from groupby(sorted(pairs, key=itemgetter(0)), itemgetter(0))
