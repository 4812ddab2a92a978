"""The parent of one worker: starts its keeper and its children, watches them, replaces the dead.

It has no threads and no connections, so that it may fork at any time. Children and keeper die with
it: by PR_SET_PDEATHSIG on Linux, and everywhere by the end of a pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final, NoReturn

import uuid_utils
from django.db import connections

from djtasks import signals
from djtasks.conf import settings
from djtasks.worker.child import STOP_SIGNALS, Child, run_child, take_signals
from djtasks.worker.descriptors import readable
from djtasks.worker.enforcer import Enforcer
from djtasks.worker.keeper import Keeper, run_keeper
from djtasks.worker.options import WorkerOptions
from djtasks.worker.processes import Process, cause, kill_group
from djtasks.worker.slots import Slots, Started, clock

logger = logging.getLogger("djtasks.worker")

TICK: Final = 0.5  # seconds; bounds how late a missed signal is noticed
LAST_WORDS: Final = 3.0  # seconds that the keeper has to sign off; the store may not answer
KEEPER_PAUSE: Final = 0.5  # seconds before a keeper that died young is replaced
SHORT_LIFE: Final = 1.0  # seconds; a child that dies sooner is replaced with a delay
LONGEST_DELAY: Final = 5.0  # seconds
_PR_SET_PDEATHSIG: Final = 1


class Supervisor:
    """Runs a worker until it is told to stop. `parent_pipe`: a descriptor at whose end the worker stops, too."""

    def __init__(self, options: WorkerOptions, parent_pipe: int | None = None, slots_file: int | None = None) -> None:
        self.options = options
        self.slots = slots_of(options, slots_file)
        self._enforcer = Enforcer(self.slots)
        self._parent_pipe = parent_pipe
        self._worker = new_worker_id()
        self._number = 0  # of the next child: never used twice
        self._keepers = 0
        self._children: dict[int, Process] = {}  # by pid
        self._keeper: Process | None = None
        self._to_keeper: int | None = None
        self._from_keeper: int | None = None
        self._rest = b""
        self._dead: dict[str, dict[str, Any]] = {}  # what the keeper has not rescued yet, by owner
        self._births: list[tuple[float, int]] = []  # children to be born: when (monotonic), in which slot
        self._short_lives = 0
        self._stops = 0
        self._deadline: float | None = None
        self._signal_end, self._signal_source = os.pipe()
        self._life_end, self._life_source = os.pipe()
        for descriptor in (self._signal_end, self._signal_source):
            os.set_blocking(descriptor, False)

    def run(self) -> int:
        """Work until told to stop. Returns the exit code: 0, or 1 if jobs had to be cut off."""
        self._prepare()
        signals.worker_init.notify(sender=self)
        self._fork_keeper()
        for index in range(self.options.concurrency):
            self._fork_child(index)
        signals.worker_ready.notify(sender=self)
        while self._children or self._births:
            self._turn()
        self._end_keeper()
        signals.worker_shutdown.notify(sender=self)
        return 1 if self._stops > 1 else 0

    def stop(self, number: int = signal.SIGTERM, _frame: object = None) -> None:
        """Ask for a warm stop; the second time for a cold one. Safe in a signal handler."""
        self._stops += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._signal_source, b"\0")

    def kill(self, *_signal: object) -> NoReturn:
        """End at once: whatever was claimed goes back when the other workers miss the beats."""
        for process in [*self._children.values(), *filter(None, [self._keeper])]:
            kill_group(process.pid)
        os._exit(1)

    def _prepare(self) -> None:
        connections.close_all()
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGQUIT, self.kill)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that its byte arrives below
        signal.set_wakeup_fd(self._signal_source, warn_on_full_buffer=False)
        # What exists now is shared with the children for as long as nobody touches it.
        gc.collect()
        gc.freeze()

    def _turn(self) -> None:
        descriptors = [each for each in (self._signal_end, self._from_keeper, self._parent_pipe) if each is not None]
        woken = readable(descriptors, self._patience())
        with contextlib.suppress(BlockingIOError):
            os.read(self._signal_end, 4096)
        if self._from_keeper in woken:
            self._hear()
        if self._parent_pipe in woken:
            self._parent_pipe = None
            self.stop()
        self._reap()
        self._enforcer.enforce(list(self._children.values()))
        self._obey()
        if not self._stops:
            self._give_birth()

    def _patience(self) -> float:
        due = [when - time.monotonic() for when, _ in self._births]
        return max(0.0, min([TICK, *due, self._enforcer.patience(list(self._children.values()))]))

    # Births

    def _fork_keeper(self) -> None:
        hear_end, tell_source = os.pipe()
        tell_end, hear_source = os.pipe()
        number, self._keepers = self._keepers, self._keepers + 1
        pid = self._fork(lambda: self._be_keeper(number, hear_end, hear_source), keep=(hear_end, hear_source))
        for descriptor in (hear_end, hear_source):
            os.close(descriptor)
        self._keeper = Process(pid, f"{self._worker}.k{number}", None)
        self._to_keeper, self._from_keeper, self._rest = tell_source, tell_end, b""
        for word in self._dead.values():
            self._tell(word)

    def _be_keeper(self, number: int, source: int, sink: int) -> None:
        def say(word: dict[str, Any]) -> None:
            os.write(sink, json.dumps(word).encode() + b"\n")

        # It stops when the supervisor says so, after the children.
        take_signals(lambda *_: None)
        run_keeper(Keeper(self._worker, number, self.slots, self.options, say), source)

    def _fork_child(self, index: int) -> None:
        owner = f"{self._worker}.{self._number}"
        self._number += 1
        self.slots.give(index, owner)
        pid = self._fork(lambda: run_child(Child(owner, index, self.slots, self.options)))
        self._children[pid] = Process(pid, owner, index)

    def _fork(self, work: Callable[[], object], keep: tuple[int, ...] = ()) -> int:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that comes before the new process has its own handlers would end in a copy of ours, unheard.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # here too: whoever of the two comes first
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            return pid
        code = 1
        try:
            os.setpgid(0, 0)  # a terminal's Ctrl-C is the supervisor's alone
            self._become_independent(parent, keep)
            work()
            code = 0
        except BaseException:
            logger.exception("A process of the worker failed")
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _become_independent(self, parent: int, keep: tuple[int, ...]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        for descriptor in (
            self._signal_end,
            self._signal_source,
            self._life_source,
            self._to_keeper,
            self._from_keeper,
        ):
            if descriptor is not None and descriptor not in keep:
                os.close(descriptor)
        _die_with_parent(parent, self._life_end)

    def _give_birth(self) -> None:
        now = time.monotonic()
        due = [index for when, index in self._births if when <= now]
        self._births = [each for each in self._births if each[0] > now]
        for index in due:
            self._fork_child(index)

    # Deaths

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._buried(pid, os.waitstatus_to_exitcode(status))

    def _buried(self, pid: int, code: int) -> None:
        if self._keeper is not None and pid == self._keeper.pid:
            self._replace_keeper(code)
            return
        process = self._children.pop(pid, None)
        if process is None or process.index is None:
            return
        started = self.slots.read(process.index)
        died = code != 0 or started is not None  # os._exit(0) in a task is a death like others
        if died:
            kill_group(pid)
            self._tell_of_death(process, code, started)
            word = self._last_word(process, started)
            self._dead[process.owner] = word
            self._tell(word)
        if not self._stops and (died or not self.options.burst):
            self._births.append((time.monotonic() + self._delay(process, died), process.index))

    def _last_word(self, process: Process, started: Started | None) -> dict[str, Any]:
        """What the keeper is to know of a death: whose, what ran, and whether that was ended by us."""
        sentence = process.sentence
        is_innocent = sentence is not None and started is not None and not sentence.is_of(started)
        # In a cold stop it was we who killed it: what it ran goes back uncounted.
        if started is None or is_innocent or self._stops > 1:
            return {"dead": process.owner, "started": None}
        about = asdict(sentence) if sentence is not None else None
        seconds = clock() - started.since
        return {"dead": process.owner, "started": [started.id, started.token], "seconds": seconds, "sentence": about}

    def _tell_of_death(self, process: Process, code: int, started: Started | None) -> None:
        if self._stops > 1:
            if started is not None:
                logger.info("Job %s was cut off; it goes back to its queue", started.id)
        elif process.sentence is None:
            ran = f" while it ran job {started.id}" if started is not None else ""
            logger.error("Child %d died (%s)%s", process.pid, cause(code), ran)

    def _delay(self, process: Process, died: bool) -> float:
        """Seconds until a dead child is replaced: none, unless children die young, one after another."""
        young = died and process.sentence is None and time.monotonic() - process.born < SHORT_LIFE
        self._short_lives = self._short_lives + 1 if young else 0
        return min(0.1 * 2**self._short_lives, LONGEST_DELAY) if self._short_lives > 1 else 0.0

    def _replace_keeper(self, code: int) -> None:
        logger.error("The keeper died (%s)", cause(code))
        if self._keeper is not None and time.monotonic() - self._keeper.born < SHORT_LIFE:
            time.sleep(KEEPER_PAUSE)
        self._close_keeper()
        if self._children or self._births:
            self._fork_keeper()

    # Words to and from the keeper

    def _tell(self, word: dict[str, Any]) -> None:
        if self._to_keeper is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._to_keeper, json.dumps(word).encode() + b"\n")

    def _hear(self) -> None:
        if self._from_keeper is None:
            return
        data = os.read(self._from_keeper, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word = json.loads(line)
            self._dead.pop(word.get("rescued", ""), None)
            if "terminate" in word:
                self._enforcer.revoke(word["terminate"], word["signal"])
            if word.get("lost") == self._worker:
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Others took this worker for dead and have its jobs: go on under a new name, with new processes."""
        logger.warning("This worker had been taken for dead; its processes are replaced")
        self._worker = new_worker_id()
        if self._keeper is not None:
            os.kill(self._keeper.pid, signal.SIGKILL)
            os.waitpid(self._keeper.pid, 0)
            self._close_keeper()
        self._fork_keeper()
        self._ask_children_to_stop()

    def _end_keeper(self) -> None:
        if self._keeper is None:
            return
        self._tell({"stop": True})
        deadline = time.monotonic() + LAST_WORDS
        while os.waitpid(self._keeper.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self._keeper.pid, signal.SIGKILL)
            time.sleep(0.01)
        self._close_keeper()

    def _close_keeper(self) -> None:
        for descriptor in (self._to_keeper, self._from_keeper):
            if descriptor is not None:
                os.close(descriptor)
        self._keeper = self._to_keeper = self._from_keeper = None

    # Stopping

    def _obey(self) -> None:
        """Do what the stops that were asked for so far demand."""
        if not self._stops:
            return
        if self._deadline is None:
            logger.info("Warm stop: what runs is finished, what waits goes back")
            signals.worker_shutting_down.notify(sender=self, sig="TERM", how="Warm", exitcode=0)
            self._births = []
            self._deadline = time.monotonic() + settings.WORKER_SHUTDOWN_TIMEOUT
            self._ask_children_to_stop()
        if self._stops == 1 and time.monotonic() > self._deadline:
            logger.warning("WORKER_SHUTDOWN_TIMEOUT is over: what still runs goes back")
            self._stops = 2
        if self._stops > 1:
            for process in self._children.values():
                kill_group(process.pid)

    def _ask_children_to_stop(self) -> None:
        for process in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)


