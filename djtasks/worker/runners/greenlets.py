"""Greenlets: `Threads` under gevent's monkey patch, which makes of each thread a greenlet. See `spawned`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gevent
import greenlet
from gevent import monkey

from djtasks.limits import UNLIMITED, Unlimited
from djtasks.worker.limits import LONGEST_PAUSE, Alarm, SoftLimit, is_ours
from djtasks.worker.runners.threads import Threads
from djtasks.worker.thread_limits import SPARED
from djtasks.worker.tidying import close_connections

if TYPE_CHECKING:
    from djtasks.worker.child import Child


class Greenlets(Threads):
    """Runs jobs in `runs` greenlets."""

    def __init__(self, child: Child) -> None:
        if not monkey.is_module_patched("threading"):
            raise RuntimeError("The gevent pool runs under gevent's monkey patch alone.")
        super().__init__(child)
        self.limiter = GreenletAlarm(child.options.limits, clean=close_connections)
        _let_event_loops_run()


class GreenletLimit(SoftLimit):
    """A limit of `seconds` for one call in a greenlet: raised where it waits, since nothing else can run before."""

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._greenlet = gevent.getcurrent()
        self._timer = gevent.get_hub().loop.timer(self.seconds)
        self._timer.start(self._ring)
        try:
            return function(*args, **kwargs)
        finally:
            self._timer.close()
            self._end()

    def _ring(self) -> None:
        """Raise the error in the greenlet, or look again in a moment. For the hub: the greenlet waits meanwhile."""
        if is_ours(self._greenlet.gr_frame, GreenletLimit.call.__code__, SPARED):
            self._timer.close()
            self._timer = gevent.get_hub().loop.timer(self.pause)
            self.pause = min(self.pause * 2, LONGEST_PAUSE)
            self._timer.start(self._ring)
            return
        self.fired = True
        self._greenlet.throw(self.error())


class GreenletAlarm(Alarm):
    """Raises in greenlets whose soft limits are over."""

    def limit(self, seconds: float | None) -> Unlimited:
        return GreenletLimit(self, seconds) if seconds else UNLIMITED


class _Loops:
    """Lets each greenlet of this thread have an event loop of its own.

    asyncio knows of one that runs in a thread. So at each switch that of the greenlet which stops is taken down, and
    that of the one which goes on is put up.
    """

    def __init__(self, before: Callable[[str, Any], None] | None) -> None:
        self._before = before  # who traced switches until now
        self._waiting: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def switched(self, event: str, greenlets: Any) -> None:
        """Called by greenlet, in the one that goes on."""
        stopped, going_on = greenlets
        running, own = asyncio._get_running_loop(), self._waiting.pop(going_on, None)
        if running is not None:
            self._waiting[stopped] = running
        if running is not own:
            asyncio._set_running_loop(own)
        if self._before is not None:
            self._before(event, greenlets)


def _let_event_loops_run() -> None:
    greenlet.settrace(_Loops(greenlet.gettrace()).switched)
