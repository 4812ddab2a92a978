"""Coroutines on one event loop, in the main thread: hundreds of `async def` jobs at a time.

All else that is the user's is called in threads, since it may block: what comes before and after a coroutine (signals,
hooks, what a job finds when it starts), and tasks that are no coroutine functions.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

from djtasks import registry
from djtasks.worker import tidying
from djtasks.worker.gathering import Call
from djtasks.worker.runners.base import Runner
from djtasks.worker.thread_limits import ThreadAlarm

if TYPE_CHECKING:
    from djtasks.worker.child import Child

logger = logging.getLogger("djtasks.worker")
R = TypeVar("R")

STEPPERS: Final = 8  # threads for what comes before and after coroutines


class Coroutines(Runner):
    """Runs `runs` jobs at a time; each has a place in the slot of the child."""

    def __init__(self, child: Child) -> None:
        super().__init__(child)
        runs = child.options.runs
        self.limiter = ThreadAlarm(child.options.limits, clean=tidying.close_connections)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(runs):
            self._free.put(place)
        self._steppers = Crew(min(STEPPERS, runs), "djtasks-step")
        self._threads = Crew(runs, "djtasks-sync")
        self._jobs: set[asyncio.Task[None]] = set()
        self._tidied = 0.0  # when the thread was that coroutines have for what blocks (monotonic)

    def run(self) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            ended = asyncio.Event()
            feeder = threading.Thread(target=self._feed, args=(loop, ended), name="djtasks-feeder", daemon=True)
            feeder.start()
            self._to_its_end(loop, self._served(ended))
        for crew in (self._steppers, self._threads):
            crew.close()

    def tidy_up(self) -> None:
        tidying.tidy_up()

    def _feed(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        """Take jobs from the consumer, one for each place that is free; in a thread, as it blocks."""
        while True:
            place = self._free.get()
            call = self.child.consumer.next()
            if call is None:
                loop.call_soon_threadsafe(ended.set)
                return
            loop.call_soon_threadsafe(self._begin, call, place)

    def _to_its_end(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
        """Run the loop until `work` is done, whatever is raised through it by something that a job has left in it."""
        task = loop.create_task(work)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt):
                logger.exception("Something that a job has started in the event loop wanted to leave; it goes on")

    async def _served(self, ended: asyncio.Event) -> None:
        await ended.wait()
        while self._jobs:
            await asyncio.wait(self._jobs)

    def _begin(self, call: Call, place: int) -> None:
        task = registry.find(call[0].message.task)
        is_coroutine = task is not None and task.is_async
        job = asyncio.create_task((self._await if is_coroutine else self._call)(call, place))
        self._jobs.add(job)
        job.add_done_callback(lambda job: self._ended(job, place))

    def _ended(self, job: asyncio.Task[None], place: int) -> None:
        self._jobs.discard(job)
        try:
            job.result()
        except BaseException:
            self.fail()
        self._free.put(place)

    async def _call(self, call: Call, place: int) -> None:
        await self._threads.run(lambda: self.child.work(call, place))

    async def _await(self, call: Call, place: int) -> None:
        child, started = self.child, time.monotonic()
        execution = child.execution(call, place)
        if await self._steppers.run(execution.prepare):
            # In a task of its own, so that nobody is in its context when the threads are.
            await asyncio.create_task(execution.acall(), context=execution.context)
            await self._tidy_up_after_coroutines()
        await self._steppers.run(lambda: child.ended(call, place, execution.conclude(), time.monotonic() - started))

    async def _tidy_up_after_coroutines(self) -> None:
        """Look at the connections of the one thread in which coroutines do what blocks (`sync_to_async`)."""
        now = time.monotonic()
        if now - self._tidied > tidying.CONNECTION_CHECK:
            self._tidied = now
            await sync_to_async(tidying.tidy_up)()


class Crew:
    """Threads that do what they are given, `most` at a time; each comes when it is needed."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0

    async def run(self, function: Callable[[], R]) -> R:
        """Call it in one of the threads. For the thread of the event loop."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[R] = loop.create_future()

        def call() -> None:
            try:
                value = function()
            except BaseException as error:
                loop.call_soon_threadsafe(done.set_exception, error)
            else:
                loop.call_soon_threadsafe(done.set_result, value)

        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._work.put(call)
        try:
            return await done
        finally:
            self._busy -= 1

    def close(self) -> None:
        """Let the threads go, once they have done what they were given."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (call := self._work.get()) is not None:
            call()
        connections.close_all()