def slots_of(options: WorkerOptions, descriptor: int | None) -> Slots:
    """The slots of a worker; in the file of that descriptor, if there is one, others can look into them."""
    lost_after = settings.WORKER_LOST_AFTER
    return Slots(options.concurrency, name=options.hostname, lost_after=lost_after, descriptor=descriptor)


def run_solo(options: WorkerOptions, parent_pipe: int | None = None, slots_file: int | None = None) -> int:
    """Run a worker in this very process: jobs in the main thread, the keeper in another. Returns the exit code."""
    slots = slots_of(options, slots_file)
    worker = new_worker_id()
    slots.give(0, f"{worker}.0")
    child = Child(f"{worker}.0", 0, slots, options)
    keeper = Keeper(worker, 0, slots, options, say=partial(_hear_alone, child))
    signals.worker_init.notify(sender=child)
    thread = threading.Thread(
        target=run_keeper, args=(keeper, parent_pipe, child.stop), name="djtasks-keeper", daemon=True
    )
    thread.start()
    signals.worker_ready.notify(sender=child)
    is_stored = run_child(child, settings.WORKER_SHUTDOWN_TIMEOUT)
    if not is_stored:
        logger.warning("WORKER_SHUTDOWN_TIMEOUT is over: what could not be stored goes back when the beats are missed")
    keeper.stopping = True
    thread.join(timeout=LAST_WORDS)
    signals.worker_shutdown.notify(sender=child)
    return 0 if is_stored else 1


def _hear_alone(child: Child, word: Mapping[str, Any]) -> None:
    """Take the keeper's words where there is no supervisor."""
    if "lost" in word:
        child.stop()
    if "terminate" in word:
        logger.warning("The solo pool cannot end what runs in its own process: it goes on to its end.")


def new_worker_id() -> str:
    """A new boot id."""
    return uuid_utils.uuid7().hex


def _die_with_parent(parent: int, life_end: int) -> None:
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
