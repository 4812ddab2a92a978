"""The Redis broker: each step of a job is one Lua script, so nothing can be lost between two."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, Final
from urllib.parse import urlsplit

from djtasks.brokers import base
from djtasks.brokers.base import LimitStanding, Loss
from djtasks.brokers.redis.keeping import Keeping
from djtasks.brokers.redis.keys import Keys
from djtasks.brokers.redis.limiting import Limiting
from djtasks.brokers.redis.operated import BATCH, OperatedQueues, grouped, slices
from djtasks.brokers.redis.requirements import NOT_DURABLE, is_durable, unmet
from djtasks.brokers.redis.server import DOUBT, Refused, Server, facts_of, script
from djtasks.brokers.redis.wakeup import Wakeup
from djtasks.brokers.redis.wire import (
    LOST,
    STATE_FIELD,
    delivery_of,
    doubted,
    rescheduled,
    sent,
    sent_again,
    time_of,
    tokens,
)
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured
from djtasks.masking import masked_url
from djtasks.message import Delivery, Message, Wait, portions

BATCH_SIZE: Final = 4 * 1024 * 1024  # bytes of messages a script


class RedisBroker(OperatedQueues):
    """Keeps the queues on a Redis or Valkey server, under the hash tag `{prefix}`."""

    first_pause = 1.0  # the markers tell of new jobs

    def __init__(self, url: str) -> None:
        super().__init__(url)
        options = settings.BROKER_OPTIONS
        prefix = options.get("prefix", "djtasks")
        if not prefix or set(prefix) & set("{}"):
            raise ImproperlyConfigured(f"BROKER_OPTIONS['prefix'] must be a text without braces, not {prefix!r}.")
        self.keys = Keys(prefix)
        self._keeping = Keeping(options.get("durable", False), options.get("replicas", 0))
        self._run_id: str | None = None  # of the server that was greeted last
        self.server = Server(url, f"{{{prefix}}}", self._greet)
        self.limiting = Limiting(self.server, self.keys)
        self._local = threading.local()
        self._has_tombstones = True  # when this process claimed last

    def enqueue(self, messages: Sequence[Message]) -> Mapping[str, str]:
        holders: dict[str, str] = {}
        for portion in portions(messages, attrgetter("size"), BATCH, BATCH_SIZE):
            queues = sorted({each.queue for each in portion})
            dropped = self.server.run(
                "enqueue",
                [*self.keys.for_sending, *chain.from_iterable(map(self.keys.of, queues))],
                sent(queues, portion),
                repeated=partial(sent_again, queues, portion),
                keeping=self._keeping,
            )
            if dropped:
                found = [each.decode() for each in dropped]
                holders.update(zip(found[::2], found[1::2], strict=True))
        for message in messages if holders else ():
            if message.id in holders and message.uniqueness.replaces:
                self._replace(replace(message, id=holders[message.id]))
        return holders

    def _replace(self, message: Message) -> None:
        keys, queue = self.keys, message.queue
        self.server.run(
            "replace",
            [
                keys.messages,
                keys.jobs,
                keys.queues,
                keys.due,
                keys.clock,
                keys.defaults,
                keys.ready(queue),
                keys.scheduled(queue),
                keys.wake(queue),
            ],
            [message.id, queue, message.to_json(), 100 - message.priority, time_of(message), int(message.prioritized)],
            keeping=self._keeping,
        )

    def holders(self, messages: Sequence[Message]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for each in messages:
            if each.unique_key is not None and not each.uniqueness.replaces:
                held = self.server.ask("HGET", self.keys.unique, each.unique_key)
                holder, _, lasts = held.decode().rpartition(" ") if held else ("", "", "0")
                if holder not in ("", each.id) and (int(lasts) > time.time() * 1_000_000 or self.known([holder])):
                    found[each.id] = holder
        return found

    def unlock(self, messages: Sequence[Message], *, have_ended: bool = False) -> None:
        pairs = [value for each in messages if each.unique_key for value in (each.unique_key, each.id)]
        if pairs:
            self.server.run("unlock", [self.keys.unique], [int(have_ended), *pairs])

    def claim(
        self, queue: str, *, limit: int, worker: str, refused: Collection[str] = (), only: str | None = None
    ) -> list[Delivery]:
        question = self._claim([queue], limit, worker, only or "", refused)
        return self._claimed(self.server.run_once("claim", *question), worker, [queue])

    def _claim(
        self, queues: Sequence[str], limit: int, worker: str, only: str = "", refused: Collection[str] = ()
    ) -> tuple[list[str], list[Any]]:
        """Keys and arguments of the script `claim`."""
        keys = self.keys
        return [
            keys.messages,
            keys.jobs,
            keys.attempts,
            keys.leases(worker),
            keys.owners,
            keys.paused,
            keys.doubt,
            keys.tombstones,
            *(key for queue in queues for key in (keys.ready(queue), keys.wake(queue))),
        ], [min(limit, BATCH), worker, only, len(queues), *queues, *refused]

    def _claimed(self, answer: Sequence[Any], worker: str, queues: Sequence[str]) -> list[Delivery]:
        """What that script has leased."""
        self._has_tombstones = bool(answer[0] & 2)
        claimed = [delivery_of(job, worker, queues[number - 1]) for number, *job in answer[1:]]
        return [doubted(each) for each in claimed] if answer[0] & 1 else claimed

    @property
    def leases_unasked(self) -> bool:
        return not self._has_tombstones

    def lease(self, deliveries: Sequence[Delivery]) -> None:
        keys = self.keys
        for worker, group in grouped(attrgetter("worker"), deliveries):
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
            for queue, group in grouped(itemgetter(2), leases)
        )

    def revoked(self, ids: Sequence[str]) -> set[str]:
        portions = (self.server.run("revoked", [self.keys.jobs], portion) for portion in slices(ids))
        return {job_id.decode() for found in portions for job_id in found}

    def start(self, deliveries: Sequence[Delivery]) -> list[str]:
        held: list[str] = []
        for worker, group in grouped(attrgetter("worker"), deliveries):
            answer = self.server.run("start", [self.keys.jobs], [worker, *tokens(group)])
            held += [job_id.decode() for job_id in answer]
        return held

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        keys = self.keys
        for worker, group in grouped(attrgetter("worker"), deliveries):
            for portion in slices(group):
                self.server.run(
                    "ack",
                    [keys.messages, keys.jobs, keys.attempts, keys.leases(worker), keys.owners],
                    [worker, *tokens(portion)],
                )
        self._give_back(deliveries, begun=True)
        self.unlock([each.message for each in deliveries if each.message.unique_key], have_ended=True)

    def _give_back(self, deliveries: Sequence[Delivery], *, begun: bool) -> None:
        if limited := [each for each in deliveries if each.grants]:
            self.limiting.give_back(limited, begun=begun)

    def release(self, deliveries: Sequence[Delivery], *, delay: float = 0.0, count: base.Count | None = None) -> None:
        for (worker, queue), group in grouped(lambda each: (each.worker, each.message.queue), deliveries):
            leases = [(each.id, each.token, queue) for each in group]
            self._release(worker, queue, leases, delay, count)
        self._give_back(deliveries, begun=count is not None)

    def reschedule(self, deliveries: Sequence[tuple[Delivery, Message]]) -> None:
        keys = self.keys
        for (worker, queue), group in grouped(lambda pair: (pair[0].worker, pair[1].queue), deliveries):
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
                keeping=replace(self._keeping, replicas=0),  # a retry has its row
            )
        self._give_back([delivery for delivery, _message in deliveries], begun=True)

    def defer(
        self, deliveries: Sequence[Delivery], key: str, interval: float, *, ahead: float, most: int
    ) -> list[Delivery]:
        return self.limiting.defer(deliveries, key, interval, ahead, most)

    def take_places(self, deliveries: Sequence[Delivery], key: str, places: int, *, most: int) -> list[Delivery]:
        return self.limiting.take_places(deliveries, key, places, most)

    def recall(self, limit: str) -> int:
        return self.limiting.recall(limit)

    def fill_places(self) -> int:
        return self.limiting.fill_places()

    def limits(self) -> list[LimitStanding]:
        return self.limiting.standings()

    def waits(self, ids: Sequence[str]) -> dict[str, Wait]:
        return self.limiting.waits(ids)

    def until_due(self) -> float | None:
        microseconds = self.server.run("until_due", [self.keys.due], [])
        return None if microseconds is None else microseconds / 1e6

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

    def rescue(self, losses: Sequence[Loss], *, rescuer: str) -> list[Delivery]:
        ended: list[Delivery] = []
        for loss in losses:
            if loss.beat is not None and not self._declare_lost(loss):
                continue
            owners = [loss.worker] if loss.beat is None else self._owners_of(loss.worker)
            leases = {owner: self._leases(owner) for owner in owners}
            alone = loss.was_alone(sum(map(len, leases.values())))
            for owner, leased in leases.items():
                for portion in slices(leased):
                    ended += self._rescue(loss, owner, portion, rescuer, alone)
        return ended

    def wait(self, queues: Sequence[str], *, timeout: float) -> None:
        select.select([descriptor] if (descriptor := self.wakeable(queues)) is not None else [], [], [], timeout)
        self.drain_wakeups()

    def wakeable(self, queues: Sequence[str], *, worker: str | None = None, limit: int = 1) -> int | None:
        if not queues:
            return None
        wakeup = self._wakeup()
        claim: Sequence[Any] = ()
        if worker is not None and not wakeup.is_open:
            claim = self.server.command("claim", *self._claim(queues, limit, worker))
            self._local.claim = worker, queues
        return wakeup.fileno([self.keys.wake(queue) for queue in queues], claim)

    def drain_wakeups(self) -> list[Delivery] | None:
        answer = self._wakeup().drain()
        return None if answer is None else self._claimed(answer, *self._local.claim)

    @property
    def reconnects(self) -> int:
        return self.server.reconnects

    def has_forgotten(self) -> bool:
        seen = self.server.ask("GET", self.keys.server)  # a server that was restarted has been greeted before that
        return bool(seen is None or seen.decode() != self._run_id)

    def remember(self) -> None:
        self.server.run("note", [self.keys.server], [self.server.facts("server").get("run_id", ""), 0])

    def check(self) -> tuple[list[str], list[str]]:
        try:
            facts = self.server.facts()
            self.server.run("due", [self.keys.due], [1])
            never_syncs = self._keeping.durable and self._setting("appendfsync") == "no"
        except Refused as error:
            return [str(error)], []
        is_cluster = urlsplit(self.url).scheme.endswith("+cluster")
        return unmet(facts, never_syncs=never_syncs, replicas=self._keeping.replicas, is_cluster=is_cluster)

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

    def patience(
        self, seconds: float, meanwhile: AbstractContextManager[None] | None = None
    ) -> AbstractContextManager[None]:
        return self.server.patience(seconds, meanwhile)

    def _greet(self, ask: Callable[..., Any]) -> None:
        """On a new connection: a server that is not the one seen last may have lost what it acknowledged (rule 14).

        One that cannot promise what `durable` asks for is refused before it gets a job.
        """
        facts = facts_of(ask("INFO"))
        self._run_id = facts.get("run_id")
        if self._keeping.durable and not is_durable(facts):
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
            for portion in slices(leases)
        )

    def _rescue(
        self, loss: Loss, owner: str, leases: Sequence[tuple[str, int, str]], rescuer: str, alone: bool
    ) -> list[Delivery]:
        keys = self.keys
        queues = sorted({queue for _id, _token, queue in leases})
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
            [owner, rescuer, settings.TASK_MAX_LOSSES, int(loss.known), int(alone), int(loss.final)]
            + [len(queues), *queues]
            + [len(loss.started), *(value for each in loss.started for value in each)]
            + [value for job_id, held, _queue in leases for value in (job_id, LOST % (held, owner))],
        )
        return [delivery_of(job, rescuer, "") for job in jobs]

    def _declare_lost(self, loss: Loss) -> bool:
        return bool(self.server.run_once("lose", [self.keys.beats, self.keys.lost], [loss.worker, loss.beat]))

    def _owners_of(self, worker: str) -> list[str]:
        return sorted(owner for owner in self.owners() if owner == worker or owner.startswith(f"{worker}."))
