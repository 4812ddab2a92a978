"""The outcome of a job that ran in the caller's process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from djtasks import states
from djtasks.result.handles import AsyncResult, Value


class EagerResult(AsyncResult[Value]):
    """The outcome of a job that ran in the caller's process; nothing is stored. `attempts`: as a row has them."""

    is_stored = False

    def __init__(
        self,
        id: str,
        value: Any,
        state: str,
        *,
        traceback: str | None = None,
        name: str | None = None,
        attempts: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(id, name=name)
        self.attempts = attempts
        self._value = value
        self._state = state
        self._traceback = traceback
        self._children: list[Any] = []

    @property
    def row(self) -> None:
        return None

    @property
    def state(self) -> str:
        return self._state

    status = state

    def ready(self) -> bool:
        return True

    def is_known(self) -> bool:
        return True

    def raise_if_known(self) -> None:
        self.get()

    @property
    def result(self) -> Any:
        return self._value

    info = result

    @property
    def traceback(self) -> str | None:
        return self._traceback

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        disable_sync_subtasks: bool = True,
    ) -> Value:
        """The value at once; raises the exception that the job ended with, if `propagate`."""
        if self._state in states.PROPAGATE_STATES and propagate:
            self.raise_error_before()
            self.maybe_throw()
        return self._value  # type: ignore[no-any-return]

    wait = get

    @property
    def children(self) -> list[Any]:
        """The results of what followed it."""
        return self._children

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> None:
        if propagate and self._state in states.PROPAGATE_STATES:
            raise self._value if isinstance(self._value, BaseException) else RuntimeError(str(self._value))

    def revoke(self, terminate: bool = False, signal: str | int | None = None) -> None:
        """It has ended already."""

    def forget(self) -> None:
        """Nothing was stored."""

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    async def aget(self, *args: Any, **kwargs: Any) -> Value:
        """`get`, awaitable."""
        return self.get(*args, **kwargs)
