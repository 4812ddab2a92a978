"""One call of a batch function, for several jobs: what it returns, or raises, is handed out to them."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from djtasks import batches
from djtasks.limits import Limiter, Unlimited
from djtasks.request import Request, Running, running

if TYPE_CHECKING:
    from djtasks.task import Task


class Run(Protocol):
    """The run of one of the jobs."""

    request: Request

    def receive(self, value: Any) -> None:
        """Take its result, or the exception with which it ends."""


def call(task: Task[Any, Any], runs: Sequence[Run], limiter: Limiter) -> None:
    """Call the task with the requests of these runs, in a context of its own."""
    copy_context().run(_call, task, runs, limiter)


def _call(task: Task[Any, Any], runs: Sequence[Run], limiter: Limiter) -> None:
    requests, limit = _begun(task, runs, limiter)
    try:
        results = batches.results_of(task.invoke([requests], {}, limit), len(runs))
    except BaseException as error:  # sys.exit() in a task ends its jobs, not the worker
        results = [error] * len(runs)
    _hand_out(runs, results)


async def acall(task: Task[Any, Any], runs: Sequence[Run], limiter: Limiter) -> None:
    """`call` of an `async def` task. For an asyncio task with a context of its own."""
    requests, limit = _begun(task, runs, limiter)
    try:
        results = batches.results_of(await task.ainvoke([requests], {}, limit), len(runs))
    except BaseException as error:
        results = [error] * len(runs)
    _hand_out(runs, results)


def _begun(task: Task[Any, Any], runs: Sequence[Run], limiter: Limiter) -> tuple[list[Request], Unlimited]:
    """The requests; and what limits the call, which is a run of none of the jobs alone."""
    requests = [each.request for each in runs]
    first = requests[0]
    soft = batches.shortest(each.soft_time_limit for each in requests)
    own = Request(
        task=task.name,
        hostname=first.hostname,
        is_eager=first.is_eager,
        called_directly=False,
        time_limit=batches.shortest(each.time_limit for each in requests),
        soft_time_limit=soft,
    )
    running.set(Running(task, own, own))
    return requests, limiter.limit(soft)


def _hand_out(runs: Sequence[Run], results: Sequence[Any]) -> None:
    for run, result in zip(runs, results, strict=True):
        run.receive(result)
