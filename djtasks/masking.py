"""What people may read of arguments and results: values with a sensitive name stand as `MASK`.

A name is sensitive if it contains one of `TASK_SENSITIVE_ARGUMENTS`, in whatever case.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from djtasks.conf import settings

if TYPE_CHECKING:
    from djtasks.task import Task

MASK: Final = "********"
SHORTEST_SECRET: Final = 4  # characters
LONGEST_EXCERPT: Final = 200  # characters
DEEPEST: Final = 50  # levels that are searched; what lies below is masked unseen


def masked_url(url: str) -> str:
    """`url` without its passwords: the user's, and those among its options. Of one that is malformed, no less."""
    options = re.sub(r"(password=)[^&]*", rf"\1{MASK}", url)
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        netloc = ""
    if url.count("@") > 1 or "@" not in netloc:  # whatever is between may be part of a password
        return re.sub(r"://[^:@/]*:.*@", f"://:{MASK}@", options, flags=re.DOTALL)
    return re.sub(r":[^:@/]*@", f":{MASK}@", options, count=1)


def is_sensitive(name: object) -> bool:
    """Whether a value of that name is not for people's eyes."""
    lowered = str(name).lower()
    return any(word.lower() in lowered for word in settings.TASK_SENSITIVE_ARGUMENTS)


def masked(value: Any, depth: int = 0) -> Any:
    """`value` with the values of sensitive dict keys masked, however deep; containers are copied."""
    if depth > DEEPEST:
        return MASK
    if isinstance(value, Mapping):
        return {key: MASK if is_sensitive(key) else masked(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        items = [masked(each, depth + 1) for each in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def masked_arguments(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    signature: inspect.Signature | None = None,
    sensitive: Collection[str] = (),
) -> tuple[list[Any], dict[str, Any]]:
    """A call's arguments, masked; by `signature`, the task's if it is known, also those without a name of their own.

    `sensitive` names parameters that are masked whatever the setting says.
    """
    names = positional_names(len(args), signature)
    positional = [
        MASK if name is not None and (name in sensitive or is_sensitive(name)) else masked(value)
        for name, value in zip(names, args, strict=True)
    ]
    hidden = {name: MASK if name in sensitive else value for name, value in kwargs.items()}
    return positional, masked(hidden)


def masked_call(
    task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """A job's arguments, masked as its task says; None: nobody here knows the task."""
    if task is None:
        return masked_arguments(args, kwargs)
    return masked_arguments(args, kwargs, task.parameters, task.sensitive_arguments)


def call_as_text(task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A job's arguments in one line, masked as its task says."""
    positional, named = masked_call(task, args, kwargs)
    shown = [*map(_shown, positional), *(f"{name}={_shown(value)}" for name, value in named.items())]
    return ", ".join(shown)


def hidden_texts(task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The texts among a job's arguments that are masked, the longest first; not those too short to be told apart."""
    positional, named = masked_call(task, args, kwargs)
    found = {*_hidden(list(args), positional), *_hidden(dict(kwargs), named)}
    return sorted((text for text in found if len(text) >= SHORTEST_SECRET), key=len, reverse=True)


def _hidden(value: Any, shown: Any) -> Iterator[str]:
    """The texts in `value` that are masked in `shown`, which `masked` has made of it."""
    if isinstance(shown, str) and shown == MASK:
        yield from _texts(value)
    elif isinstance(shown, Mapping):
        for key, each in shown.items():
            yield from _hidden(value[key], each)
    elif isinstance(shown, (list, tuple)):
        for one, other in zip(value, shown, strict=True):
            yield from _hidden(one, other)


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple, set, frozenset)) and depth < DEEPEST:
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each, depth + 1)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield repr(value)


def _shown(value: object) -> str:
    return MASK if isinstance(value, str) and value == MASK else repr(value)


def positional_names(count: int, signature: inspect.Signature | None) -> list[str | None]:
    """The parameters that `count` positional arguments go to; None for each that fits none."""
    if signature is None:
        return [None] * count
    parameters = signature.parameters.values()
    names = [each.name for each in parameters if each.kind in _POSITIONAL][:count]
    rest = next((each.name for each in parameters if each.kind is inspect.Parameter.VAR_POSITIONAL), None)
    return [*names, *[rest] * (count - len(names))]


def masked_text(text: str) -> str:
    """Text in which no names can be told from values: masked as a whole if it contains a sensitive word."""
    lowered = text.lower()
    words = [word.lower() for word in settings.TASK_SENSITIVE_ARGUMENTS]
    as_json = [json.dumps(word)[1:-1] for word in words]
    return MASK if any(word in lowered for word in (*words, *as_json)) else text


def excerpt(text: object) -> str:
    """The beginning of what cannot be read, quoted; masked if there is a sensitive word in any of it."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return repr(masked_text(text)[:LONGEST_EXCERPT])


def decorated_names(function: Any) -> tuple[str, ...] | None:
    """The variables that Django's `sensitive_variables` names on a function: () of all, None if it is not there."""
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is not None and code.co_name == "sensitive_variables_wrapper":
            cells = dict(zip(code.co_freevars, function.__closure__, strict=True))
            return tuple(cells["variables"].cell_contents)
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is None and code is not None:  # of a coroutine function Django keeps them elsewhere
            key = hash(f"{code.co_filename}:{code.co_firstlineno}")
            kept = sys.modules.get("django.views.decorators.debug")  # there, if anything was decorated
            names: Any = kept.coroutine_functions_to_sensitive_variables.get(key) if kept else None
            return () if names == "__ALL__" else names
        function = wrapped
    return None


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
