"""The command: runs rounds of sessions, shows how far it is, prints the table."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from benchmarks import report
from benchmarks.figures import Plan
from benchmarks.peers import PEERS
from benchmarks.rounds import Peers, Progress, find_servers, run_round
from benchmarks.scenarios import SCENARIOS

EPILOG = f"""\
peers:      {", ".join(PEERS)}
scenarios:  {", ".join(SCENARIOS)}

examples:
  python -m benchmarks --quick                                      some minutes, for a first look
  python -m benchmarks --only djtasks-postgresql,celery-redis --scenario drain --rounds 5
  python -m benchmarks --write docs/benchmarks.md                   puts the table into that page

Servers: those that the tests use. One is found at the usual port of this machine, or named by
DJTASKS_TEST_POSTGRESQL_URL, DJTASKS_TEST_MARIADB_URL, DJTASKS_TEST_REDIS_URL, or started for the run.
The database djtasks_bench and Redis database 13 are made for the run and removed after it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code: 1 if a peer failed."""
    parser = _parser()
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    console = Console(width=None if sys.stdout.isatty() else 140)
    plan = _plan(given)
    peers = Peers({name: PEERS[name] for name in given.only})
    started = time.monotonic()
    with Progress(console, given.rounds) as progress:
        servers = find_servers(peers)
        for number in range(given.rounds):
            run_round(number, peers, plan, progress)
    console.print(report.as_table(peers))
    console.print(report.as_text(report.notes(peers)))
    console.print(f"{given.rounds} rounds in {time.monotonic() - started:.0f} s")
    if given.write and peers.failed:
        console.print(f"{given.write} stays as it was: a table with a peer that failed is none to show.")
    elif given.write:
        report.write(given.write, report.markdown(peers, plan, given.rounds, servers))
        console.print(f"The table is in {given.write}.")
    return 1 if any(peers.failed.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure djtasks on its databases and on Redis beside Celery, huey, dramatiq and procrastinate: "
        "the same task, the same instrument, in one run, the peers in turn. Prints medians with ratios to Celery.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_names_of(PEERS), default=list(PEERS), metavar="PEERS", help="measure these, comma separated")
    usual = [name for name in SCENARIOS if name not in ("growth", "endurance")]  # which take minutes
    add(
        "--scenario",
        type=_names_of(SCENARIOS),
        default=usual,
        metavar="NAMES",
        help="these (all but growth and endurance), likewise",
    )
    add("--rounds", type=_positive, help="sessions of each peer, of which the table shows the medians (5)")
    add("--jobs", type=_positive, help="jobs that wait when the drain begins (20000)")
    add("--quick", action="store_true", help="one round of 2000 jobs, fewer samples: shows that it runs, not more")
    add("--write", type=Path, metavar="FILE", help="write the table into this page of Markdown, between its marks")
    parser.set_defaults(rounds=None, jobs=None)
    return parser


def _plan(given: argparse.Namespace) -> Plan:
    """How much to do; completes `given.rounds`."""
    given.rounds = given.rounds or (1 if given.quick else 5)
    if given.quick:
        return Plan(
            scenarios=given.scenario,
            jobs=given.jobs or 2_000,
            singles=300,
            pauses=10,
            trips=30,
            waiting=20_000,
            finished=50_000,
            endurance=20_000,
        )
    return Plan(scenarios=given.scenario, jobs=given.jobs or 20_000)


def _names_of(known: dict[str, object]):  # type: ignore[no-untyped-def]  # argparse's own protocol
    def names(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        wrong = [name for name in chosen if name not in known]
        if wrong or not chosen:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong) or 'nothing'} is none of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _leave(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; workers and databases are gone", file=sys.stderr)
        sys.exit(130)
