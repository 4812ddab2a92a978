"""Unique jobs: of those with the same key only one waits or runs; who sends another gets the handle on that one."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from djtasks import encoding
from djtasks.message import Uniqueness

LONGEST_NAME: Final = 90  # characters of the task's name in a key


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """How the jobs of a task are unique.

    `key`: an argument's name, several names, or a function of the arguments; None: all arguments. `for_`: also for so
    long after it was sent, even if it has ended. `until`: its "start" or "finish" (by default, but with `replace`
    "start"). `replace`: what waits gets the arguments and the time of the one that is sent.
    """

    key: str | Sequence[str] | Callable[..., Any] | None = None
    for_: timedelta | float | None = None
    until: Literal["start", "finish"] | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        if self.until not in (None, "start", "finish"):
            raise ValueError(f"Unique(until=…) is 'start' or 'finish', not {self.until!r:.100}.")
        if not isinstance(self.replace, bool):
            raise ValueError(f"Unique(replace=…) is True or False, not {self.replace!r:.100}.")
        seconds = self.seconds
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0):
            raise ValueError(f"Unique(for_=…) is a timedelta, or a number of seconds above 0, not {self.for_!r:.100}.")

    @property
    def seconds(self) -> float | None:
        """`for_` in seconds."""
        return self.for_.total_seconds() if isinstance(self.for_, timedelta) else self.for_

    @property
    def uniqueness(self) -> Uniqueness:
        """What of it travels with a message."""
        until_start = self.until == "start" or (self.until is None and self.replace)
        return Uniqueness(until_start, self.seconds, self.replace)


def unique_of(task: Any) -> Unique | None:
    """How jobs of a task are unique; None if they are not. Raises ValueError for what cannot be."""
    chosen = getattr(task, "unique", None)
    if chosen is None or chosen is False:
        return None
    found = Unique() if chosen is True else chosen
    if not isinstance(found, Unique):
        raise ValueError(f"{task.origin}: unique is True or djtasks.Unique(…), not {chosen!r:.100}.")
    names = (found.key,) if isinstance(found.key, str) else found.key
    if names is not None and not callable(names):
        _check_names(task, names)
    return found


def _check_names(task: Any, names: Any) -> None:
    parameters = task.parameters.parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    if not isinstance(names, Sequence) or not all(isinstance(each, str) for each in names):
        raise ValueError(f"{task.origin}: Unique(key=…) names arguments, or is a function of them, not {names!r:.100}.")
    for name in names:
        if name not in parameters and not takes_any:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"{task.origin}: Unique(key={name!r:.100}) names no argument. Its arguments: {known}.")


def key_of(task: Any, unique: Unique, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The key of a call: the task's name, and a hash of what makes calls the same, by position or by name.

    Raises what the user's function does.
    """
    values: dict[str, Any]
    if callable(unique.key):
        values = {"": unique.key(*args, **kwargs)}
    else:
        values = _arguments(task, args, kwargs)
        if unique.key is not None:
            names = (unique.key,) if isinstance(unique.key, str) else unique.key
            values = {name: values.get(name) for name in names}
    text = encoding.encode_arguments((), dict(sorted(values.items())))[1]
    digest = hashlib.sha256(f"{task.name} {text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{task.name[:LONGEST_NAME]}:{digest}"


def _arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = task.parameters.bind(*args, **kwargs)
    except TypeError:  # with typing=False; the job will fail
        return {"args": list(args), **kwargs}
    bound.apply_defaults()
    values = dict(bound.arguments)
    for name, parameter in task.parameters.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            values.update(values.pop(name))
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            values[name] = list(values[name])
    return values
