"""What composes signatures: `chain`, `group` and `chord`; and the normal form of what they compose.

In normal form no chain stands in a chain and no group in a group, a group is the last of its chain (what follows it
has become the body of a chord), each option stands at the single tasks, and each member of a group ends in one job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import count, takewhile
from operator import or_
from typing import Any, ClassVar, Final, Self

from djtasks import plan, registry
from djtasks.canvas.signatures import Signature, as_list, maybe_signature, short_names, signature, with_links
from djtasks.conf import settings
from djtasks.message import new_id
from djtasks.result import GroupResult, line_of

ACCUMULATE: Final = "djtasks.accumulate"  # the task that gives the list of a group's results
TIMING: Final = frozenset({"countdown", "eta", "expires"})  # options of the first jobs alone
OWN: Final = frozenset({"task_id", "header_id", "link", "link_error", "root_id", "parent_id"})  # those of the whole
SLOW: Final = 0.5  # seconds of waiting for a header's generator, after which what it gave is sent
CALL: Final = frozenset({"throw", "using"})  # options of one `apply_async`, not of its jobs


class Composed(Signature):
    """A signature made of signatures."""

    # Runs a normal form in this process; djtasks.eager, which stands above, puts it here.
    run_here: ClassVar[Callable[..., Any]]

    def _copy(self) -> Self:
        made = super()._copy()
        made["kwargs"] = {name: _copied(value) for name, value in self.kwargs.items()}
        return made

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send it, `args` before those of the jobs that come first. Returns the handle on its result.

        `countdown`, `eta` and `expires` are those of the jobs that come first, `link` and `link_error` those of the
        whole; other options hold for each job that names none of its own. Raises as `Task.apply_async`.
        """
        if settings.TASK_ALWAYS_EAGER:
            return self.apply(args, kwargs, **options)
        tree = self.with_options(options).normal()
        result = tree.frozen()
        if result is not None:
            committed = plan.send(tree, args or (), kwargs or {}, using=options.get("using"))
            for each in line_of(result):
                each.committed_when(committed)
        return result

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here, with the same outcome as in workers. Returns an EagerResult; of a group, several."""
        tree = self.with_options(options).normal()
        return Composed.run_here(tree, tree.frozen(), args or (), kwargs or {}, options.get("throw"))

    def frozen(self) -> Any:
        end = self.end()
        if not isinstance(end, Composed) and _is_ignored(end):
            end.options["awaited"] = True  # so that its row stays, and who waits for the whole sees its end
        return super().frozen()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`delay`."""
        return self.apply_async(args, kwargs)

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """A copy with `options` merged into its own; links are added."""
        made = self.clone()
        given = {name: value for name, value in options.items() if value is not None and name not in CALL}
        for callback in as_list(given.pop("link", None)):
            made.link(callback)
        for errback in as_list(given.pop("link_error", None)):
            made.link_error(errback)
        made.options.update(given)
        return made


