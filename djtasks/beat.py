"""Beat: sends the jobs of schedules, each tick once, however many beats run.

A look, at least once a second, finds what is due soon. Messages and next ticks are made ready before their
time, since a router or a receiver of `before_task_publish` is the user's code and may take long; at the time,
only SQL runs. A row's move to its next tick and its jobs are one transaction: who moves it has sent the tick.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)

from djtasks import code_schedules, outbox, registry, signals, states
from djtasks.announce import announced, told
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.due import turn_of
from djtasks.exceptions import BrokerUnavailable
from djtasks.half_open import Waiting, waiting_here
from djtasks.message import Message
from djtasks.models import Job, Outbox, PeriodicTask, statements
from djtasks.models.advancing import Step
from djtasks.outbox import check_sizes
from djtasks.periodic import message_of_tick
from djtasks.schedules import from_text
from djtasks.schedules import schedule as interval

logger = logging.getLogger("djtasks.beat")

LOOK_EVERY: Final = 1.0  # seconds
AHEAD: Final = timedelta(seconds=5)  # what is due sooner is made ready
LEAD: Final = timedelta(seconds=0.05)  # before a tick that is known to come, there is another look
MOST_READY: Final = 20_000  # rows that are made ready at a time, the oldest first
READ_AT_ONCE: Final = 100  # rows that are made ready between two looks at the clock
SENT_AT_ONCE: Final = 500  # rows a transaction
NAMED: Final = 10  # schedules a line of the log
SET_BACK: Final = timedelta(seconds=2)  # a clock that goes back less is not worth a word
WAITS: Final = timedelta(hours=3)  # a crontab waits until the clock has caught up with it; the rule of vixie cron
STUMBLE_PAUSE: Final = 1.0  # seconds after an error that nobody expected
STORE_ERRORS: Final = (BrokerUnavailable, OperationalError, InterfaceError)
VALUE_ERRORS: Final = (DataError, IntegrityError, ValueError, TypeError, ArithmeticError)  # of what a row holds
HELD_UP: Final = 30.0  # seconds that the user's code may take for one row before the log says so
LAST_WORDS: Final = 1.5  # seconds that the thread has to end; it may be in the user's code


class Clock:
    """The database's clock; between two looks at it, it goes by this machine's monotonic one."""

    def __init__(self) -> None:
        self._base: datetime | None = None
        self._seen = 0.0  # monotonic

    def look(self, ahead: timedelta) -> tuple[bool, bool]:
        """Ask the database. Returns whether its clock was set back, and whether a schedule will be due within `ahead`.

        As far as could be foreseen: if the clock was set forward, only the next look knows.
        """
        before = time.monotonic()
        moment, is_any_due = statements.schedules_due(connections[settings.DATABASE], self.now() + ahead)
        after = time.monotonic()
        was_set_back = self._base is not None and moment < self.now() - SET_BACK
        self._base, self._seen = moment, (before + after) / 2
        return was_set_back, is_any_due

    def now(self) -> datetime:
        """The time. Raises nothing: before the first look it is this machine's."""
        if self._base is None:
            return datetime.now(UTC)
        return self._base + timedelta(seconds=time.monotonic() - self._seen)


@dataclass(frozen=True, slots=True)
class Ready:
    """A row whose next turn is ready to be sent."""

    row: PeriodicTask
    step: Step
    messages: Sequence[Message]
    passed: Step  # taken instead, if the last job has not ended and they may not overlap
    left_out: str


