"""What people may read of arguments and results: values with a sensitive name stand as `MASK`.

A name is sensitive if it contains one of `TASK_SENSITIVE_ARGUMENTS`, in whatever case.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from djtasks.conf import settings

if TYPE_CHECKING:
    from djtasks.task import Task

MASK: Final = "********"
DEEPEST: Final = 50  # levels that are searched; what lies below is masked unseen


def masked_url(url: str) -> str:
    """`url` without its passwords: the user's, and those among its options."""
    parts = urlsplit(url)
    netloc = re.sub(r":[^:@]*@", f":{MASK}@", parts.netloc)
    query = re.sub(r"(password=)[^&]*", rf"\1{MASK}", parts.query)
    return urlunsplit(parts._replace(netloc=netloc, query=query)) if parts.netloc or parts.query else url


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


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
