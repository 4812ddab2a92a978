"""What composes signatures: `chain`, `group` and `chord`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import count, takewhile
from operator import or_
from typing import Any, Self

from djtasks import plan
from djtasks.canvas.composed import Composed, bounded
from djtasks.canvas.normal import is_empty, normal, unchained
from djtasks.canvas.signatures import Signature, maybe_signature, operand, part, short_names, signature
from djtasks.canvas.streaming import stream, taken
from djtasks.conf import settings
from djtasks.message import new_id
from djtasks.result import GroupResult, line_of


@Signature.register_type("chain")
class chain(Composed):
    """One after another, each with the result of the one before: `chain(a, b, c)`, or of one iterable.

    A group before a step becomes a chord with the rest as its body, as by `|`.
    """

    @bounded()
    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        steps = [] if options or _is_one(tasks) else _steps(tasks)
        if not steps:
            return super().__new__(cls)
        single = list(takewhile(lambda step: type(step) is Signature, steps))  # no need to look at each again and again
        return reduce(or_, steps[len(single) :], cls.of([step.clone() for step in single]))

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if "task" not in self:  # or `__new__` has made it of its steps
            super().__init__("djtasks.chain", (), {"tasks": _steps(tasks)}, options, "chain")

    @classmethod
    def of(cls, steps: list[Signature]) -> Self:
        """A chain of these very steps."""
        return cls.of_parts("chain", {"tasks": steps})

    @classmethod
    def empty(cls) -> Self:
        """A chain without steps."""
        return cls.of([])

    @classmethod
    def _rebuilt(cls, values: Mapping[str, Any]) -> Self:
        return cls.of([signature(each) for each in values["kwargs"].get("tasks") or ()])._with_rest(values)

    @property
    def tasks(self) -> list[Signature]:
        return self.kwargs["tasks"]  # type: ignore[no-any-return]

    @tasks.setter
    def tasks(self, tasks: Iterable[Signature]) -> None:
        self.kwargs["tasks"] = list(tasks)

    def unchain_tasks(self) -> list[Signature]:
        """Copies of its steps, with what is linked to the whole linked to them."""
        return unchained(self)

    def set_immutable(self, immutable: bool) -> None:
        """Whether its first step takes what comes before it."""
        for step in self.tasks[:1]:
            step.set_immutable(immutable)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs) if self.tasks else None

    def __or__(self, other: Any) -> Any:
        if (other := operand(other)) is None:
            return NotImplemented
        if is_empty(other):
            return self
        if isinstance(other, chain):
            return reduce(or_, unchained(other), self)
        other = _unrolled(other)
        steps = unchained(self)
        return other if not steps and isinstance(other, group) else self._joined(steps, other)

    def _joined(self, steps: list[Signature], other: Signature) -> Self:
        made = type(self).empty()
        made.tasks = _extended(steps, other)
        own = {name: value for name, value in self.options.items() if name not in ("link", "link_error", "task_id")}
        made.options.update(own)
        return made

    def freeze(self, _id: str | None = None, **places: Any) -> Any:
        result = None
        steps = [step for step in self.tasks if not is_empty(step)]
        for number, step in enumerate(steps, 1):
            own_id = self.options.get("task_id") or _id if number == len(steps) else None
            after = step.freeze(own_id, root_id=places.get("root_id"))
            _first(after).parent = result
            result = after
        if steps:
            self.options["task_id"] = steps[-1].id
        return result

    def __repr__(self) -> str:
        if not self.tasks:
            return "chain()"
        return short_names(self.tasks[0].task, " | ".join(map(repr, self.tasks)))


@Signature.register_type("group")
class group(Composed):
    """Side by side: `group(a, b, c)`, or of one iterable. Its result is a GroupResult, in the order of its members."""

    def __init__(self, *tasks: Any, **options: Any) -> None:
        super().__init__("djtasks.group", (), {"tasks": members(tasks)}, options, "group")

    @classmethod
    def _rebuilt(cls, values: Mapping[str, Any]) -> Self:
        return cls(list(values["kwargs"].get("tasks") or ()))._with_rest(values)

    @property
    def tasks(self) -> list[Signature]:
        return self.kwargs["tasks"]  # type: ignore[no-any-return]

    @tasks.setter
    def tasks(self, tasks: Iterable[Signature]) -> None:
        self.kwargs["tasks"] = list(tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __or__(self, other: Any) -> Any:
        if (other := operand(other)) is None:
            return NotImplemented
        return self if is_empty(other) else chord(self, other)

    def set_immutable(self, immutable: bool) -> None:
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, callback: Any) -> Any:
        """Send `callback`, without arguments, once its first member has succeeded. Returns `callback`."""
        return self.tasks[0].link(maybe_signature(callback).clone().set(immutable=True)) if self.tasks else callback

    def link_error(self, errback: Any) -> Any:
        """Send `errback` for each member that fails. Returns `errback`."""
        for task in self.tasks:
            task.link_error(maybe_signature(errback).clone())
        return errback

    def with_options(self, options: Mapping[str, Any]) -> Self:
        for name in ("link", "link_error"):
            if options.get(name):
                raise TypeError(f"A group takes no {name}: give it to its members, or make it a chord.")
        return super().with_options(options)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Give its members countdowns of `start`, `start + step`, … seconds, up to `stop` and then all of that."""
        for number, task in zip(count(), self.tasks, strict=False):
            delay = start + number * step
            task.set(countdown=delay if stop is None else min(delay, stop))
        return self

    def freeze(self, _id: str | None = None, **places: Any) -> GroupResult:
        group_id = self.options.setdefault("task_id", _id or new_id())
        root = places.get("root_id")
        return GroupResult(group_id, [task.freeze(root_id=root) for task in self.tasks if not is_empty(task)])

    def __repr__(self) -> str:
        if not self.tasks:
            return "group()"
        return short_names(self.tasks[0].task, f"group({', '.join(map(repr, self.tasks))})")


