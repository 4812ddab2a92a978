"""What goes wrong: each kind of fault is a function that strikes, mends, and times the recovery."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.proxy import Proxy

if TYPE_CHECKING:
    from tests.faults.stage import Stage

Fault = Callable[[str, "Stage", random.Random], None]  # of its kind
ASK_AGAIN = 5.0  # seconds
LARGE = 150 * 1024  # KiB; the size at which a child is taken for the one that eats all memory


# Processes


def kill_child(kind: str, stage: Stage, chance: random.Random) -> None:
    stage.end(kind, [stage.victim(chance)])


def kill_keeper(kind: str, stage: Stage, chance: random.Random) -> None:
    name = chance.choice(stage.fleet.names)
    at = stage.fleet.kill([stage.fleet.keeper(name)])
    stage.time(kind, at, lambda: stage.fleet.all_turned_since(at))


def kill_supervisor(kind: str, stage: Stage, chance: random.Random) -> None:
    name = chance.choice(stage.fleet.names)
    family = stage.fleet.family(name)
    stage.end(kind, family, victims=family[:1])
    stage.restart(name)


def kill_worker(kind: str, stage: Stage, chance: random.Random) -> None:
    """Supervisor, keeper and children in one moment, as a power cut would."""
    name = chance.choice(stage.fleet.names)
    stage.end(kind, stage.fleet.family(name))
    stage.restart(name)


def stop_worker(kind: str, stage: Stage, chance: random.Random) -> None:
    """A zombie: it stands still until others have its jobs, and comes back."""
    _freeze(kind, stage, stage.fleet.family(chance.choice(stage.fleet.names)))


def stop_keeper(kind: str, stage: Stage, chance: random.Random) -> None:
    """The children work on, but nobody beats for them."""
    _freeze(kind, stage, [stage.fleet.keeper(chance.choice(stage.fleet.names))])


def _freeze(kind: str, stage: Stage, pids: list[int]) -> None:
    cut_off = stage.fleet.runs.running(set(pids))
    stopped = stage.fleet.signal(pids, signal.SIGSTOP)
    try:
        stage.await_reruns(kind, stopped, cut_off)
        time.sleep(max(0.0, stopped + 1.5 * stage.pace.lost_after - time.monotonic()))
    finally:
        woken = stage.fleet.signal(pids, signal.SIGCONT)
    stage.time(f"{kind}, woken", woken, lambda: stage.fleet.all_turned_since(woken))


def kill_producer(kind: str, stage: Stage, chance: random.Random) -> None:
    stage.fleet.restart_producer()


def out_of_memory(kind: str, stage: Stage, chance: random.Random) -> None:
    """A job eats memory, and the system kills its process; in its next run it is let alone."""
    asked = -ASK_AGAIN
    deadline = time.monotonic() + 60
    while not (found := _large(stage)) and time.monotonic() < deadline:
        if time.monotonic() - asked > ASK_AGAIN:  # the broker may have refused the last one
            stage.fleet.ask("hungry")
            asked = time.monotonic()
        time.sleep(0.02)
    stage.end(kind, found[:1])


def _large(stage: Stage) -> list[int]:
    return [pid for name in stage.fleet.names for pid in stage.fleet.children(name) if _memory(pid) > LARGE]


def _memory(pid: int) -> int:
    """What a process takes now, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def ask_for(job: str) -> Fault:
    """A fault that is a job."""

    def ask(kind: str, stage: Stage, chance: random.Random) -> None:
        stage.fleet.ask(job)

    return ask


# Servers and the ways to them


def restart(server: str, number: signal.Signals) -> Fault:
    def strike(kind: str, stage: Stage, chance: random.Random) -> None:
        since = stage.outage(lambda: stage.store.servers[server].restart(number), lambda: None, 0.0)
        stage.works_again(kind, since)

    return strike


def pause(server: str) -> Fault:
    """It stands still: connections stay, nothing is answered."""

    def strike(kind: str, stage: Stage, chance: random.Random) -> None:
        paused = stage.store.servers[server]
        stage.works_again(kind, stage.outage(paused.pause, paused.resume, _long(stage, chance)))

    return strike


def fill_redis(kind: str, stage: Stage, chance: random.Random) -> None:
    server = stage.store.servers["redis"]
    stage.works_again(kind, stage.outage(server.fill, server.make_room, _long(stage, chance)))


