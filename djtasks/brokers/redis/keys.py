"""Every key of the Redis broker. All stand under one hash tag, so a script may touch several queues at once.

    {prefix}:messages            HASH    id → the message as JSON, never changed but by a retry
    {prefix}:jobs                HASH    id → state, a MessagePack array (see below)
    {prefix}:attempts            HASH    id → JSON list of earlier attempts, of those that had any
    {prefix}:ready:<queue>       ZSET    id by (100 − priority)·2⁴⁵ + order; revoked ones stand before all others
    {prefix}:scheduled:<queue>   ZSET    id by the time at which it is due, µs since 1970
    {prefix}:wake:<queue>        ZSET    one member while something may be claimed: workers block on it (BZPOPMIN)
    {prefix}:queues              SET     names of the queues that hold waiting jobs
    {prefix}:due                 ZSET    queue by the time of its earliest scheduled job, µs
    {prefix}:paused              SET     names of the paused queues
    {prefix}:defaults            HASH    queue → priority of jobs for which nobody chose one; a copy of what rows say
    {prefix}:leases:<owner>      HASH    id → "token queue": an index; whether a lease holds is said by the state
    {prefix}:owners              SET     owners that have leases
    {prefix}:beats               HASH    worker → beat counter
    {prefix}:lost                ZSET    worker by the time (seconds) at which it was declared lost; kept for a day
    {prefix}:tombstones          ZSET    id by the time (seconds) until which its revocation is remembered; a day
    {prefix}:limit:<limit>       HASH    of a rate: last (the slot given last), interval, both µs; else: places
    {prefix}:line:<limit>        ZSET    id of what waits for it by its slot (µs); what waits for a place, as in ready
    {prefix}:holders:<limit>     SET     ids of what holds a place; whether it still does is said by the state
    {prefix}:called:<limit>      ZSET    id by the time (µs) at which a free place was offered to it; for 5 s
    {prefix}:limits              ZSET    limit by the time (seconds) of its last use; for a day
    {prefix}:parked              SET     limits for whose places jobs wait
    {prefix}:unique              HASH    unique key → "id until": of whom while that one waits or runs, and until (µs)
    {prefix}:clock               STRING  the order given last
    {prefix}:server              STRING  run id of the server that the keepers have seen last
    {prefix}:doubt               STRING  there for an hour after the server came back: it may have forgotten acks

State: 1 queue, 2 score, 3 token, 4 losses, 5 refusals, 6 owner ("" while it waits), 7 started early (0, 1),
8 revoked (0, 1), 9 created (µs), 10 when its message was put there (µs), 11 task, 12 the limit that it
waited for last, if any. What waits for a place stands in scheduled, too, at +inf.

The order is in units of 64 µs since 2024, one more than the last one at least: so 2⁴⁵ of them last for 71
years, the score stays a whole number below 2⁵³, and it is FIFO whatever the ids.

Each script but enqueue begins its writing with a command that only removes: a server that is out of memory
lets it go on then, so that the queues can be worked off.
"""

from __future__ import annotations

import re


class Keys:
    """The names of the keys under `prefix`, so that several sites may share a server."""

    def __init__(self, prefix: str) -> None:
        self._tag = f"{{{prefix}}}"
        tag = re.sub(r"([*?\[\]\\])", r"\\\1", self._tag)
        self.pattern = f"{tag}:*"  # of all of them, as SCAN takes it
        self.messages = self._named("messages")
        self.jobs = self._named("jobs")
        self.attempts = self._named("attempts")
        self.queues = self._named("queues")
        self.due = self._named("due")
        self.paused = self._named("paused")
        self.defaults = self._named("defaults")
        self.owners = self._named("owners")
        self.beats = self._named("beats")
        self.lost = self._named("lost")
        self.tombstones = self._named("tombstones")
        self.clock = self._named("clock")
        self.server = self._named("server")
        self.doubt = self._named("doubt")
        self.limits = self._named("limits")
        self.parked = self._named("parked")
        self.unique = self._named("unique")
        self._ready, self._scheduled, self._wake = map(self._named, ("ready:", "scheduled:", "wake:"))
        self.for_sending = [
            self.messages, self.jobs, self.queues, self.due, self.clock, self.tombstones, self.defaults, self.unique
        ]  # fmt: skip

    def of(self, queue: str) -> tuple[str, str, str]:
        """`ready`, `scheduled` and `wake` of a queue."""
        return self._ready + queue, self._scheduled + queue, self._wake + queue

    def ready(self, queue: str) -> str:
        return self._ready + queue

    def scheduled(self, queue: str) -> str:
        return self._scheduled + queue

    def wake(self, queue: str) -> str:
        return self._wake + queue

    def limit(self, limit: str) -> str:
        return self._named(f"limit:{limit}")

    def line(self, limit: str) -> str:
        return self._named(f"line:{limit}")

    def holders(self, limit: str) -> str:
        return self._named(f"holders:{limit}")

    def called(self, limit: str) -> str:
        return self._named(f"called:{limit}")

    def leases(self, owner: str) -> str:
        return self._named(f"leases:{owner}")

    def _named(self, name: str) -> str:
        return f"{self._tag}:{name}"