@Signature.register_type("chord")
class chord(Composed):
    """`chord(header, body)`: the body runs with the list of the header's results, once all of them are there.

    `header` is a group, a signature, or an iterable of signatures; a generator is used up while it is sent.
    """

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "djtasks.chord",
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        kept = options.pop("options", None)
        options.pop("subtask_type", None)
        immutable = bool(options.pop("immutable", False))
        header = header if isinstance(header, Iterator) else members((header,))
        parts = {**(kwargs or {}), "header": header, "body": maybe_signature(body)}
        super().__init__(task, args, parts, {**(kept or {}), **options}, "chord", immutable)

    @classmethod
    def _rebuilt(cls, values: Mapping[str, Any]) -> Self:
        parts = values["kwargs"]
        return cls(list(parts.get("header") or ()), parts.get("body"))._with_rest(values)

    @property
    def tasks(self) -> list[Signature]:
        """The members of its header; a generator is used up now."""
        if isinstance(self.kwargs["header"], Iterator):
            self.kwargs["header"] = members((list(self.kwargs["header"]),))
        return self.kwargs["header"]  # type: ignore[no-any-return]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self.kwargs["header"] = members((tasks,))

    header = tasks

    @property
    def body(self) -> Any:
        return self.kwargs["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self.kwargs["body"] = maybe_signature(body)

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with `body` if that is given."""
        return self.apply_async((), {"body": body} if body is not None else {}, **options)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        made, kwargs = self._with_body(kwargs)
        header = made.kwargs["header"]
        if not isinstance(header, Iterator) or settings.TASK_ALWAYS_EAGER:
            return Composed.apply_async(made, args, kwargs, **options)
        first, is_all = taken(header)
        made.kwargs["header"] = self.kwargs["header"] = first
        if is_all or made.body is None or is_empty(normal(made.body)):
            return Composed.apply_async(made, args, kwargs, **options)
        return stream(made, header, plan.Given(args=args or (), kwargs=kwargs, checked=True), options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        made, kwargs = self._with_body(kwargs)
        return Composed.apply(made, args, kwargs, **options)

    def _copy(self) -> Self:
        # A copy must not use up what is to be sent; so it is used up, and kept, here.
        if isinstance(self.kwargs["header"], Iterator):
            self.tasks = list(self.kwargs["header"])
        return super()._copy()

    def _with_body(self, kwargs: Mapping[str, Any] | None) -> tuple[chord, dict[str, Any]]:
        """This, or one with the `body` among `kwargs`; and the rest of them, which are for the header."""
        rest = dict(kwargs or {})
        body = rest.pop("body", None)
        if body is None:
            return self, rest
        made = chord((), body)
        made.update({name: self[name] for name in ("args", "options", "immutable")})
        made.kwargs["header"] = self.kwargs["header"]
        return made, rest

    def __or__(self, other: Any) -> Any:
        if (other := operand(other)) is None:
            return NotImplemented
        if is_empty(other):
            return self
        if self.body is None:
            return chain.empty()._joined([self.clone()], other)
        if isinstance(other, chain):
            return reduce(or_, unchained(other), self)
        made = self.clone()
        made.body = _extended_body(made.body, _unrolled(other))
        return made

    def link(self, callback: Any) -> Any:
        """Send `callback` with the body's result. Returns `callback`."""
        if self.body is None:
            return super().link(callback)
        self.body = self.body.clone()
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Send `errback` once, if the body or a member of the header fails. Returns `errback`.

        With TASK_ALLOW_ERROR_CB_ON_CHORD_HEADER also for each member that fails.
        """
        if settings.TASK_ALLOW_ERROR_CB_ON_CHORD_HEADER:
            for task in self.tasks:
                task.link_error(maybe_signature(errback).clone())
        if self.body is None:
            return super().link_error(errback)
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Whether its header takes what comes before it; the body says for itself whether it takes the results."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def freeze(self, _id: str | None = None, **places: Any) -> Any:
        header_id = self.options.setdefault("header_id", new_id())
        root = places.get("root_id")
        members = [task.freeze(root_id=root) for task in self.tasks if not is_empty(task)]
        header = GroupResult(header_id, members)
        if self.body is None or is_empty(self.body):
            return header
        result = self.body.freeze(self.options.get("task_id") or _id, root_id=root)
        self.options["task_id"] = self.body.id
        _first(result).parent = header
        return result

    def __repr__(self) -> str:
        tasks = self.kwargs["header"]
        if isinstance(tasks, Iterator):
            return f"chord({tasks!r}, {self.body!r})"
        text = f"chord([{', '.join(map(repr, tasks))}], {self.body!r})"
        return short_names(tasks[0].task, text) if tasks else text


def members(tasks: Sequence[Any]) -> list[Signature]:
    """The members that a group, or a header, is made of: several signatures, or one iterable, or one signature."""
    given: Any = tasks[0] if len(tasks) == 1 else tasks
    if isinstance(given, Signature) and given.subtask_type == "chunks":
        given = normal(given)
    if isinstance(given, group):
        return [each.clone() for each in given.tasks]
    if isinstance(given, Mapping) and not isinstance(given, Signature):
        given = signature(given)
    several = [given] if isinstance(given, (Signature, str)) or not isinstance(given, Iterable) else given
    return _distinct([part(each) for each in several])


def _distinct(sigs: list[Signature]) -> list[Signature]:
    """`sigs`, one that stands there again as a copy: what is given to one member, an id say, is not another's."""
    if len({id(each) for each in sigs}) == len(sigs):
        return sigs
    first = {id(each): place for place, each in reversed(list(enumerate(sigs)))}
    return [each if first[id(each)] == place else each.clone() for place, each in enumerate(sigs)]


def _is_one(tasks: Sequence[Any]) -> bool:
    """Whether this is one signature or task, and no iterable of them."""
    return len(tasks) == 1 and (isinstance(tasks[0], (Mapping, str)) or not isinstance(tasks[0], Iterable))


def _steps(tasks: Sequence[Any]) -> list[Signature]:
    """The steps that a chain is made of: several signatures, or one iterable of them."""
    several = tasks[0] if len(tasks) == 1 and not _is_one(tasks) else tasks
    return [part(each) for each in several]


def _extended(steps: list[Signature], other: Signature) -> list[Signature]:
    """Steps, which are ours to change, with `other` after them: after a group, or a chord's body, as its body."""
    last = steps[-1] if steps else None
    if isinstance(last, group):
        steps[-1] = chord(last, other)
    elif isinstance(last, chord) and last.body is not None:
        last.body = _extended_body(last.body, other)
    else:
        steps.append(other.clone())
    return steps


def _extended_body(body: Signature, other: Signature) -> Signature:
    """`body | other`, without the copies that would make a long row of groups slow."""
    if isinstance(body, chord):
        return _extended([body], other)[0] if body.body is not None else body | other
    if isinstance(body, chain) and body.tasks and not body.options and not body.args:
        _extended(body.tasks, other)
        return body
    return body | other  # type: ignore[no-any-return]


def _unrolled(sig: Signature) -> Signature:
    """A group of one member as that member, where its result is to be handed on."""
    return sig.tasks[0].clone() if isinstance(sig, group) and len(sig.tasks) == 1 else sig


def _first(result: Any) -> Any:
    """The handle that stands first among those that lead to `result`."""
    return line_of(result)[0] if result is not None else None
