"""The parent of one worker: starts its keeper and its children, watches them, replaces the dead.

It has no threads and no connections, so that it may fork at any time. Children and keeper die with
it: by PR_SET_PDEATHSIG on Linux, and everywhere by the end of a pipe.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NoReturn

from djtasks import signals
from djtasks.conf import settings
from djtasks.worker import pools, spawned
from djtasks.worker.child import Child, run_child
from djtasks.worker.descriptors import readable
from djtasks.worker.enforcer import Enforcer
from djtasks.worker.keeping import keep
from djtasks.worker.options import WorkerOptions
from djtasks.worker.orders import Orders, changes, queue_deeds
from djtasks.worker.processes import (
    Process,
    cause,
    die_with_parent,
    kill_group,
    last_word,
    new_worker_id,
    slots_of,
    tell_of_death,
)
from djtasks.worker.runners import runner_of
from djtasks.worker.scale import Scale
from djtasks.worker.stops import STOP_SIGNALS
from djtasks.worker.tidying import close_for_fork

logger = logging.getLogger("djtasks.worker")

TICK: Final = 0.5  # seconds; bounds how late a missed signal is noticed
LAST_WORDS: Final = 3.0  # seconds that the keeper has to sign off; the store may not answer
KEEPER_PAUSE: Final = 0.5  # seconds before a keeper that died young is replaced
SHORT_LIFE: Final = 1.0  # seconds; a child that dies sooner is replaced with a delay
LONGEST_DELAY: Final = 5.0  # seconds


class Supervisor:
    """Runs a worker until it is told to stop. `parent_pipe`: a descriptor at whose end the worker stops, too."""

    def __init__(self, options: WorkerOptions, parent_pipe: int | None = None, slots_file: int | None = None) -> None:
        self.options = options
        self.slots = slots_of(options, slots_file)
        self._enforcer = Enforcer(self.slots)
        self._scale = Scale(self.slots, options.least, options.processes) if options.least is not None else None
        self._orders = Orders(
            {
                "shutdown": lambda _word: None if self._stops else self.stop(),
                "pool_restart": lambda _word: self._restart(),
                "pool_grow": lambda word: self._resize(self.options.processes + word["count"]),
                "pool_shrink": lambda word: self._resize(self.options.processes - word["count"]),
                **queue_deeds(lambda: self.options, self._become),
            }
        )
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
        for index in range(self.options.least or self.options.processes):
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
        close_for_fork()
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGQUIT, self.kill)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that its byte arrives below
        signal.set_wakeup_fd(self._signal_source, warn_on_full_buffer=False)
        # What exists now is shared with the children for as long as nobody touches it.
        if self.options.pool != "gevent":  # which changes the process that imports it
            runner_of(self.options.pool)
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
            self._adapt()
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
        # With gevent only what runs jobs has to begin anew.
        if self.options.spawns and (self.options.pool != "gevent" or pools.copies_are_unsafe()):
            life_end = self._life_end
            spawned.become_keeper(self._worker, number, self.slots, self.options, life_end, source, sink)
        keep(self._worker, number, self.slots, self.options, source, sink)

    def _fork_child(self, index: int) -> None:
        owner = f"{self._worker}.{self._number}"
        self._number += 1
        self.slots.give(index, owner)
        if self.options.spawns:
            pid = self._fork(lambda: spawned.become_child(owner, index, self.slots, self.options, self._life_end))
        else:
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
            *(() if keep else (self.options.scrape or ())[:2]),  # the port is the keeper's
        ):
            if descriptor is not None and descriptor not in keep:
                os.close(descriptor)
        die_with_parent(parent, self._life_end)

    def _give_birth(self) -> None:
        now = time.monotonic()
        due = [index for when, index in self._births if when <= now]
        self._births = [each for each in self._births if each[0] > now]
        for index in due:
            self._fork_child(index)

    def _adapt(self) -> None:
        """Have as many children as there is work for."""
        if self._scale is None:
            return
        working = self._working()
        missing = self._scale.missing([*working]) if working and not self._births else 0
        if missing < 0:
            process = working[self._scale.idlest([*working])]
            logger.info("Child %d has had nothing to do and is let go: %d stay", process.pid, len(working) - 1)
            self._let_go(process)
        elif missing:
            logger.info("Jobs wait and all children work: %d more", self._beget(missing))

    def _working(self) -> dict[int, Process]:
        """The children that are to stay, by their slots."""
        return {each.index: each for each in self._children.values() if each.index is not None and not each.leaves}

    def _beget(self, count: int) -> int:
        """Let so many more children be born, as far as slots are free. Returns how many."""
        taken = {each.index for each in self._children.values()} | {index for _when, index in self._births}
        free = [index for index in range(self.slots.count) if index not in taken][:count]
        self._births += [(time.monotonic(), index) for index in free]
        return len(free)

    def _let_go(self, process: Process) -> None:
        process.leaves = True
        os.kill(process.pid, signal.SIGTERM)

    # What an operator asks for

    def _restart(self) -> None:
        """Replace all children, each once what it runs has ended."""
        for process in self._children.values():
            process.returns = True
        self._ask_children_to_stop()

    def _resize(self, wanted: int) -> None:
        """Have so many children; with `--autoscale`, so many at most. Who is let go finishes what he runs."""
        processes = max(self.options.least or 1, min(wanted, self.slots.count))
        if processes != wanted:
            logger.warning("Of the %d children that were asked for there will be %d", wanted, processes)
        self._become(replace(self.options, processes=processes))
        surplus = len(self._working()) + len(self._births) - processes
        while surplus > 0 and self._births:
            self._births.pop()
            surplus -= 1
        idle_first = sorted(self._working().items(), key=lambda each: self.slots.busy(each[0]))
        for _index, process in idle_first[: max(0, surplus)]:
            self._let_go(process)
        if self._scale is None:
            self._beget(max(0, -surplus))
        else:
            self._scale.most = processes

    def _become(self, options: WorkerOptions) -> None:
        """Go on with these options, and let all processes know."""
        self.slots.tell_queues(options.queues, options.excluded)
        self.options = options
        self._tell({"become": changes(options)})

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
        running = list(self.slots.running(process.index).values())
        died = code != 0 or bool(running)  # os._exit(0) in a task is a death like others
        if died:
            kill_group(pid)
            tell_of_death(process, code, running, is_cut_off=self._stops > 1)
            word = last_word(process, () if self._stops > 1 else running)  # cut off by us, it goes back uncounted
            self._dead[process.owner] = word
            self._tell(word)
        if process.leaves:
            self.slots.give(process.index, "")
        elif not self._stops and (died or process.returns or not self.options.burst):
            self._births.append((time.monotonic() + self._delay(process, died), process.index))

    def _delay(self, process: Process, died: bool) -> float:
        """Seconds until a dead child is replaced: none, unless children die young, one after another."""
        young = died and not process.sentences and time.monotonic() - process.born < SHORT_LIFE
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
            if "waiting" in word and self._scale is not None:
                self._scale.is_waiting = word["waiting"]
            if "terminate" in word:
                self._enforcer.revoke(word["terminate"], word["signal"])
            if "order" in word and not self._stops:
                self._orders.take(word)
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
