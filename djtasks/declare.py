"""`@shared_task`: a function becomes a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, overload

from djtasks import registry
from djtasks.task import Task

P = ParamSpec("P")
R = TypeVar("R")

OPTIONS: Final = frozenset(
    {
        "name",
        "bind",
        "base",
        "queue",
        "priority",
        "ignore_result",
        "acks_late",
        "max_retries",
        "default_retry_delay",
        "autoretry_for",
        "dont_autoretry_for",
        "retry_backoff",
        "retry_backoff_max",
        "retry_jitter",
        "retry_kwargs",
        "rate_limit",
        "time_limit",
        "soft_time_limit",
        "expires",
        "track_started",
        "typing",
        "pydantic",
        "throws",
        "max_concurrency",
        "unique",
        "schedule",
        "sensitive_arguments",
        "store_arguments",
    }
)


@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(
    *, bind: bool, base: type[Task[Any, Any]] | None = None, **options: Any
) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def shared_task(
    *, base: type[Task[Any, Any]] | None = None, **options: Any
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def shared_task(*functions: Any, **options: Any) -> Any:
    """Make a task of a function, and register it: `@shared_task` or `@shared_task(queue="mail", …)`.

    `bind=True` passes the task as first argument; `base` is the Task class to make it of; any
    option `task_x` means `x`; options that djtasks does not know become attributes of the task.
    Raises DuplicateTask if another function has taken the name.
    """
    options = {name.removeprefix("task_"): value for name, value in options.items()}
    if functions and callable(functions[0]):
        return _declare(functions[0], options)
    return lambda function: _declare(function, options)


def _declare(function: Callable[..., Any], options: Mapping[str, Any]) -> Task[Any, Any]:
    attributes = dict(options)
    base = attributes.pop("base", None) or Task
    bound = attributes.pop("bind", False)
    attributes.setdefault("name", "")
    task_class = type(
        function.__name__,
        (base,),
        {
            **attributes,
            "name": attributes["name"] or f"{function.__module__}.{function.__name__}",
            "origin": _origin(function),
            "run": function if bound else staticmethod(function),
            "__module__": function.__module__,
            "__name__": function.__name__,
            "__qualname__": function.__qualname__,
            "__doc__": function.__doc__,
            "__wrapped__": staticmethod(function),
        },
    )
    task: Task[Any, Any] = task_class()
    registry.register(task)
    return task


def _origin(function: Callable[..., Any]) -> str:
    """Where a function was written; of one inside another function, without the line: each call makes it anew."""
    path = f"{function.__module__}.{function.__qualname__}"
    code = getattr(function, "__code__", None)
    return path if code is None or "<locals>" in path else f"{path} (line {code.co_firstlineno})"
