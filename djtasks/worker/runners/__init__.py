"""Runners: how a process runs jobs. They take them from the consumer, and hand what becomes of them to the child."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from django.utils.module_loading import import_string

from djtasks.worker.runners.base import Runner

_RUNNERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prefork": "djtasks.worker.runners.main_thread.MainThread",
        "solo": "djtasks.worker.runners.main_thread.MainThread",
        "threads": "djtasks.worker.runners.threads.Threads",
        "asyncio": "djtasks.worker.runners.coroutines.Coroutines",
        "gevent": "djtasks.worker.runners.greenlets.Greenlets",
    }
)


def runner_of(pool: str) -> type[Runner]:
    """The runner of the pool of that name; it is imported only now, as it may need what others have not."""
    runner: type[Runner] = import_string(_RUNNERS[pool])
    return runner
