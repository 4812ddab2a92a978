"""The signature: a call of a task as data, with Celery's names and Celery's form as a dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar, Unpack

from asgiref.sync import sync_to_async

from djtasks import publish, registry
from djtasks.conf import settings
from djtasks.message import new_id
from djtasks.packing import as_list
from djtasks.publish import TaskOptions
from djtasks.result import AsyncResult, handle_on

Some = TypeVar("Some", bound="Signature")
Kind = TypeVar("Kind", bound="type[Signature]")


class Signature(dict[str, Any]):
    """A call of one task: its name, arguments and options; to be sent, called, stored as JSON, or composed.

    `task` is a task, its name, or a dict that another signature was turned into. Other keywords are options of
    `apply_async`.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        **more: Any,
    ) -> None:
        if isinstance(task, dict):
            super().__init__(task)
            self["args"], self["kwargs"] = tuple(task.get("args") or ()), dict(task.get("kwargs") or {})
            self["options"] = with_links(task.get("options"))
            self.setdefault("subtask_type", None)
            self.setdefault("immutable", False)
            return
        super().__init__(
            task=getattr(task, "name", task),
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **more},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @classmethod
    def register_type(cls, name: str) -> Callable[[Kind], Kind]:
        """A class decorator: dicts whose `subtask_type` is `name` become signatures of that class."""

        def register(kind: Kind) -> Kind:
            cls.TYPES[name] = kind
            return kind

        return register

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Signature:
        """The signature that `values` (a dict, or what came of its JSON) stands for, of the right class at every depth.

        Raises TypeError for what is no signature.
        """
        if not isinstance(values.get("task"), str):
            raise TypeError(f"This dict is no signature: it has no 'task': {values!r:.200}")
        kind = Signature.TYPES.get(values.get("subtask_type") or "", Signature)
        return kind._rebuilt(values)

    @classmethod
    def _rebuilt(cls, values: Mapping[str, Any]) -> Signature:
        return Signature(dict(values))

    def _with_rest(self: Some, values: Mapping[str, Any]) -> Some:
        """This very signature, with what `values` say besides what it was made of."""
        self["args"] = tuple(values.get("args") or ())
        self["kwargs"] = {**dict(values.get("kwargs") or {}), **self.kwargs}
        self["options"] = with_links(values.get("options"))
        self["immutable"] = bool(values.get("immutable"))
        return self

    @classmethod
    def of_parts(cls, kind: str, parts: dict[str, Any]) -> Self:
        """A chain, group or chord (the `kind`) of these very parts, as they stand among its kwargs."""
        made = dict.__new__(cls)
        Signature.__init__(made, f"djtasks.{kind}", (), parts, None, kind)
        return made

    # What it holds

    @property
    def task(self) -> str:
        return str(self["task"])

    @property
    def name(self) -> str:
        return self.task

    @property
    def args(self) -> tuple[Any, ...]:
        return self["args"]  # type: ignore[no-any-return]

    @args.setter
    def args(self, args: Iterable[Any]) -> None:
        self["args"] = tuple(args)

    @property
    def kwargs(self) -> dict[str, Any]:
        return self["kwargs"]  # type: ignore[no-any-return]

    @kwargs.setter
    def kwargs(self, kwargs: Mapping[str, Any]) -> None:
        self["kwargs"] = dict(kwargs)

    @property
    def options(self) -> dict[str, Any]:
        return self["options"]  # type: ignore[no-any-return]

    @options.setter
    def options(self, options: Mapping[str, Any]) -> None:
        self["options"] = dict(options)

    @property
    def subtask_type(self) -> str | None:
        return self["subtask_type"]  # type: ignore[no-any-return]

    @property
    def immutable(self) -> bool:
        """Whether it takes no more arguments, such as the result of what comes before it."""
        return bool(self["immutable"])

    @immutable.setter
    def immutable(self, immutable: bool) -> None:
        self["immutable"] = immutable

    @property
    def id(self) -> str | None:
        """The id that `freeze` gave it."""
        return self.options.get("task_id")

    @id.setter
    def id(self, task_id: str) -> None:
        self.options["task_id"] = task_id

    @property
    def root_id(self) -> str | None:
        return self.options.get("root_id")

    @property
    def parent_id(self) -> str | None:
        return self.options.get("parent_id")

    @property
    def type(self) -> Any:
        """The task. Raises NotRegistered if this process does not know it."""
        return registry.get(self.task)

    # Changing it

    def clone(
        self: Some, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Some:
        """A copy, with `args` before its own, `kwargs` and `options` merged into its own."""
        made = self._copy()
        if not self.immutable:
            made["args"] = (*(args or ()), *self.args)
            made.kwargs.update(kwargs or {})
        made.options.update(options)
        return made

    partial = clone

    def _copy(self: Some) -> Some:
        made = self.__class__.__new__(self.__class__)
        dict.update(made, self)
        made["kwargs"], made["options"] = dict(self.kwargs), dict(self.options)
        for name in ("link", "link_error"):
            if isinstance(self.options.get(name), list):
                made.options[name] = list(self.options[name])
        return made

    def __copy__(self: Some) -> Some:
        return self._copy()

    def replace(
        self: Some,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Some:
        """A copy with other arguments or options in the place of its own."""
        made = self.clone()
        for name, value in (("args", args), ("kwargs", kwargs), ("options", options)):
            if value is not None:
                setattr(made, name, value)
        return made

    def set(self: Some, immutable: bool | None = None, **options: Any) -> Some:
        """Set options of `apply_async`; returns this very signature."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        self.immutable = immutable

    def link(self, callback: Any) -> Any:
        """Send `callback` with the result once this has succeeded. Returns `callback`."""
        return self._append("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Send `errback` once this has failed. Returns `errback`."""
        return self._append("link_error", errback)

    def on_error(self: Some, errback: Any) -> Some:
        """`link_error` that returns this very signature."""
        self.link_error(errback)
        return self

    def _append(self, name: str, callback: Any) -> Any:
        callbacks = as_list(self.options.get(name))
        if callback not in callbacks:
            callbacks = [*callbacks, callback]
        self.options[name] = callbacks
        return callback

    def flatten_links(self) -> list[Signature]:
        """This and all that is linked to it, at any depth."""
        links = [signature(each) for each in as_list(self.options.get("link"))]
        return [self, *(found for link in links for found in link.flatten_links())]

    # Running it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task here and now, `args` before its own."""
        args, kwargs, _options = self._merged(args, kwargs, {})
        return self.type(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with `args` before its own and `kwargs` merged into its own. Returns the handle on its result."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """`delay` with options; these go before its own. Raises as `Task.apply_async`."""
        merged_args, merged_kwargs, merged = self._merged(args, kwargs, options)
        return send_task(self.task, merged_args, merged_kwargs, **merged)

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """`delay`, awaitable."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """`apply_async`, awaitable."""
        return await sync_to_async(self.apply_async)(args, kwargs, **options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here, with the same outcome as in a worker. Returns an EagerResult."""
        merged_args, merged_kwargs, merged = self._merged(args, kwargs, options)
        return self.type.apply(merged_args, merged_kwargs, **merged)

    def _merged(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        merged = {**self.options, **{name: value for name, value in options.items() if value is not None}}
        if self.immutable:
            return self.args, self.kwargs, merged
        return (*(args or ()), *self.args), {**self.kwargs, **(kwargs or {})}, merged

    def freeze(self, _id: str | None = None, **places: Any) -> Any:
        """Give it the id that its job will have (`_id`, or a new one; the one that it has stays).

        Returns the handle on its result. Of `places`, `root_id` and `parent_id` are kept; Celery's others
        (`group_id`, `chord`, `group_index`) are of no effect: a group gives them when it is sent.
        """
        if self.options.get("task_id") is None:
            self.id = _id or new_id()
        self.options.update({name: places[name] for name in ("root_id", "parent_id") if places.get(name)})
        return self.AsyncResult(self.options["task_id"])

    def AsyncResult(self, task_id: str) -> AsyncResult[Any]:
        """The handle on a job of this task."""
        return AsyncResult(task_id, name=self.task)

    def __or__(self, other: Any) -> Any:
        """`a | b`: first a, then b with its result; a task stands for its `s()`."""
        if (after := operand(other)) is None:
            return NotImplemented
        empty: Any = self.TYPES["chain"]
        return empty.empty() | self | after

    def __ror__(self, other: Any) -> Any:
        return NotImplemented if (before := operand(other)) is None else before | self

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    def __invert__(self) -> Any:
        """Send it and wait for its result, as in Celery."""
        return self.apply_async().get()

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __deepcopy__(self: Some, memo: dict[int, Any]) -> Some:
        made = self.clone()
        memo[id(self)] = made
        return made

    def __repr__(self) -> str:
        return self.reprcall()

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """How the call reads: `shop.tasks.add(2, 2)`; `args` and `kwargs` as if they were given."""
        texts = [repr(each) for each in (*args, *self.args)]
        texts += [f"{name}={value!r}" for name, value in {**self.kwargs, **kwargs}.items()]
        return f"{self.task}({', '.join(texts)})"


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """A signature: of a task or its name, with args, kwargs, options as `Signature`; or of a dict (a copy).

    Raises TypeError for anything else.
    """
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies)
    if not isinstance(getattr(varies, "name", varies), str):
        raise TypeError(f"Neither a signature nor a task: {varies!r:.200}")
    return Signature(varies, *args, **kwargs)


subtask = signature


def send_task(
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[TaskOptions],
) -> AsyncResult[Any]:
    """Send a job of the task `name`, which need not be known in this process. Raises as `apply_async`."""
    task = registry.get(name) if settings.TASK_ALWAYS_EAGER else registry.find(name)
    if task is not None:
        return task.apply_async(args, kwargs, **options)
    message = publish.build(name, args, kwargs, options)
    return handle_on(message, publish.publish([message], using=options.get("using")))


def maybe_signature(value: Any) -> Any:
    """A signature of a dict; a signature itself, and None, as they are; of a task, its signature without arguments."""
    if value is None or isinstance(value, Signature):
        return value
    return signature(value)


def part(value: Any) -> Any:
    """What a canvas is made of: a signature as it is; of a task, its name, or a dict, the signature.

    Raises TypeError for anything else.
    """
    return value if isinstance(value, Signature) else signature(value)


def operand(value: Any) -> Any:
    """What stands beside `|`, as a signature: a task and a dict too; None for what is neither."""
    if isinstance(value, Mapping):
        return part(value)
    made = getattr(value, "s", None)  # of a task, which stands above us
    return made() if callable(made) else None


def with_links(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options as data from anywhere may give them: without those that are ours alone, links as signatures again."""
    made = {name: value for name, value in (options or {}).items() if name not in publish.OURS}
    for name in ("link", "link_error"):
        if name in made:
            made[name] = [maybe_signature(each) for each in as_list(made[name])]
    return made


def short_names(first: str, text: str) -> str:
    """`text` with the module of the task `first` left out where it comes again."""
    prefix = first.rpartition(".")[0]
    if not prefix:
        return text
    head, found, rest = text.partition(f"{prefix}.")
    return head + found + rest.replace(f"{prefix}.", "")
