"""One run on one broker: start all, let faults strike for a while, let the queues drain, judge."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from django.core.management import call_command
from django.db import connections

from tests.faults.faults import PROCESS_FAULTS, STORE_FAULTS, Fault
from tests.faults.fleet import Fleet
from tests.faults.plan import Plan, Report, Verdict
from tests.faults.stage import Stage
from tests.faults.stores import Store
from tests.faults.verdict import Judge, is_drained
from tests.waiting import wait_until

TWO_AT_ONCE = 0.15  # how often a fault of the processes and one of the store come together
DRAIN_TIMEOUT = 300.0  # seconds until all that was accepted has ended, once nothing goes wrong any more


def run(plan: Plan, store: Store, say: Callable[[str], None]) -> Report:
    """Make the run that `plan` describes on a new store, which this process uses."""
    folder, chance = store.folder, random.Random(plan.seed)
    fleet = Fleet(store, folder)
    try:
        call_command("migrate", database=store.alias, verbosity=0)
        connections.close_all()
        stage = Stage(store, fleet, plan.pace, say)
        _perform(plan, stage, chance)
        verdict = Judge(stage).judge()
        return Report(plan, store.described(), verdict, stage.figures, _keep(plan, verdict, folder))
    finally:
        fleet.close()
        connections.close_all()


def _keep(plan: Plan, verdict: Verdict, folder: Path) -> Path | None:
    if plan.keep or not verdict.is_good:
        return folder
    shutil.rmtree(folder)
    return None


def _perform(plan: Plan, stage: Stage, chance: random.Random) -> None:
    fleet = stage.fleet
    for name in fleet.names:
        fleet.start(name)
    fleet.start_producer(chance.randrange(10**6), plan.rate, plan.pace.long)
    for name in fleet.names:
        fleet.wait_for_beat(name, fleet.workers[name].pid, 60)
    wait_until(lambda: len(fleet.runs.born()) >= 2, 30)
    wait_until(fleet.ledger.exists, 60, what="the producer's first note")
    _strike(plan, stage, chance)
    fleet.end_producer()
    stage.say("no more faults, no more jobs: the queues drain")
    drained = time.monotonic() + DRAIN_TIMEOUT
    while not stage.holds(is_drained):
        if time.monotonic() > drained:
            stage.problems.append(f"the queues are not empty after {DRAIN_TIMEOUT:.0f} s")
            break
        time.sleep(0.1)
    for name, code in fleet.stop(30).items():
        if code != 0:
            stage.problems.append(f"{name} ended with {code}")


def _strike(plan: Plan, stage: Stage, chance: random.Random) -> None:
    """Let one fault follow another, now and then two at once, until the time is over."""
    processes = _bag(plan, PROCESS_FAULTS, chance)
    servers = _bag(plan, STORE_FAULTS[plan.broker], chance)
    until = time.monotonic() + plan.seconds
    while time.monotonic() < until:
        if processes and servers and chance.random() < TWO_AT_ONCE:
            chosen = [processes.draw(), servers.draw()]
            stage.struck("two at once")
            _together("two at once", chosen, stage, chance.randrange(10**6))
        else:
            bags = [bag for bag in (processes, servers) if bag]
            kind, fault = chance.choices(bags, [len(bag) for bag in bags])[0].draw()
            stage.struck(kind)
            _one(kind, fault, stage, chance.randrange(10**6))
        time.sleep(chance.uniform(0.1, 0.5) * stage.pace.outage)


def _one(kind: str, fault: Fault, stage: Stage, seed: int, label: str = "") -> None:
    stage.say(f"{kind}{f' ({label})' if label else ''}")
    try:
        fault(label or kind, stage, random.Random(seed))
    except Exception as error:
        stage.problems.append(f"{kind}: {type(error).__name__}: {error}")
    finally:
        connections.close_all()


def _together(label: str, chosen: list[tuple[str, Fault]], stage: Stage, seed: int) -> None:
    threads = [
        threading.Thread(target=_one, args=(kind, fault, stage, seed + number, label))
        for number, (kind, fault) in enumerate(chosen)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Bag:
    """Kinds of fault in a random order, each once before any comes again."""

    def __init__(self, faults: dict[str, Fault], chance: random.Random) -> None:
        self._faults = faults
        self._chance = chance
        self._left: list[str] = []

    def __len__(self) -> int:
        return len(self._faults)

    def draw(self) -> tuple[str, Fault]:
        if not self._left:
            self._left = self._chance.sample(list(self._faults), len(self._faults))
        kind = self._left.pop()
        return kind, self._faults[kind]


def _bag(plan: Plan, faults: dict[str, Fault], chance: random.Random) -> _Bag:
    wanted = {
        kind: fault
        for kind, fault in faults.items()
        if not plan.only or any(part.lower() in kind.lower() for part in plan.only)
    }
    return _Bag(wanted, chance)
