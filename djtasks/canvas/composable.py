"""How a task becomes a part of a canvas: signatures of it, and jobs that call it with many elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from djtasks.canvas.maps import chunks, xmap, xstarmap
from djtasks.canvas.signatures import Signature


class Composable:
    """What a task has of the canvas."""

    name: str
    batch: Any

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature: this call, or the last part of its arguments, as data."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature that takes no more arguments, such as the result of what comes before it."""
        return Signature(self, args, kwargs, immutable=True)

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Signature:
        """A signature, with options of `apply_async` too."""
        return Signature(self, args, kwargs, options, **more)

    subtask = signature

    def map(self, it: Iterable[Any]) -> xmap:
        """One job that calls it with each element, and gives the list of the results."""
        self._check_single_calls()
        return xmap(self, it)

    def starmap(self, it: Iterable[Any]) -> xstarmap:
        """One job that calls it with each element's elements as arguments."""
        self._check_single_calls()
        return xstarmap(self, it)

    def chunks(self, it: Iterable[Any], n: int) -> chunks:
        """`starmap`, in jobs of `n` calls each."""
        self._check_single_calls()
        return chunks(self, it, n)

    def _check_single_calls(self) -> None:
        if self.batch is not None:
            raise TypeError(f"{self.name} gathers its jobs by itself: send one for each element, with enqueue_many.")
