"""What a task may be called with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD


class Parameters:
    """The parameters of a task's function."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.signature = signature
        parameters = signature.parameters.values()
        self._is_plain = all(each.kind is _PLAIN for each in parameters)
        self._names = tuple(signature.parameters)
        self._required = sum(each.default is inspect.Parameter.empty for each in parameters)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError unless a call with these fits."""
        if not self._plainly_fit(args, kwargs):
            self.signature.bind(*args, **kwargs)

    def _plainly_fit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether counting tells that they fit. `bind` takes ten times as long, and says what is wrong."""
        given = len(args)
        if not self._is_plain or given > len(self._names):
            return False
        if not kwargs:
            return given >= self._required
        return kwargs.keys() <= {*self._names[given:]} and kwargs.keys() >= {*self._names[given : self._required]}
