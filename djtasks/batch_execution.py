"""What runs in one call: the execution of one job, or those of the jobs of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context, copy_context

from djtasks import batch_call
from djtasks.execution import Execution
from djtasks.limits import NO_LIMITER, Limiter
from djtasks.message import Outcome


class BatchExecution:
    """Executions of one task that share a call: each is prepared, judged and concluded for itself.

    One that is not to run (revoked, expired, …) has no part in the call. The steps are those of `Execution`.
    """

    def __init__(self, executions: Sequence[Execution], limiter: Limiter = NO_LIMITER) -> None:
        self.executions = executions
        self._limiter = limiter
        self._prepared: list[Execution] = []

    def run(self) -> list[Outcome]:
        """Run all, and say how each ended. Raises nothing."""
        if self.prepare():
            if len(self.executions) == 1:
                self.executions[0].call()
            else:
                batch_call.call(self._prepared[0].task, self._prepared, self._limiter)
        return self.conclude()

    def prepare(self) -> bool:
        """Come to the task's own code. Returns whether that is to be called, within `context`."""
        self._prepared = [each for each in self.executions if each.prepare()]
        return bool(self._prepared)

    @property
    def context(self) -> Context:
        """That of the call."""
        return self.executions[0].context if len(self.executions) == 1 else copy_context()

    async def acall(self) -> None:
        """The call of an `async def` task. For an asyncio task of this `context`."""
        if len(self.executions) == 1:
            await self.executions[0].acall()
        else:
            await batch_call.acall(self._prepared[0].task, self._prepared, self._limiter)

    def conclude(self) -> list[Outcome]:
        """Say how each ended."""
        return [each.conclude() for each in self.executions]