@Signature.register_type("chain")
class chain(Composed):
    """One after another, each with the result of the one before: `chain(a, b, c)`, or of one iterable.

    A group before a step becomes a chord with the rest as its body, as by `|`.
    """

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
        made = dict.__new__(cls)
        Signature.__init__(made, "djtasks.chain", (), {"tasks": steps}, None, "chain")
        return made

    @classmethod
    def empty(cls) -> Self:
        """A chain without steps."""
        return cls.of([])

    @classmethod
    def _rebuilt(cls, values: Mapping[str, Any]) -> Self:
        made = cls.empty()
        made.tasks = [signature(each) for each in values["kwargs"].get("tasks") or ()]
        like(made, values)
        return made

    @property
    def tasks(self) -> list[Signature]:
        return self.kwargs["tasks"]  # type: ignore[no-any-return]

    @tasks.setter
    def tasks(self, tasks: Iterable[Signature]) -> None:
        self.kwargs["tasks"] = list(tasks)

    def normal(self) -> Signature:
        rest: list[Signature] = []
        for step in reversed(_unchained(self)):
            step = step.normal()
            if _is_empty(step):
                continue
            rest = _before(step, rest)
        if not rest:
            return type(self).empty()
        if "task_id" in self.options:
            rest[-1].end().options.setdefault("task_id", self.options["task_id"])
        return _spread(rest[0] if len(rest) == 1 else chain.of(rest), self.options)

    def last(self) -> Signature:
        return self.tasks[-1].last()

    def end(self) -> Signature:
        return self.tasks[-1].end() if self.tasks else self

    def entries(self) -> list[Signature]:
        return self.tasks[0].entries()

    def single_tasks(self) -> Iterator[Signature]:
        return (found for step in self.tasks for found in step.single_tasks())

    def unchain_tasks(self) -> list[Signature]:
        """Copies of its steps, with what is linked to the whole linked to them."""
        return _unchained(self)

    def set_immutable(self, immutable: bool) -> None:
        """Whether its first step takes what comes before it."""
        for step in self.tasks[:1]:
            step.set_immutable(immutable)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs) if self.tasks else None

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        if _is_empty(other):
            return self
        if isinstance(other, chain):
            return reduce(or_, _unchained(other), self)
        other = _unrolled(other)
        steps = _unchained(self)
        return other if not steps and isinstance(other, group) else self._joined(steps, other)

    def _joined(self, steps: list[Signature], other: Signature) -> Self:
        made = type(self).empty()
        made.tasks = _extended(steps, other)
        own = {name: value for name, value in self.options.items() if name not in ("link", "link_error", "task_id")}
        made.options.update(own)
        return made

    def freeze(self, _id: str | None = None, **places: Any) -> Any:
        result = None
        root = places.get("root_id")
        for position, step in enumerate(self.tasks):
            is_last = position == len(self.tasks) - 1
            after = step.freeze(self.options.get("task_id") or _id if is_last else None, root_id=root)
            _first(after).parent = result
            result = after
        if self.tasks:
            self.options["task_id"] = self.tasks[-1].id
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
        made = cls(list(values["kwargs"].get("tasks") or ()))
        like(made, values)
        return made

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
        if not isinstance(other, Signature):
            return NotImplemented
        return self if _is_empty(other) else chord(self, other)

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

    def normal(self) -> Signature:
        tasks = [each.normal() for each in self.tasks]
        flat = [each for task in tasks for each in (task.tasks if isinstance(task, group) else [task])]
        if len(flat) == 1 and isinstance(flat[0].end(), group):
            return _spread(flat[0], self.options)  # as in Celery, the result is that of the group at its end
        return self._of_members([_single(each) for each in flat if not _is_empty(each)])

    def _of_members(self, tasks: list[Signature]) -> Signature:
        made = group()
        made.kwargs["tasks"] = tasks
        if "task_id" in self.options:
            made.options["task_id"] = self.options["task_id"]
        return _spread(_with_args(made, self), self.options)

    def last(self) -> Signature:
        raise TypeError("A group ends in several jobs.")

    def end(self) -> Signature:
        return self

    def entries(self) -> list[Signature]:
        return [found for task in self.tasks for found in task.entries()]

    def single_tasks(self) -> Iterator[Signature]:
        return (found for task in self.tasks for found in task.single_tasks())

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Give its members countdowns of `start`, `start + step`, … seconds, up to `stop` and then all of that."""
        for number, task in zip(count(), self.tasks, strict=False):
            delay = start + number * step
            task.set(countdown=delay if stop is None else min(delay, stop))
        return self

    def freeze(self, _id: str | None = None, **places: Any) -> GroupResult:
        group_id = self.options.setdefault("task_id", _id or new_id())
        root = places.get("root_id")
        return GroupResult(group_id, [task.freeze(root_id=root) for task in self.tasks])

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
        made = cls(list(values["kwargs"].get("header") or ()), values["kwargs"].get("body"))
        like(made, values)
        return made

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
        made.kwargs["header"] = self.kwargs["header"] = taken = _taken(header)
        if not taken or made.body is None or _is_empty(made.body.normal()):
            return Composed.apply_async(made, args, kwargs, **options)
        return made._stream(header, plan.Given(args=args or (), kwargs=kwargs, checked=True), options)

    def _stream(self, rest: Iterator[Any], given: plan.Given, options: Mapping[str, Any]) -> Any:
        """Send the members that there are, then those that a slow generator gives, as they come."""
        tree = self.with_options(options).normal()
        result = tree.frozen()
        header, group_id = _first(result), str(tree.options["header_id"])
        using = options.get("using")
        committed = plan.send(tree, given.args, given.kwargs, using=using, open_group=group_id)
        for each in line_of(result):
            each.committed_when(committed)
        place = replace(plan.place_of_caller(), root_id=plan.first_id(tree))
        while portion := _taken(rest):
            self.tasks.extend(portion)
            more = [_single(_spread(task, options)) for task in _flat(portion)]
            for task in more:
                header.add(task.frozen())
            plan.send_more(group_id, more, len(header) - len(more), place, given)
        plan.close(group_id)
        return result

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
        if not isinstance(other, Signature):
            return NotImplemented
        if _is_empty(other):
            return self
        if self.body is None:
            return chain.empty()._joined([self.clone()], other)
        if isinstance(other, chain):
            return reduce(or_, _unchained(other), self)
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
        header = GroupResult(header_id, [task.freeze(root_id=root) for task in self.tasks])
        if self.body is None or _is_empty(self.body):
            return header
        result = self.body.freeze(self.options.get("task_id") or _id, root_id=root)
        self.options["task_id"] = self.body.id
        _first(result).parent = header
        return result

    def normal(self) -> Signature:
        header = group(self.tasks)._of_members([_single(task) for task in _flat(self.tasks)])
        header.options.pop("task_id", None)
        body = None if self.body is None else self.body.normal()
        if body is None or _is_empty(body):
            if "header_id" in self.options:
                header.options["task_id"] = self.options["header_id"]
            return _spread(_with_args(_linked(header, self.options), self), self.options)
        _linked(body, self.options)  # links that were given before there was a body
        made = chord((), None)
        made.kwargs.update(header=header.kwargs["tasks"], body=body)
        made.options.update({name: self.options[name] for name in ("task_id", "header_id") if name in self.options})
        if "task_id" in self.options:
            body.end().options.setdefault("task_id", self.options["task_id"])
        return _spread(_with_args(made, self), self.options)

    def last(self) -> Signature:
        return self.body.last()  # type: ignore[no-any-return]

    def end(self) -> Signature:
        return self.body.end()  # type: ignore[no-any-return]

    def entries(self) -> list[Signature]:
        return [found for task in self.tasks for found in task.entries()] or self.body.entries()

    def single_tasks(self) -> Iterator[Signature]:
        yield from (found for task in self.tasks for found in task.single_tasks())
        yield from self.body.single_tasks()

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
        given = given.normal()
    if isinstance(given, group):
        return [each.clone() for each in given.tasks]
    if isinstance(given, Mapping) and not isinstance(given, Signature):
        given = signature(given)
    several = [given] if isinstance(given, Signature) or not isinstance(given, Iterable) else given
    return [maybe_signature(each) for each in several]


def _taken(tasks: Iterator[Any]) -> list[Signature]:
    """What an iterator gives within `SLOW` seconds; all of it, of one that does not let us wait."""
    taken: list[Signature] = []
    waited = 0.0
    while waited <= SLOW:
        asked = time.monotonic()
        try:
            taken.append(maybe_signature(next(tasks)))
        except StopIteration:
            break
        waited += time.monotonic() - asked
    return taken


def _is_one(tasks: Sequence[Any]) -> bool:
    """Whether this is one signature or task, and no iterable of them."""
    return len(tasks) == 1 and (isinstance(tasks[0], Mapping) or not isinstance(tasks[0], Iterable))


def _steps(tasks: Sequence[Any]) -> list[Signature]:
    """The steps that a chain is made of: several signatures, or one iterable of them."""
    several = tasks[0] if len(tasks) == 1 and not _is_one(tasks) else tasks
    return [maybe_signature(each) for each in several]


def _unchained(sig: Signature) -> list[Signature]:
    """A chain as copies of its steps; anything else as a copy of itself."""
    if not isinstance(sig, chain):
        return [sig.clone()]
    steps = [step.clone() for step in sig.tasks]
    if steps and sig.args:
        steps[0] = steps[0].clone(sig.args)
    for callback in as_list(sig.options.get("link")):
        steps[-1].link(callback)
    for errback in as_list(sig.options.get("link_error")):
        for step in steps:
            step.link_error(errback)
    return steps


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


# The normal form


def _before(step: Signature, rest: list[Signature]) -> list[Signature]:
    """The steps of a chain, with `step` before `rest`; both are in normal form."""
    if not rest:
        return list(step.tasks) if isinstance(step, chain) else [step]
    if isinstance(step, chain):
        return [*step.tasks[:-1], *_before(step.tasks[-1], rest)]
    following = rest[0] if len(rest) == 1 else chain.of(rest)
    if isinstance(step, group):
        made = chord((), None)
        made.kwargs.update(header=step.tasks, body=following)
        if "task_id" in step.options:
            made.options["header_id"] = step.options["task_id"]
        return [made]
    if isinstance(step, chord):
        body = _before(step.body, rest)
        step.kwargs["body"] = body[0] if len(body) == 1 else chain.of(body)
        step.options.pop("task_id", None)
        return [step]
    return [step, *rest]


def _single(task: Signature) -> Signature:
    """`task`, in normal form, so that it ends in one job: a group at its end gives the list of its results."""
    if not isinstance(task.end(), group):
        return task
    steps = _before(task, [Signature(ACCUMULATE)])
    return steps[0] if len(steps) == 1 else chain.of(steps)


def single(sig: Signature) -> Signature:
    """The normal form of `sig`, made to end in one job."""
    return _single(sig.normal())


def _flat(tasks: Iterable[Signature]) -> list[Signature]:
    """The members of a header in normal form, groups among them unrolled, what is empty left out."""
    found = [task.normal() for task in tasks]
    flat = [each for task in found for each in (task.tasks if isinstance(task, group) else [task])]
    return [each for each in flat if not _is_empty(each)]


def _spread(tree: Signature, options: Mapping[str, Any]) -> Signature:
    """`tree` with the options of a whole at its single tasks."""
    timing = {name: value for name, value in options.items() if name in TIMING}
    for task in tree.entries() if timing else ():
        task.options.update(timing)
    rest = {name: value for name, value in options.items() if name not in TIMING | OWN}
    for task in tree.single_tasks() if rest else ():
        task["options"] = {**rest, **task.options}
    return tree


def _linked(tree: Signature, options: Mapping[str, Any]) -> Signature:
    for name in ("link", "link_error"):
        for callback in as_list(options.get(name)):
            getattr(tree, name)(callback)
    return tree


def _with_args(tree: Signature, given: Signature) -> Signature:
    for task in tree.entries() if given.args else ():
        if not task.immutable:
            task.args = (*given.args, *task.args)
    return tree


def _is_ignored(task: Signature) -> bool:
    """Whether nobody keeps its result, as far as this process knows."""
    known = registry.find(task.task)
    return bool(task.options.get("ignore_result", known is None or known.ignores_result))


def _is_empty(sig: Signature) -> bool:
    return isinstance(sig, (group, chain)) and not sig.tasks


def like(made: Signature, values: Mapping[str, Any]) -> None:
    """Give `made` the rest of what `values` say."""
    made["args"] = tuple(values.get("args") or ())
    made["kwargs"] = {**dict(values.get("kwargs") or {}), **made.kwargs}
    made["options"] = with_links(values.get("options"))
    made["immutable"] = bool(values.get("immutable"))


def _copied(value: Any) -> Any:
    """A signature, or a list of them, copied; anything else as it is."""
    if isinstance(value, Signature):
        return value.clone()
    if isinstance(value, list):
        return [each.clone() if isinstance(each, Signature) else each for each in value]
    return value


def _first(result: Any) -> Any:
    """The handle that stands first among those that lead to `result`."""
    return line_of(result)[0] if result is not None else None