class Beat:
    """Sends what is due, until it is stopped. Runs in a thread of its own, with its own connections."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.woke_at: datetime | None = None  # when it last looked, by the database's clock
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_begun = False
        self._next_look = 0.0  # monotonic
        self._unread: list[int] = []  # keys of rows that are due soon and not ready
        self._ready: dict[int, Ready] = {}
        self._queue: list[tuple[datetime, int, Ready]] = []  # a heap; what is in `_ready` no more is passed over
        self._numbers = itertools.count()
        self._failures = 0
        self._in_hand: tuple[str, float] | None = None  # the row that is made ready, and since when, monotonic
        self._told_of: tuple[str, float] | None = None
        self._waiting: Waiting | None = None  # for the database

    def start(self) -> None:
        """Run in a thread."""
        self._thread = threading.Thread(target=self.run, name="djtasks-beat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for that, but not long."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(LAST_WORDS)

    def say_if_held_up(self) -> None:
        """Log, once, if the user's code has not come back; from another thread, since this one can do nothing."""
        held = self._in_hand
        if held is None or held is self._told_of or time.monotonic() - held[1] < HELD_UP:
            return
        self._told_of = held
        logger.error(
            "Beat of this process is held up: for schedule %s a router or a receiver of before_task_publish has not "
            "come back for %d s. Nothing is sent from here until it does.",
            held[0],
            time.monotonic() - held[1],
        )

    def run(self) -> None:
        """Loop until stopped."""
        try:
            with _users_code("beat_init"):
                signals.beat_init.notify(sender=self)
            self._waiting = waiting_here()
            while not self._stopping.is_set():
                with self._waiting.asking():
                    pause = self.turn()
                self._stopping.wait(pause)
        finally:
            connections.close_all()

    def turn(self) -> float:
        """Do what is most urgent. Returns for how many seconds there is nothing to do. Raises nothing."""
        try:
            with get_broker().patience(0.0, None if self._waiting is None else self._waiting.elsewhere):
                seconds = self._turn()
            self._failures = 0
            return seconds
        except (BrokerUnavailable, DatabaseError, InterfaceError) as error:
            return self._recover(error)
        except Exception:
            logger.exception("Beat stumbled; it goes on")
            self._forget()
            return STUMBLE_PAUSE

    def _turn(self) -> float:
        now = self.clock.now()
        if portion := self._due(now):
            self._send(portion)
        elif time.monotonic() >= self._next_look:
            self._look()
        elif self._unread:
            self._make_ready()
        else:
            until_due = (self._queue[0][0] - now).total_seconds() if self._queue else LOOK_EVERY
            return max(0.0, min(until_due, self._next_look - time.monotonic()))
        return 0.0

    def _recover(self, error: Exception) -> float:
        self._failures += 1
        self._forget()
        if self._failures in (1, 10, 100):
            logger.warning("Beat gets no answer from the database (try %d): %s", self._failures, error)
        with contextlib.suppress(Exception):
            connections[settings.DATABASE].close()
        return random.uniform(0, min(0.05 * 2 ** min(self._failures, 6), 2.0))

    def _forget(self) -> None:
        """Read everything anew: what was ready may have been sent, or not."""
        self._next_look = 0.0
        self._unread, self._ready, self._queue = [], {}, []

    # What is due soon

    def _look(self) -> None:
        was_set_back, is_any_due = self.clock.look(AHEAD)
        now = self.clock.now()
        if not self._has_begun:
            self._begin(now)
            self._has_begun = is_any_due = True
        elif was_set_back:
            self._put_right(now)
            is_any_due = True
        standing = self._due_soon(now) if is_any_due else {}
        self._ready = {
            pk: each for pk, each in self._ready.items() if standing.get(pk) == (each.step.due, each.step.changed_at)
        }
        self._unread = [pk for pk in standing if pk not in self._ready]
        self._queue = [entry for entry in self._queue if self._is_standing(entry[2])]
        heapq.heapify(self._queue)
        self._next_look = time.monotonic() + LOOK_EVERY
        self.woke_at = now

    def _due_soon(self, now: datetime) -> dict[int, tuple[datetime | None, datetime]]:
        """What tells whether a row still stands as it was read, by its key."""
        soon = PeriodicTask.objects.due(now + AHEAD).values_list("pk", "next_run_at", "changed_at")[:MOST_READY]
        return {pk: (due, changed_at) for pk, due, changed_at in soon}

    def _begin(self, now: datetime) -> None:
        """Bring the rows up to date: to what stands in the code, and to what has happened while no beat ran."""
        self._put_right(now)
        PeriodicTask.objects.unreckoned().reckon(now)
        PeriodicTask.objects.broken().reckon(now)  # a deployment may have cured what broke them
        try:
            code_schedules.sync()
        except VALUE_ERRORS:
            logger.exception("The schedules of the code cannot be brought up to date; what has a row runs on")

    def _put_right(self, now: datetime) -> None:
        """The clock has been set back: intervals go on from now. A crontab waits, unless that would be too long."""
        ahead = PeriodicTask.objects.ahead_of(now + SET_BACK)
        chosen = [row.pk for row in ahead if _cannot_wait(row, now)]
        if not chosen:
            return
        rows = PeriodicTask.objects.filter(pk__in=chosen)
        rows.reckon(now)
        rows.filter(last_run_at__gt=now).update(last_run_at=now)
        logger.warning("The clock was set back: %d schedule(s) go on from %s", len(chosen), now.isoformat())

    def _make_ready(self) -> None:
        """Make the next few rows ready."""
        keys, self._unread = self._unread[:READ_AT_ONCE], self._unread[READ_AT_ONCE:]
        rows = {row.pk: row for row in PeriodicTask.objects.live().filter(pk__in=keys)}
        for pk in keys:
            if pk in rows:
                self._make_row_ready(rows[pk])
        for connection in connections.all(initialized_only=True):
            if connection.alias != settings.DATABASE:  # a router's own
                connection.close_if_unusable_or_obsolete()
            elif not connection.get_autocommit():  # a router has begun a transaction, which nobody would commit
                connection.close()

    def _make_row_ready(self, row: PeriodicTask) -> None:
        self._in_hand = (row.name, time.monotonic())
        if self._waiting is not None:
            self._waiting.rests()  # for the user's code, which may take its time
        try:
            ready = self._ready_for(row)
        except STORE_ERRORS as error:  # of a router, that asks a store of its own: the next look tries again
            logger.warning("Schedule %s has to wait: %s", row.name, error)
            return
        except BaseException as error:  # a router of the user's may do anything, exit included
            self._break_down(row, error)
            return
        finally:
            self._in_hand = None
            if self._waiting is not None:
                self._waiting.moves()
        self._ready[row.pk] = ready
        heapq.heappush(self._queue, (ready.step.due, next(self._numbers), ready))

    def _ready_for(self, row: PeriodicTask) -> Ready:
        turn = turn_of(row, row.series, _due(row), self.clock.now())
        messages = announced([message_of_tick(row, tick) for tick in turn.ticks])
        check_sizes(messages)
        return Ready(row, _step(row, turn.next, messages), messages, _step(row, turn.beyond, ()), turn.left_out)

    def _break_down(self, row: PeriodicTask, error: BaseException) -> None:
        if PeriodicTask.objects.break_down(_step(row, None, ()), f"{type(error).__name__}: {error}"):
            logger.error("Schedule %s is broken; it rests until it is edited", row.name, exc_info=error)

    # At the time

    def _due(self, now: datetime) -> list[Ready]:
        portion: list[Ready] = []
        while self._queue and self._queue[0][0] <= now and len(portion) < SENT_AT_ONCE:
            ready = heapq.heappop(self._queue)[2]
            if self._is_standing(ready):
                portion.append(ready)
        return portion

    def _is_standing(self, ready: Ready) -> bool:
        return self._ready.get(ready.row.pk) is ready

    def _send(self, portion: Sequence[Ready]) -> None:
        for each in portion:
            del self._ready[each.row.pk]
        try:
            sent = self._sent(portion)
        except VALUE_ERRORS as error:
            if len(portion) == 1:
                self._break_down(portion[0].row, error)
                return
            for each in portion:
                self._ready[each.row.pk] = each
                self._send([each])
            return
        for message in (message for each in sent for message in each.messages):
            with _users_code("after_task_publish"):
                told([message])
        self._report(sent)

    def _sent(self, portion: Sequence[Ready]) -> list[Ready]:
        """Move rows on and send their jobs. Returns those that nobody else has moved, as they were sent."""
        try:
            busy = _busy(portion)
        except BrokerUnavailable:  # whether their jobs have ended cannot be told now: they stay due
            portion, busy = [each for each in portion if each.row.overlap], set()
        chosen = [replace(each, step=each.passed, messages=()) if each.row.pk in busy else each for each in portion]
        with transaction.atomic(using=settings.DATABASE):
            mine = PeriodicTask.objects.advance([each.step for each in chosen])
            sent = [each for each in chosen if each.row.pk in mine]
            together = [message for each in sent if each.row.overlap for message in each.messages]
            outbox.send(together, using=settings.DATABASE, on_commit="outbox", checked=True)
            for each in sent:
                if not each.row.overlap:  # alone, so that its row in the outbox has the job's id
                    outbox.send(each.messages, using=settings.DATABASE, on_commit="outbox", checked=True)
        self._look_in_time_for(each.step.next for each in sent)
        return sent

    def _look_in_time_for(self, ticks: Iterable[datetime | None]) -> None:
        soonest = min((tick for tick in ticks if tick is not None), default=None)
        if soonest is not None:
            seconds = (soonest - LEAD - self.clock.now()).total_seconds()
            self._next_look = min(self._next_look, time.monotonic() + max(0.0, seconds))

    def _report(self, sent: Sequence[Ready]) -> None:
        for each in sent:
            if each.left_out:
                level = logging.WARNING if _is_told(each.row.task) else logging.DEBUG
                logger.log(level, "Schedule %s: %s", each.row.name, each.left_out)
        names = [each.row.name for each in sent if each.messages and _is_told(each.row.task)]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            logger.info("Sent the jobs of %s%s", ", ".join(names[:NAMED]), more)


