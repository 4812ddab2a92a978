"""What all signatures have in common that are made of signatures: they are sent, and run here, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Self

from djtasks import plan
from djtasks.canvas.normal import frozen, normal
from djtasks.canvas.signatures import Signature
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured
from djtasks.packing import as_list
from djtasks.result import line_of

CALL: Final = frozenset({"throw", "using"})  # options of one `apply_async`, not of its jobs


@contextmanager
def bounded() -> Iterator[None]:
    """Within the block, or the decorated function, a canvas that is nested too deeply gives an error that says so."""
    try:
        yield
    except RecursionError as error:
        raise ImproperlyConfigured(
            "This canvas is nested too deeply for Python's recursion limit. Each group in a chain nests what follows "
            "it one level deeper; let a task in the middle send the rest."
        ) from error


class Composed(Signature):
    """A signature made of signatures."""

    # Runs a normal form in this process; djtasks.eager, which stands above, puts it here.
    run_here: ClassVar[Callable[..., Any]]

    @bounded()
    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send it, `args` before those of the jobs that come first. Returns the handle on its result.

        `countdown`, `eta` and `expires` are those of the jobs that come first, `link` and `link_error` those of the
        whole; other options hold for each job that names none of its own. Raises as `Task.apply_async`, and
        ImproperlyConfigured if it is nested too deeply.
        """
        if settings.TASK_ALWAYS_EAGER:
            return self.apply(args, kwargs, **options)
        tree = normal(self.with_options(options))
        return send(tree, args or (), kwargs or {}, using=options.get("using"))

    @bounded()
    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here, with the same outcome as in workers. Returns an EagerResult; of a group, several."""
        tree = normal(self.with_options(options))
        return Composed.run_here(tree, frozen(tree), args or (), kwargs or {}, options.get("throw"))

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

    def _copy(self) -> Self:
        made = super()._copy()
        made["kwargs"] = {name: _copied(value) for name, value in self.kwargs.items()}
        return made


def send(
    tree: Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    using: str | None = None,
    open_group: str | None = None,
) -> Any:
    """Send a normal form, as `plan.send` does. Returns the handle on its result; None if it is empty."""
    result = frozen(tree)
    if result is not None:
        committed = plan.send(tree, args, kwargs, using=using, open_group=open_group)
        for each in line_of(result):
            each.committed_when(committed)
    return result


def _copied(value: Any) -> Any:
    """A signature, or a list of them, copied; anything else as it is."""
    if isinstance(value, Signature):
        return value.clone()
    if isinstance(value, list):
        return [each.clone() if isinstance(each, Signature) else each for each in value]
    return value
