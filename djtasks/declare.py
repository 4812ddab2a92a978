"""`@shared_task`: a function becomes a task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, Protocol, TypeVar, overload

from djtasks import registry
from djtasks.batches import Batch
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
        "rate_limit_key",
        "time_limit",
        "soft_time_limit",
        "expires",
        "track_started",
        "typing",
        "pydantic",
        "throws",
        "max_concurrency",
        "max_concurrency_key",
        "batch",
        "unique",
        "schedule",
        "sensitive_arguments",
        "store_arguments",
    }
)
FUNCTIONS: Final = frozenset({"rate_limit_key", "max_concurrency_key"})  # options that may be functions: no methods


if TYPE_CHECKING:

    class CoroutineTask(Task[P, R]):
        """A task of an `async def` function: a call gives the coroutine, a job its result."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...  # type: ignore[override]

    class Declares(Protocol):
        """`shared_task` with options."""

        @overload
        def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...

    class DeclaresBound(Protocol):
        """`shared_task` with `bind=True`."""

        @overload
        def __call__(
            self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
        ) -> CoroutineTask[P, R]: ...
        @overload
        def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(
    *, batch: Batch, base: type[Task[Any, Any]] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Task[..., Any]]: ...
@overload
def shared_task(*, bind: Literal[True], base: type[Task[Any, Any]] | None = None, **options: Any) -> DeclaresBound: ...
@overload
def shared_task(
    *, bind: Literal[False] = False, base: type[Task[Any, Any]] | None = None, **options: Any
) -> Declares: ...
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
    for option in FUNCTIONS & attributes.keys():
        if callable(attributes[option]):
            attributes[option] = staticmethod(attributes[option])
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
