"""Whether the workers of this machine are well. Each keeps its slots in a file, which is looked at here.

Needs neither Django nor a server, so it is cheap: `python -m djtasks.worker.health [NAME]`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from djtasks.worker.hostname import expand_hostname
from djtasks.worker.slots import Slots, clock

logger = logging.getLogger("djtasks.worker")

PATIENCE: Final = 3  # times WORKER_LOST_AFTER


@dataclass(frozen=True, slots=True)
class Health:
    """How a worker of this machine is. Ages are seconds; `problem` says what is wrong, "" if nothing is.

    `beat_age`: since its keeper last reached the broker (None: never); `claim_age`: since that of its children that
    waits for jobs, and has for longest, last asked for some (None: no child waits). `places`: how many jobs it can
    run at a time, of which it runs `busy`.
    """

    worker: str
    pid: int
    problem: str
    beat_age: float | None
    claim_age: float | None
    places: int
    busy: int


def folder() -> Path:
    """Where the workers of this user keep their slots."""
    return Path(tempfile.gettempdir()) / f"djtasks-{os.geteuid()}"


@contextlib.contextmanager
def shown(site: str = "") -> Iterator[int | None]:
    """Within the block, the descriptor of a new file for our slots, locked by this process; None if there is none.

    `site` is a mark of its broker and its database, so that others of this user are not asked for ours.
    """
    made = _make_file(site)
    if made is None:
        logger.warning("No file can be made in %s, so `djtasks health` will not see this worker", folder())
        yield None
        return
    descriptor, path = made
    try:
        yield descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _make_file(site: str) -> tuple[int, Path] | None:
    place = folder()
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(place):
            return None
        _sweep(place)
        descriptor, name = tempfile.mkstemp(dir=place, prefix=f"{os.getpid()}-{site}-", suffix=".slots")
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError:
        return None
    return descriptor, Path(name)


def living(worker: str | None = None, site: str | None = None) -> list[Health]:
    """How the workers of this machine are that live, or the one of that name; of one site, or of all of this user."""
    if not _is_ours(folder()):
        return []
    wanted = None if worker is None else expand_hostname(worker)
    files = sorted(folder().glob("*.slots" if site is None else f"*-{site}-*.slots"))
    found = [health for path in files if (health := _health_in(path)) is not None]
    return [each for each in found if wanted is None or each.worker == wanted]


def verdict(worker: str | None, found: list[Health], site: str | None = None) -> str:
    """What is wrong, in a sentence; "" if all are well."""
    if not found:
        others = ", ".join(each.worker for each in living(site=site))
        name = "" if worker is None else f" named {expand_hostname(worker)}"
        hint = f" These run: {others}." if others else ""
        whose = "of this user" if site is None else "of this site and this user"
        return f"No worker{name} {whose} runs on this machine.{hint}"
    return " ".join(each.problem for each in found if each.problem)


def _health_in(path: Path) -> Health | None:
    """How the worker is whose file this is; None of one that has ended."""
    if path.name.startswith(f"{os.getpid()}-"):
        return None  # our own: to close it here would give up the lock
    with contextlib.suppress(OSError, ValueError), path.open("r+b") as file:
        if _is_held(file.fileno()):
            return judged(Slots.look(file.fileno()))
    return None


def judged(slots: Slots) -> Health:
    """How the worker is whose slots these are."""
    limit = slots.lost_after * PATIENCE
    beat_age, claim_age = slots.beat_age(), slots.longest_wait()
    who = f"The worker {slots.name} (process {slots.pid})"
    problem = ""
    if beat_age == float("inf"):
        problem = f"{who} has not reached its broker and database yet, {clock() - slots.born:.0f} s after its start."
    elif beat_age > limit:
        problem = f"{who} has not reached its broker and database for {beat_age:.0f} s."
    elif claim_age is not None and claim_age > limit:
        problem = f"{who} has a process that waits for jobs and has not got to ask for any for {claim_age:.0f} s."
    living = [index for index in range(slots.count) if slots.owner(index)]
    busy = sum(slots.busy(index) for index in living)
    return Health(
        slots.name,
        slots.pid,
        problem,
        None if beat_age == float("inf") else round(beat_age, 3),
        None if claim_age is None else round(claim_age, 3),
        len(living) * slots.runs,
        busy,
    )


def _is_ours(place: Path) -> bool:
    """Whether nobody else can have put anything there."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _is_held(descriptor: int) -> bool:
    """Whether the process that has made the file lives: with it its lock has gone, but not with its children."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _sweep(place: Path) -> None:
    """Delete what workers have left behind that were killed."""
    for path in place.glob("*.slots"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            if not _is_held(file.fileno()):
                path.unlink()


def describe(each: Health) -> str:
    """A worker that is well, in a line."""
    wait = "" if each.claim_age is None else f", asked for jobs {each.claim_age:.1f} s ago"
    busy = f", {each.busy} of {each.places} busy" if each.places else ""
    return f"{each.worker} (process {each.pid}) is well: beat {each.beat_age:.1f} s ago{wait}{busy}."


def main(arguments: list[str]) -> int:
    """Print how the worker of that name is, or all are. Returns the exit code: 0 if well."""
    name = arguments[0] if arguments else None
    found = living(name)
    problem = verdict(name, found)
    if problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write("".join(f"{describe(each)}\n" for each in found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
