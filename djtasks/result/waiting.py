"""Whether the caller may wait for a result: inside a task it may not, unless it has said so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from djtasks.request import current_job

_join_allowed: ContextVar[bool] = ContextVar("djtasks_join_allowed", default=False)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow `AsyncResult.get()` inside a task. The job waited for may need the very process that waits."""
    token = _join_allowed.set(True)
    try:
        yield
    finally:
        _join_allowed.reset(token)


def check_join(guarded: bool) -> None:
    """Raise RuntimeError inside a task that has not allowed itself to wait for others."""
    if guarded and current_job() and not _join_allowed.get():
        raise RuntimeError(
            "Never call result.get() within a task! It may wait for the process that it runs in. "
            "`result.result` has the value of a job that has ended; see also djtasks.result.allow_join_result()."
        )
