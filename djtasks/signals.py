"""Celery's signals, as Django signals.

Arguments are Celery's. Handlers run in the process that sends; a handler that raises is logged and
stops nobody else (`send_robust`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar, overload

import django.dispatch

logger = logging.getLogger("djtasks.signals")

Receiver = TypeVar("Receiver", bound=Callable[..., Any])


class Signal(django.dispatch.Signal):
    """A Django signal whose `connect` is a decorator too, bare or with options, and keeps the receiver.

    Django's `connect` returns None and holds receivers weakly: `@signal.connect` would lose the
    function at once. Here the receiver is returned, and held strongly unless `weak=True` is said.
    A sender may be a text, such as the name of a task.
    """

    def __init__(self) -> None:
        super().__init__()
        self._names: set[str] = set()  # keeps interned what Django compares by identity

    @overload  # type: ignore[override]  # Django's returns None
    def connect(
        self, receiver: Receiver, sender: Any = None, weak: bool = False, dispatch_uid: Any = None
    ) -> Receiver: ...
    @overload
    def connect(
        self, receiver: None = None, sender: Any = None, weak: bool = False, dispatch_uid: Any = None
    ) -> Callable[[Receiver], Receiver]: ...
    def connect(self, receiver: Any = None, sender: Any = None, weak: bool = False, dispatch_uid: Any = None) -> Any:
        """Connect `receiver` and return it; without one, return a decorator."""
        if receiver is None:
            return lambda function: self.connect(function, sender, weak, dispatch_uid)
        if isinstance(sender, str):
            sender = _identical(sender)
            self._names.add(sender)
        super().connect(receiver, sender=sender, weak=bool(weak), dispatch_uid=dispatch_uid)
        return receiver

    def disconnect(self, receiver: Any = None, sender: Any = None, dispatch_uid: Any = None) -> bool:
        """Undo `connect`. Returns whether there was something to undo."""
        return super().disconnect(receiver, _identical(sender), dispatch_uid)

    def notify(self, sender: Any, **named: Any) -> None:
        """Send to all receivers; what one raises is logged. Costs next to nothing without receivers."""
        if not self.receivers:
            return
        for receiver, answer in self.send_robust(_identical(sender), **named):
            if isinstance(answer, Exception):
                logger.error("Signal receiver %r raised %r", receiver, answer, exc_info=answer)


def _identical(sender: Any) -> Any:
    return sys.intern(str(sender)) if isinstance(sender, str) else sender


before_task_publish = Signal()  # sender=name, body, headers, exchange, routing_key, declare, properties, retry_policy
after_task_publish = Signal()  # sender=name, body, headers, exchange, routing_key
task_received = Signal()  # request
task_prerun = Signal()  # sender=task, task_id, task, args, kwargs
task_postrun = Signal()  # sender=task, task_id, task, args, kwargs, retval, state
task_success = Signal()  # sender=task, result, task_id
task_failure = Signal()  # sender=task, task_id, exception, args, kwargs, traceback, einfo
task_retry = Signal()  # sender=task, request, reason, einfo
task_revoked = Signal()  # sender=task, request, terminated, signum, expired
task_unknown = Signal()  # name, id, message, exc
task_rejected = Signal()  # message, exc
worker_init = Signal()
worker_ready = Signal()
worker_process_init = Signal()
worker_process_shutdown = Signal()  # pid, exitcode
worker_shutting_down = Signal()  # sig, how, exitcode
worker_shutdown = Signal()
heartbeat_sent = Signal()
beat_init = Signal()
setup_logging = Signal()  # loglevel, logfile, format, colorize
