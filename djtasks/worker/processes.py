"""The processes of a worker, as their supervisor knows them."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final

import uuid_utils

from djtasks import batches, registry
from djtasks.conf import settings
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots, Started, clock

logger = logging.getLogger("djtasks.worker")

_PR_SET_PDEATHSIG: Final = 1
MOST_NAMED: Final = 20  # jobs in a line of the log
MOST_SPARE: Final = 64  # children by which a worker may grow while it runs
SPARE_PLACES: Final = 4096  # jobs at a time that all of these may run


@dataclass(frozen=True, slots=True)
class Sentence:
    """Why the run of a job is ended from outside: after `seconds`, its time limit; or, None, because it was revoked.

    By the signal `signum`, to the process that runs it and all that it has started.
    """

    id: str
    token: int
    signum: int = signal.SIGKILL
    seconds: float | None = None

    def is_of(self, started: Started) -> bool:
        """Whether it is this run that is to end."""
        return (self.id, self.token) == (started.id, started.token)


@dataclass(slots=True)
class Process:
    """A process that was forked: a child, or the keeper (`index` None)."""

    pid: int
    owner: str
    index: int | None
    born: float = field(default_factory=time.monotonic)
    leaves: bool = False  # it was asked to end, and is not replaced
    returns: bool = False  # it was asked to end, and is replaced whatever is left to do
    sentences: tuple[Sentence, ...] = ()  # which are being carried out
    patience_ends: float | None = None  # when its unstored outcomes, or its reaction, are waited for no longer


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a child and what its jobs have started: it leads a process group of its own."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, number)
            return


def kill_group(pid: int) -> None:
    """End a child and what its jobs have started, whether or not it leads its group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def last_word(process: Process, running: Sequence[Started]) -> dict[str, Any]:
    """What the keeper is to know of a death: whose, what counts as a loss, or was ended by us."""
    sentences = {(each.id, each.token): each for each in process.sentences}
    sentenced = [(sentences[run.id, run.token], run) for run in running if (run.id, run.token) in sentences]
    counted = [run for _sentence, run in sentenced] if process.sentences else running
    return {
        "dead": process.owner,
        "started": [[run.id, run.token] for run in counted],
        "sentences": [{**asdict(each), "ran": clock() - run.since} for each, run in sentenced],
    }


def tell_of_death(process: Process, code: int, running: Sequence[Started], *, is_cut_off: bool) -> None:
    """Let the log know of what a child died, and what it ran. `is_cut_off`: by us, at a cold stop."""
    names = _names(each.id for each in running)
    if is_cut_off:
        if running:
            logger.info("Cut off: job(s) %s; they go back to their queues", names)
    elif process.sentences:
        sentenced = {(each.id, each.token) for each in process.sentences}
        spared = [run.id for run in running if (run.id, run.token) not in sentenced]
        if spared:
            logger.warning(
                "Child %d was ended because of job(s) %s; what ran beside goes back to its queue, uncounted: %s",
                *(process.pid, _names(each.id for each in process.sentences), _names(spared)),
            )
    else:
        ran = f" while it ran job(s) {names}" if running else ""
        logger.error("Child %d died (%s)%s", process.pid, cause(code), ran)


def _names(ids: Iterable[str]) -> str:
    """Some ids, for the log; the first ones of very many."""
    some = list(islice(ids, MOST_NAMED + 1))
    return ", ".join(some[:MOST_NAMED]) + (", …" if len(some) > MOST_NAMED else "")


def cause(code: int) -> str:
    """What a process ended by."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def new_worker_id() -> str:
    """A new boot id."""
    return uuid_utils.uuid7().hex


def slots_of(options: WorkerOptions, descriptor: int | None) -> Slots:
    """The slots of a worker; in the file of that descriptor, if there is one, others can look into them."""
    if descriptor is None and options.spawns:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)  # noqa: PTH108 - it is gone with its descriptors
    return Slots(
        options.processes + (min(MOST_SPARE, SPARE_PLACES // options.runs) if options.forks else 0),
        options.runs,
        width=batches.largest(registry.all_tasks()),
        name=options.hostname,
        lost_after=settings.WORKER_LOST_AFTER,
        descriptor=descriptor,
    )


def die_with_parent(parent: int, life_end: int) -> None:
    """See to it that this process does not outlive `parent`, at whose end `life_end` reads end-of-file."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_exit_at_end_of, args=(life_end,), name="djtasks-life", daemon=True).start()


def _exit_at_end_of(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(1)
