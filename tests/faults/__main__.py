"""The command: makes a run on each broker in turn, shows what happens, prints what came of it."""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import django
from django.utils.module_loading import import_string

from tests.faults import report
from tests.faults.faults import PROCESS_FAULTS, STORE_FAULTS
from tests.faults.plan import Pace, Plan, Report
from tests.faults.stores import Store

EPILOG = f"""\
brokers:  {", ".join(STORE_FAULTS)}
faults:   {", ".join([*PROCESS_FAULTS, *dict.fromkeys(kind for kinds in STORE_FAULTS.values() for kind in kinds)])}

examples:
  python -m tests.faults --seconds 30                               half a minute of faults on each broker
  python -m tests.faults --broker redis --seconds 600 --seed 7      as in docs/reliability.md
  python -m tests.faults --broker postgresql --only half-open,zombie --seconds 60
  python -m tests.faults --seconds 600 --write docs/reliability.md  puts the figures into that page

Servers: all of the run's own (PostgreSQL from a wheel, the installed mariadbd and redis-server), gone with it.
The same seed gives the same faults in the same order; what they meet depends on the machine.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a job was lost, or anything else was not as it must be."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    if len(given.broker) > 1:  # each in a process of its own: Django is set up once
        return max(_another(broker, given, arguments) for broker in given.broker)
    long = given.long or (20.0 if given.seconds >= 120 else 1.5 * given.lost_after)
    plan = Plan(
        broker=given.broker[0],
        seconds=given.seconds,
        seed=random.randrange(10**6) if given.seed is None else given.seed,
        rate=given.rate,
        pace=Pace(lost_after=given.lost_after, outage=min(given.seconds / 10, 5.0), long=long),
        only=given.only,
        keep=given.keep,
    )
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    say(f"{plan.broker}, seed {plan.seed}")
    result = _run(plan, say)
    print(report.as_text(result))
    if given.write:
        report.write(given.write, result)
        print(f"The figures are in {given.write}.")
    return 0 if result.verdict.is_good else 1


def _run(plan: Plan, say: Callable[[str], None]) -> Report:
    """Make the run. Its modules need Django set up, and Django the servers, which are started here."""
    lost_after = plan.pace.lost_after
    settings = {"WORKER_LOST_AFTER": lost_after, "WORKER_HEARTBEAT": min(2.0, lost_after / 5)}
    folder = Path(tempfile.mkdtemp(prefix="djtasks-faults-"))
    say(f"logs in {folder} until all is well")
    store = Store(plan.broker, folder, **settings)
    try:
        store.use()
        django.setup()
        report: Report = import_string("tests.faults.session.run")(plan, store, say)
        return report
    finally:
        store.close()


def _another(broker: str, given: argparse.Namespace, arguments: list[str]) -> int:
    # What stands last counts.
    seed = [] if given.seed is None else ["--seed", str(given.seed)]
    return subprocess.call([sys.executable, "-m", "tests.faults", *arguments, "--broker", broker, *seed])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Let real workers and servers go wrong in every way, by a random schedule, and count what came of "
        "the jobs: none may be lost, and none may run twice without a reason.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--broker", type=_brokers, default=list(STORE_FAULTS), metavar="NAMES", help="comma separated; all by default")
    add("--seconds", type=float, default=60.0, help="how long faults strike (60)")
    add("--seed", type=int, help="of the schedule; a random one by default, which is printed")
    add("--rate", type=float, default=15.0, help="sends a second; a chord is one (15)")
    add("--lost-after", type=float, default=5.0, metavar="SECONDS", help="WORKER_LOST_AFTER (5)")
    add("--long", type=float, metavar="SECONDS", help="how long a job holds the GIL (20, in short runs less)")
    add("--only", type=_names, default=(), metavar="PARTS", help="faults whose names contain one of these")
    add("--keep", action="store_true", help="keep the folder with the logs; it is kept anyhow if something was wrong")
    add("--write", type=Path, metavar="FILE", help="write the figures into this page of Markdown, between its marks")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _brokers(text: str) -> list[str]:
    chosen = _names(text)
    if not chosen or (wrong := set(chosen) - STORE_FAULTS.keys()):
        raise argparse.ArgumentTypeError(f"{', '.join(wrong) or 'nothing'} is none of {', '.join(STORE_FAULTS)}")
    return list(chosen)


def _leave(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; workers and servers are gone", file=sys.stderr)
        sys.exit(130)
