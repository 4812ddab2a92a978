"""One task for each element of something: `xmap` and `xstarmap` in one job, `chunks` in several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, Self

from djtasks.canvas.composed import Composed
from djtasks.canvas.primitives import group
from djtasks.canvas.signatures import Signature, signature

SHOWN: Final = 60  # characters of the elements in a repr


class _Mapped(Signature):
    """One job that calls a task for each element."""

    NAME = ""
    KIND = ""

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        super().__init__(
            self.NAME, (), {"task": dict(signature(task)), "it": list(it)}, options, self.KIND, immutable=True
        )

    @classmethod
    def _rebuilt(cls, values: Mapping[str, Any]) -> Self:
        return cls(values["kwargs"]["task"], values["kwargs"]["it"])._with_rest(values)

    def __repr__(self) -> str:
        shown = repr(self.kwargs["it"])
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
        return f"[{self.kwargs['task']['task']}({'*x' if self.KIND == 'xstarmap' else 'x'}) for x in {shown}]"


@Signature.register_type("xmap")
class xmap(_Mapped):
    """`[task(x) for x in it]`, in one job."""

    NAME = "djtasks.map"
    KIND = "xmap"


@Signature.register_type("xstarmap")
class xstarmap(_Mapped):
    """`[task(*x) for x in it]`, in one job."""

    NAME = "djtasks.starmap"
    KIND = "xstarmap"


@Signature.register_type("chunks")
class chunks(Composed):
    """The calls of `starmap` in jobs of `n` calls each; its result is that of a group of lists."""

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        parts = {"task": dict(signature(task)), "it": list(it), "n": n}
        super().__init__("djtasks.chunks", (), parts, options, "chunks", immutable=True)

    @classmethod
    def _rebuilt(cls, values: Mapping[str, Any]) -> Self:
        return cls(*(values["kwargs"][name] for name in ("task", "it", "n")))._with_rest(values)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int) -> Any:
        return cls(task, it, n)()

    def group(self) -> group:
        """The jobs that it becomes."""
        calls = iter(self.kwargs["it"])
        made = group([xstarmap(self.kwargs["task"], part) for part in iter(lambda: list(islice(calls, self._n)), [])])
        made.options.update(self.options)
        return made

    @property
    def _n(self) -> int:
        n = self.kwargs["n"]
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"chunks must be of at least one call each, not {n!r}.")
        return n

    def __or__(self, other: Any) -> Any:
        return self.group() | other

    def freeze(self, _id: str | None = None, **places: Any) -> Any:
        return self.group().freeze(_id, **places)

    def __repr__(self) -> str:
        return f"{xstarmap(self.kwargs['task'], self.kwargs['it'])!r} in chunks of {self.kwargs['n']}"
