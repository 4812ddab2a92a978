"""A process that sends jobs and keeps a ledger of what was accepted: `delay()` returned, the transaction was committed.

The ledger is a file of JSON lines outside of any database. A line of the input asks for a special job by its kind.
"""

import json
import os
import random
import select
import sys
import time
from pathlib import Path

from django.db import DatabaseError, InterfaceError, close_old_connections, transaction

from djtasks import chord
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from tests.faults import tasks

USUAL_KINDS = {
    "plain": 10,
    "scheduled": 4,
    "retried": 3,
    "chord": 1,
    "forgotten": 2,
    "early": 2,
    "atomic": 2,
    "undone": 1,
}
SEND_PAUSE = 0.2  # seconds after a job that was refused


class Undone(Exception):
    """Rolls a transaction back."""


class Producer:
    """Sends at `rate` jobs a second on average. `long` is for how many seconds a job of the kind "gil" holds on."""

    def __init__(self, path, seed, rate, long):
        self.path = Path(path)
        self.chance = random.Random(seed)
        self.rate = rate
        self.long = long
        self.value = 0

    def run(self):
        """Send until the input ends."""
        asked = sys.stdin.fileno()  # the file above it would keep a second line to itself
        while True:
            if not select.select([asked], [], [], self.chance.expovariate(self.rate))[0]:
                self.send(self.chance.choices(list(USUAL_KINDS), USUAL_KINDS.values())[0])
                continue
            words = os.read(asked, 1000).decode().split()
            if not words:
                return
            for word in words:
                self.send(word)

    def send(self, kind):
        """Send one of a kind, and note what became of it."""
        self.value += 1
        try:
            ids = getattr(self, f"_{kind}")(self.value)
        except (BrokerUnavailable, DatabaseError, InterfaceError) as error:
            self._note(word="refused", kind=kind, why=f"{type(error).__name__}: {error}"[:200])
            close_old_connections()
            time.sleep(SEND_PAUSE)
        else:
            if ids:
                self._note(word="accepted", kind=kind, ids=ids)

    def _note(self, **fields):
        with self.path.open("a") as file:
            file.write(json.dumps({**fields, "at": round(time.monotonic(), 3)}) + "\n")

    def _seconds(self):
        return self.chance.choices([0.0, 0.02, 0.2, 1.0], [8, 8, 3, 1])[0]

    # Each kind sends, and returns {id: the result it must have}.

    def _plain(self, value):
        return {tasks.work.delay(value, self._seconds()).id: value}

    def _scheduled(self, value):
        return {tasks.work.apply_async((value, self._seconds()), countdown=self.chance.uniform(0.2, 4)).id: value}

    def _retried(self, value):
        return {tasks.stubborn.delay(value, self.chance.randint(2, 4)).id: value}

    def _forgotten(self, value):
        return {tasks.forgotten.delay(self._seconds()).id: None}

    def _early(self, value):
        return {tasks.early.delay(value, self._seconds()).id: value}

    def _chord(self, value):
        size = self.chance.randint(2, 8)
        body = chord(tasks.work.s(value, self._seconds()) for _ in range(size))(tasks.total.s())
        return {**{member.id: value for member in body.parent.results}, body.id: size * value}

    def _atomic(self, value):
        with transaction.atomic(using=settings.DATABASE):
            first, second = tasks.work.delay(value), tasks.work.delay(value, self._seconds())
        return {first.id: value, second.id: value}

    def _undone(self, value):
        ids = {}
        try:
            with transaction.atomic(using=settings.DATABASE):
                ids = {tasks.work.delay(value).id: value}
                raise Undone
        except Undone:
            self._note(word="undone", kind="undone", ids=ids)

    # Those that are a fault, and so are not to wait behind others.

    def _poison(self, value):
        return {tasks.poison.apply_async(priority=9).id: None}

    def _gil(self, value):
        return {tasks.hold.apply_async((value, self.long), priority=9).id: value}

    def _hungry(self, value):
        return {tasks.hungry.apply_async((value, 200, 1.0), priority=9).id: value}


def main(path, seed, rate, long):
    """What the process runs, in which Django is set up."""
    Producer(path, seed, rate, long).run()