@contextlib.contextmanager
def _users_code(signal: str) -> Iterator[None]:
    """Around receivers of `signal`: one that asks for the end (`sys.exit`) would end the thread, unnoticed."""
    try:
        yield
    except SystemExit as error:
        logger.error("A receiver of %s asked for the end; beat goes on", signal, exc_info=error)


def _is_told(name: str) -> bool:
    task = registry.find(name)
    return task is None or task.log_level >= logging.INFO


def _due(row: PeriodicTask) -> datetime:
    due: datetime | None = row.next_run_at
    if due is None:
        raise ValueError(f"{row} has no next run.")
    return due


def _step(row: PeriodicTask, following: datetime | None, messages: Sequence[Message]) -> Step:
    return Step(
        pk=row.pk,
        due=_due(row),
        changed_at=row.changed_at,
        next=following,
        runs=len(messages),
        job=messages[-1].id if messages else None,
        enabled=not (row.one_off and messages),
    )


def _busy(portion: Iterable[Ready]) -> set[int]:
    """The keys of those rows that may not overlap and whose last job has not ended."""
    alone = [each.row.pk for each in portion if not each.row.overlap]
    if not alone:
        return set()
    rows = PeriodicTask.objects.filter(pk__in=alone, last_job__isnull=False)
    last = {str(job): pk for pk, job in rows.values_list("pk", "last_job")}
    unended = set(Job.objects.filter(pk__in=last).exclude(state__in=states.FINISHED).values_list("pk", flat=True))
    if not get_broker().transactional:
        unended |= get_broker().known(list(last)) | set(Outbox.objects.filter(pk__in=last).values_list("pk", flat=True))
    return {last[job] for job in unended}


def _cannot_wait(row: PeriodicTask, now: datetime) -> bool:
    moments: list[datetime] = [each for each in (row.changed_at, row.last_run_at) if each is not None]
    try:
        return isinstance(from_text(row.schedule), interval) or max(moments) > now + WAITS
    except ValueError:  # it is broken, and reckoning it says so
        return True