def lock_sqlite(kind: str, stage: Stage, chance: random.Random) -> None:
    stage.works_again(kind, stage.hold_write_lock(_long(stage, chance)))


def cut(kind: str, stage: Stage, chance: random.Random) -> None:
    """Every connection ends."""
    ways = _ways(stage, chance)
    stage.works_again(kind, stage.outage(lambda: [way.cut() for way in ways], lambda: None, 0.0))


def refuse(kind: str, stage: Stage, chance: random.Random) -> None:
    """No connection is taken, for a while."""
    ways = _ways(stage, chance)
    since = stage.outage(
        lambda: [way.close() for way in ways], lambda: [way.open() for way in ways], _long(stage, chance)
    )
    stage.works_again(kind, since)


def slow_down(kind: str, stage: Stage, chance: random.Random) -> None:
    """Every piece of data comes late, for a while."""
    ways = _ways(stage, chance)
    late = chance.uniform(0.02, 0.2)
    stage.works_again(
        kind, stage.outage(lambda: _delay(ways, late), lambda: _delay(ways, 0.0), 2 * _long(stage, chance))
    )


def _delay(ways: list[Proxy], seconds: float) -> None:
    for way in ways:
        way.latency = seconds


def half_open(kind: str, stage: Stage, chance: random.Random) -> None:
    """The connections of the workers stay, and swallow all that is sent on them, for ever; new ones work."""
    ways = list(stage.store.worker_ways.values())
    stage.works_again(kind, stage.outage(lambda: [way.mute() for way in ways], lambda: None, 0.0))


def half_answered(kind: str, stage: Stage, chance: random.Random) -> None:
    """What the workers ask is done, but no answer comes back on the connections that there are."""
    ways = list(stage.store.worker_ways.values())
    stage.works_again(kind, stage.outage(lambda: [way.mute_answers() for way in ways], lambda: None, 0.0))


def _ways(stage: Stage, chance: random.Random) -> list[Proxy]:
    """Those of the workers to some server, and perhaps those of the producer."""
    kinds = chance.choice([[kind] for kind in stage.store.servers] + [list(stage.store.servers)])
    ways = [stage.store.worker_ways] + ([stage.store.producer_ways] if chance.random() < 0.5 else [])
    return [each[kind] for each in ways for kind in kinds]


def _long(stage: Stage, chance: random.Random) -> float:
    return chance.uniform(0.5, 1.5) * stage.pace.outage


PROCESS_FAULTS: dict[str, Fault] = {
    "kill -9 of a child": kill_child,
    "kill -9 of a keeper": kill_keeper,
    "kill -9 of a supervisor": kill_supervisor,
    "kill -9 of a whole worker": kill_worker,
    "worker stopped (zombie)": stop_worker,
    "keeper stopped": stop_keeper,
    "kill -9 of a producer": kill_producer,
    "out of memory": out_of_memory,
    "job that kills its process": ask_for("poison"),
    "job that holds the GIL": ask_for("gil"),
}
WAYS: dict[str, Fault] = {
    "connections cut": cut,
    "connections refused": refuse,
    "latency": slow_down,
    "half-open connections": half_open,
    "answers swallowed": half_answered,
}
POSTGRESQL: dict[str, Fault] = {
    "PostgreSQL restarted (fast)": restart("postgresql", signal.SIGINT),
    "PostgreSQL restarted (immediate)": restart("postgresql", signal.SIGQUIT),
    "PostgreSQL hangs": pause("postgresql"),
}
STORE_FAULTS: dict[str, dict[str, Fault]] = {
    "sqlite": {"database locked by another": lock_sqlite},
    "postgresql": {**WAYS, **POSTGRESQL},
    "mariadb": {
        **WAYS,
        "MariaDB restarted": restart("mariadb", signal.SIGTERM),
        "MariaDB killed": restart("mariadb", signal.SIGKILL),
        "MariaDB hangs": pause("mariadb"),
    },
    "redis": {
        **WAYS,
        **POSTGRESQL,
        "Redis restarted": restart("redis", signal.SIGTERM),
        "Redis killed": restart("redis", signal.SIGKILL),
        "Redis hangs": pause("redis"),
        "Redis full": fill_redis,
    },
}
