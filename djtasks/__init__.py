"""Background jobs for Django: declared with `@shared_task`, queued in the database, seen in the admin.

Names are looked up on first use (PEP 562): INSTALLED_APPS imports this package before models may
load, and settings modules import from it before Django is set up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from djtasks import control, registry, states
    from djtasks.batches import Batch
    from djtasks.canvas import Signature, chain, chord, chunks, group, send_task, signature, xmap, xstarmap
    from djtasks.declare import shared_task
    from djtasks.request import current_task
    from djtasks.result import AsyncResult, EagerResult, GroupResult, ResultSet
    from djtasks.schedules import crontab, schedule
    from djtasks.task import Task
    from djtasks.unique import Unique

__version__ = "0.1.0"

_HOMES = {
    "AsyncResult": "djtasks.result",
    "Batch": "djtasks.batches",
    "EagerResult": "djtasks.result",
    "GroupResult": "djtasks.result",
    "ResultSet": "djtasks.result",
    "Signature": "djtasks.canvas",
    "Task": "djtasks.task",
    "Unique": "djtasks.unique",
    "chain": "djtasks.canvas",
    "chord": "djtasks.canvas",
    "chunks": "djtasks.canvas",
    "group": "djtasks.canvas",
    "crontab": "djtasks.schedules",
    "current_task": "djtasks.request",
    "schedule": "djtasks.schedules",
    "send_task": "djtasks.canvas",
    "shared_task": "djtasks.declare",
    "signature": "djtasks.canvas",
    "xmap": "djtasks.canvas",
    "xstarmap": "djtasks.canvas",
}
_MODULES = ("control", "registry", "states")

__all__ = [
    "AsyncResult",
    "Batch",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "Signature",
    "Task",
    "Unique",
    "chain",
    "chord",
    "chunks",
    "control",
    "crontab",
    "current_task",
    "group",
    "registry",
    "schedule",
    "send_task",
    "shared_task",
    "signature",
    "states",
    "xmap",
    "xstarmap",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"djtasks.{name}")
    raise AttributeError(f"module 'djtasks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
