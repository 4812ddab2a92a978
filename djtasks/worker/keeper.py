"""The process that keeps the worker: it runs no user code, so nothing of the user's can stall it.

It beats for all children, rescues what dead ones held, watches the other workers' beats, makes due
jobs ready and sends what was left in the outbox. Beat, which sends what schedules are due, runs in a thread
beside it: routers and signals are the user's code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.models import Q

import djtasks
from djtasks import outbox, registry, restraint, signals, states
from djtasks.beat import Beat
from djtasks.brokers import get_broker
from djtasks.brokers.base import Loss
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.half_open import Waiting, waiting_here
from djtasks.models import Job, Limit, Queue, Worker, statements
from djtasks.models.fields import utc_now
from djtasks.models.job import message_of
from djtasks.reports import Mailer
from djtasks.worker import memory
from djtasks.worker.counters import counters_of
from djtasks.worker.endings import ended_from_outside
from djtasks.worker.ledger import Ledger
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots
from djtasks.worker.watch import Watch

logger = logging.getLogger("djtasks.worker")

PROMOTE_EVERY: Final = 0.1  # seconds, where one scheduled job after another falls due
SCHEDULED_EVERY: Final = 0.25  # seconds between two looks when the next one is due; that moment is kept
CALM_EVERY: Final = 0.5  # the same, of a worker in which no job has ended for a while
CALM_AFTER: Final = 10.0  # seconds
SOONEST: Final = 0.01  # seconds between two turns
LEFT_BEHIND_AFTER: Final = 3.0  # seconds; a child's death is told, with what it ran, well before
LOOK_EVERY: Final = 1.0  # seconds between two looks at what there is to do, at most
RESEND_EVERY: Final = 1.0  # seconds
RESENT_AT_ONCE: Final = 2000  # messages, about, so that the beats do not wait for a long outbox
READ_QUEUES_EVERY: Final = 5.0  # seconds
AGE_EVERY: Final = 1.0  # seconds
DEMAND_EVERY: Final = 0.5  # seconds between two looks whether jobs wait, where the number of children follows that
MEASURE_EVERY: Final = 15.0  # seconds
COMPLAIN_EVERY: Final = 60.0  # seconds
REPORT_EVERY: Final = 5.0  # seconds
STUMBLE_PAUSE: Final = 1.0  # seconds after an error that nobody expected
DEATHS_KEPT: Final = 100  # that are remembered: what a dead process holds locked can be rescued only later
BATCH: Final = 500  # jobs that are sent again at a time


class Keeper:
    """Keeps the worker `worker` (its boot id). `say` sends a word to the supervisor."""

    def __init__(
        self, worker: str, number: int, slots: Slots, options: WorkerOptions, say: Callable[[dict[str, Any]], None]
    ) -> None:
        self.worker = worker
        self.owner = f"{worker}.k{number}"
        self.slots = slots
        self.options = options
        self.broker = get_broker()
        self.ledger = Ledger(self.broker, self.owner, counters=counters_of(options))
        self.beat = Beat() if options.beat else None
        self.mailer = Mailer()
        self.stopping = False
        self.memory: int | None = None  # KiB that the worker takes, as measured last
        self._say = say
        self._losses: list[Loss] = [Loss(f"{worker}.k{each}", known=False) for each in range(number)]
        self._deaths: dict[str, Mapping[str, Any]] = {}  # what was told of the last of our dead, by owner
        self._registered = False
        self._reminded: str | None = None  # up to which id a broker that lost its memory was told; None: it need not be
        self._workers = Watch(settings.WORKER_LOST_AFTER)
        self._owners = Watch(settings.WORKER_LOST_AFTER)
        self._own = Watch(LEFT_BEHIND_AFTER)
        self._silent = Watch(settings.WORKER_LOST_AFTER)
        self._unsent = Watch(outbox.LEFT_BEHIND)
        self._next: dict[str, float] = {}  # what is done now and then → when next (monotonic)
        self._complained = -inf  # when last (monotonic)
        self._failures = 0
        self._waiting: Waiting | None = None  # for the database
        self._pid = os.getppid() if options.forks else os.getpid()  # of the worker
        self._aging: Mapping[str, float] = {}  # queue → seconds of waiting that count as one priority
        self._beats: Mapping[str, int] = {}  # of the workers that the broker knows, as seen last
        self._began = self._worked = time.monotonic()
        self._counts = slots.counts()  # of what the children have run, as seen last

    def turn(self) -> None:
        """Do what is due. Never raises for a store that does not answer: it is asked again next time."""
        if self._waiting is None:  # it is that of the thread that turns
            self._waiting = waiting_here()
        with self._waiting.asking(), self.broker.patience(0.0, self._waiting.elsewhere):
            self._turn()

    def pause(self) -> float:
        """Seconds until the next turn is due."""
        if self._losses or self._failures or self.ledger.pending:
            return PROMOTE_EVERY
        soonest = min(self._next.values(), default=0.0) - time.monotonic()
        return min(max(soonest, SOONEST), self._scheduled_every())

    def _scheduled_every(self) -> float:
        return CALM_EVERY if time.monotonic() - self._worked >= CALM_AFTER else SCHEDULED_EVERY

    def _turn(self) -> None:
        try:
            self._register()
            self._every("beat", settings.WORKER_HEARTBEAT, self._beat)
            self._rescue()
            self._see_work()
            self._every("promote", self._scheduled_every(), self._promote)
            self._every("look", min(LOOK_EVERY, settings.WORKER_HEARTBEAT, settings.WORKER_LOST_AFTER / 5), self._look)
            self._every("notice", settings.WORKER_HEARTBEAT, self._notice)
            if self._reminded is not None:
                self._every("remind", 0.0, self._remind)
            self._every("queues", READ_QUEUES_EVERY, self._read_queues)
            self._every("age", AGE_EVERY, self._age)
            self._every("measure", MEASURE_EVERY, self._measure)
            if self.options.least is not None:
                self._every("demand", DEMAND_EVERY, self._tell_demand)
            self._every("report", REPORT_EVERY, self.mailer.turn)
            self._failures = 0
        except (BrokerUnavailable, DatabaseError, InterfaceError) as error:
            self._recover(error)
        except Exception:
            logger.exception("The keeper stumbled; it goes on")
            time.sleep(STUMBLE_PAUSE)

    def _recover(self, error: Exception) -> None:
        """Forget the connections and what was seen, a little longer at each failure."""
        self._failures += 1
        if self._failures == 1:
            self._losses.append(Loss(self.owner, known=False))  # a rescue's answer may have got lost
        for watch in (self._workers, self._owners, self._own, self._silent, self._unsent):
            watch.restart()
        if self._failures in (1, 10, 100):
            logger.warning(
                "The worker's keeper gets no answer from the broker or the database (try %d): %s",
                self._failures,
                error,
            )
        for store in (self.broker, connections[settings.DATABASE]):
            with contextlib.suppress(Exception):
                store.close()
        time.sleep(random.uniform(0, min(0.05 * 2 ** min(self._failures, 6), 2.0)))

    def hear(self, word: Mapping[str, Any]) -> None:
        """Take a word from the supervisor: a child's death, that the worker has been changed, or that it stops."""
        if "dead" in word:
            self._deaths[word["dead"]] = word
            for oldest in list(self._deaths)[:-DEATHS_KEPT]:
                del self._deaths[oldest]
            self._losses.append(self._loss_of(word["dead"]))
        if "become" in word:
            given = word["become"]
            lists = {name: tuple(given[name]) for name in ("queues", "excluded") if given[name] is not None}
            self.options = replace(self.options, **{**given, **lists})
            self._registered = False
        if word.get("stop"):
            self.stopping = True

    def finish(self) -> None:
        """The last turn: rescue what is left, and sign off."""
        with self.broker.patience(0.0):
            self._finish()
        connections.close_all()

    def _finish(self) -> None:
        with contextlib.suppress(BrokerUnavailable, DatabaseError, InterfaceError):
            self.slots.clear_owners()
            owners = self.broker.owners() | Job.objects.all().owners()
            self._losses += [self._loss_of(name) for name in self._left_behind(owners)]
            self._rescue()
        with contextlib.suppress(DatabaseError, InterfaceError):
            self.mailer.finish()
        with contextlib.suppress(BrokerUnavailable, DatabaseError, InterfaceError):
            processed, failed = self.slots.counts()
            Worker.objects.filter(pk=self.worker).update(stopped_at=utc_now(), processed=processed, failed=failed)
            self.broker.sign_off(self.worker)

    def _read_queues(self) -> None:
        """See how the queues are set, and tell a broker that keeps a copy: it may have been emptied."""
        queues = statements.queues_set(connections[settings.DATABASE])
        self._aging = {each.name: each.aging for each in queues if each.aging is not None}
        if not self.broker.transactional:
            chosen = {each.name: each.default_priority for each in queues if each.default_priority is not None}
            self.broker.set_default_priorities(chosen)

    def _age(self) -> None:
        for queue, step in self._aging.items():
            self.broker.age(queue, step=step)

    def _measure(self) -> None:
        self.memory = memory.taken_by(self._pid)
        Worker.objects.filter(pk=self.worker).update(memory=self.memory)

    def _tell_demand(self) -> None:
        """Tell the supervisor whether jobs wait in the queues that this worker serves."""
        named, excluded = self.options.queues, self.options.excluded
        served = {name for name in self.broker.queues() if name not in excluded and (named is None or name in named)}
        if served and self.broker.transactional:
            served -= set(Queue.objects.filter(paused=True).values_list("name", flat=True))
        elif served:
            served -= {name for name, size in self.broker.sizes().items() if size.paused}
        self._say({"waiting": bool(served)})

    def _every(self, name: str, seconds: float, act: Callable[[], object]) -> None:
        now = time.monotonic()
        if now >= self._next.get(name, 0.0):
            # In step with the others: what is due at about the same time takes one turn.
            early = (now - self._began) % SCHEDULED_EVERY if seconds >= SCHEDULED_EVERY else 0.0
            self._next[name] = now + seconds - early
            if self._waiting is not None:
                self._waiting.begins()
            act()

    def _register(self) -> None:
        if self._registered:
            return
        options = self.options
        changeable = {
            "queues": Worker.queues_as_text(options.queues, options.excluded),
            "concurrency": options.concurrency,
        }
        _row, is_new = Worker.objects.get_or_create(
            pk=self.worker,
            defaults={
                **changeable,
                "hostname": options.hostname,
                "pid": self._pid,
                "pool": options.pool,
                "tasks": json.dumps(registry.names()),
                "version": djtasks.__version__,
            },
        )
        if not is_new:
            Worker.objects.filter(pk=self.worker).update(**changeable)
        Limit.objects.all().declare(restraint.declared(registry.all_tasks()))
        self._registered = True

    def _beat(self) -> None:
        if self.worker not in self.broker.beat([self.worker]):
            self._say({"lost": self.worker})
            return
        self.slots.beat()
        if self.beat is not None:
            self.beat.say_if_held_up()
        processed, failed = self.slots.counts()
        statements.tell_of_worker(
            connections[settings.DATABASE],
            self.worker,
            processed=processed,
            failed=failed,
            woke_at=self.beat.woke_at if self.beat else None,
            beat_at=None if self.broker.transactional else utc_now(),
        )
        signals.heartbeat_sent.notify(sender=self)

    def _see_work(self) -> None:
        if (counts := self.slots.counts()) != self._counts:
            self._counts, self._worked = counts, time.monotonic()

    def _promote(self) -> None:
        """Make ready what is due, and look again when the next one is."""
        until = self.broker.until_due()
        if until is not None and until <= 0:
            self.broker.promote()
            until = PROMOTE_EVERY
        if until is not None:
            self._next["promote"] = min(self._next["promote"], time.monotonic() + until)

    def _look(self) -> None:
        """See by one question what there is to do; without work there is no other."""
        seen = statements.glance(connections[settings.DATABASE], self.worker)
        if seen.commands:
            self._obey(seen.commands)
        self._watch(has_running=seen.has_running)
        self._resend(outbox.unsent() if seen.has_unsent else [])
        if seen.has_parked or not self.broker.transactional:
            self.broker.fill_places()

    def _obey(self, commands: str) -> None:
        """Do what this worker is asked to do; what is told twice does no harm."""
        for command in json.loads(commands):
            self._say(command)
        Worker.objects.all().obeyed(self.worker, commands)

    def _watch(self, *, has_running: bool) -> None:
        """Look who moves. `has_running`: whether any row says that its job is somebody's."""
        beats = self._beats = self.broker.beats()
        owners = set() if self.broker.transactional else self.broker.owners()
        if has_running:
            owners |= Job.objects.all().owners()
        others = {name: beat for name, beat in beats.items() if name != self.worker}
        orphans = [owner for owner in owners if _worker_of(owner) not in beats]
        lost = [Loss(name, known=False, beat=beats[name]) for name in self._workers.look(others)]
        # A worker that the broker does not know may be one of another broker, and live.
        rows = statements.beats(connections[settings.DATABASE]) if orphans else {}
        orphans_by_beat = {owner: rows.get(_worker_of(owner)) for owner in orphans}
        lost += [Loss(name, known=False) for name in self._owners.look(orphans_by_beat)]
        for loss in lost:
            logger.warning("Worker %s does not beat any more: its jobs go back to their queues", loss.worker)
        lost += [self._loss_of(name) for name in self._own.look(dict.fromkeys(self._left_behind(owners)))]
        self._losses += lost

    def _loss_of(self, owner: str) -> Loss:
        """The loss of a child of ours, with what was told of its death."""
        word = self._deaths.get(owner, {})
        started = tuple((job_id, token) for job_id, token in word.get("started", ()))
        return Loss(owner, started=started, final=bool(word.get("sentences")))

    def _left_behind(self, owners: Iterable[str]) -> list[str]:
        """Leases of our own dead: a server may finish a claim, or give a lock free, after its client has died."""
        living = {*self.slots.owners(), self.owner}
        return [owner for owner in owners if _worker_of(owner) == self.worker and owner not in living]

    def _rescue(self) -> None:
        self.ledger.commit()  # first: what is not stored yet still stands under our name
        for _ in range(len(self._losses)):
            loss = self._losses[0]
            if self._waiting is not None:
                self._waiting.begins()
            try:
                word = self._deaths.get(loss.worker, {})
                for delivery in self.broker.rescue([loss], rescuer=self.owner):
                    self.ledger.record(ended_from_outside(delivery, word), block=False)
                self._restore(loss)
            except (BrokerUnavailable, DatabaseError, InterfaceError):
                raise
            except Exception:  # a row that is broken holds up its own worker's jobs, but no other's
                self._losses.append(self._losses.pop(0))
                raise
            self._losses.pop(0)
            self._say({"rescued": loss.worker})
            self.ledger.commit()
            self._next["look"] = 0.0  # for the places that they have left

    # Where the queue is not the job table

    def _resend(self, unsent: Sequence[str]) -> None:
        """Send what has stood in the outbox for a while, by our own clock: it may have been committed just now."""
        left = self._unsent.look(dict.fromkeys(unsent))
        try:
            sent = 0
            while left and sent < RESENT_AT_ONCE:
                sent += outbox.resend(left[: outbox.MOST_ROWS])
                left = left[outbox.MOST_ROWS :]
        except BrokerUnavailable as error:
            self._put_up_with(error, f"{len(left)} row(s) of messages stay in the outbox")

    def _put_up_with(self, error: BrokerUnavailable, what: str) -> None:
        """A broker that is full takes no new jobs and yet gives out those that it has: the watch goes on."""
        if time.monotonic() - self._complained >= COMPLAIN_EVERY:
            self._complained = time.monotonic()
            logger.warning("%s: %s", what, error)

    def _bury(self) -> None:
        """Workers that the broker has never heard of, and that do not get to it either, are lost."""
        live = statements.beats(connections[settings.DATABASE])
        if lost := self._silent.look({name: beat for name, beat in live.items() if name not in self._beats}):
            Worker.objects.filter(pk__in=lost).update(lost_at=utc_now())

    def _restore(self, loss: Loss) -> None:
        """Let the rows say that what a dead process ran waits again; send what the broker does not know any more."""
        if self.broker.transactional:
            return
        if loss.beat is not None:
            if loss.worker in self.broker.beats():
                return  # it has beaten meanwhile
            Worker.objects.filter(pk=loss.worker, lost_at=None).update(lost_at=utc_now())
        owner = Q(worker=loss.worker) | (Q(worker__startswith=f"{loss.worker}.") if loss.beat is not None else Q())
        rows = Job.objects.running().filter(owner)
        with transaction.atomic(using=settings.DATABASE):  # or an error in between would leave rows that nobody sends
            ids = list(rows.values_list("pk", flat=True))
            rows.update(state=states.PENDING, worker="", started_at=None)
            self._send_forgotten(ids)

    def _notice(self) -> None:
        """Notice that the broker has lost its memory, and who has never come to it."""
        if self.broker.transactional:
            return
        if self._reminded is None and self.broker.has_forgotten():
            self._reminded = ""
        self._bury()

    def _remind(self) -> None:
        """Send a broker that lost its memory what waits by the rows, a batch a turn (rule 14)."""
        rows = Job.objects.waiting().filter(pk__gt=self._reminded or "").order_by("pk")
        ids = list(rows.values_list("pk", flat=True)[:BATCH])
        try:
            self._send_forgotten(ids)
        except BrokerUnavailable as error:
            self._next["remind"] = time.monotonic() + RESEND_EVERY
            self._put_up_with(error, "Waiting jobs that the broker has forgotten stay unsent")
            return
        self._reminded = ids[-1] if ids else None
        if not ids:
            self.broker.remember()
            del self._next["remind"]

    def _send_forgotten(self, ids: Sequence[str]) -> None:
        """Send those of waiting jobs that the broker does not know; in a transaction by the outbox."""
        unknown = set(ids) - self.broker.known(ids)
        rows = list(Job.objects.waiting().filter(pk__in=unknown).order_by("pk"))
        messages = [replace(message_of(row), check=True, claims=row.token) for row in rows]
        if messages:
            self.broker.cancel([row.pk for row in rows if row.revoked])  # before they come: they end without a run
            outbox.send(messages, using=settings.DATABASE, on_commit="outbox", checked=True)
            logger.warning("%d waiting job(s) were unknown to the broker and were sent to it", len(messages))


def _worker_of(owner: str) -> str:
    return owner.partition(".")[0]
