"""An exception as text: as it is stored, as hooks get it, as it is logged."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final

import django

from djtasks import encoding
from djtasks.exceptions import MalformedMessage
from djtasks.message import Failure

LONGEST_TEXT: Final = 64 * 1024  # characters kept of a traceback or an exception's message
MOST_FRAMES: Final = 10  # of the stack that sent a job
_OUR_CODE: Final = str(Path(__file__).parent)
_NOT_USERS: Final = (_OUR_CODE, str(Path(django.__file__).parent))


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Celery's `einfo`: an exception with its traceback as text."""

    exception: BaseException
    traceback: str

    @property
    def type(self) -> type[BaseException]:
        return type(self.exception)

    def __str__(self) -> str:
        return self.traceback


def failure_of(error: BaseException) -> Failure:
    """`error` as it is stored, whatever its `__str__` and its arguments do."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    try:
        arguments: str | None = encoding.encode(list(error.args), tuples=True)
    except Exception:  # what JSON cannot carry, or what a __getattr__ of the user's raises
        arguments = None
    if arguments is not None and len(arguments) > LONGEST_TEXT:
        arguments = None
    return Failure(encoding.plain_text(kind)[:255], _bounded(text_of(error)), arguments, _bounded(_traceback_of(error)))


def text_of(error: BaseException) -> str:
    """`str(error)`, whatever its `__str__` does."""
    try:
        return str(error)
    except Exception as broken:
        return f"<its __str__ raised {type(broken).__name__}>"


def shown(error: BaseException) -> str:
    """`repr(error)`, whatever its `__repr__` does."""
    try:
        return repr(error)
    except Exception as broken:
        return f"<{type(error).__name__}; its __repr__ raised {type(broken).__name__}>"


def call_of(failure: Failure) -> str:
    """A stored exception as the call that makes it: `ValueError('boom', 1)`; with its text, if that is all."""
    try:
        arguments = encoding.decode(failure.arguments or "", fetch=False)
    except MalformedMessage:
        arguments = None
    given = arguments if isinstance(arguments, list) else [failure.message]
    return f"{failure.kind}({', '.join(map(repr, given))})"


def sent_from() -> str:
    """Where the code that runs here was called from: the innermost lines that are neither ours nor Django's."""
    frames = [each for each in traceback.extract_stack() if not each.filename.startswith(_NOT_USERS)]
    return "".join(traceback.format_list(frames[-MOST_FRAMES:]))


def with_origin(failure: Failure, origin: str) -> Failure:
    """The failure, with what `sent_from` said of its job before the traceback."""
    return replace(failure, traceback=_bounded(f"Sent from (most recent call last):\n{origin}\n{failure.traceback}"))


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, users_own(error.__traceback__)))
    except Exception as broken:
        return f"<its traceback could not be formatted: {type(broken).__name__}>"


def users_own(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the task's own code on; all of it if that was not reached."""
    rest = _below_ours(trace)
    while rest is not None and not _awaits(rest):
        rest = rest.tb_next
    below = _below_ours(rest) if rest is not None else _below_ours(trace)
    return below or trace


def _below_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OUR_CODE):
        trace = trace.tb_next
    return trace


def _awaits(trace: TracebackType) -> bool:
    """Whether this is where a coroutine is awaited: an event loop's frames lie between it and our others."""
    return trace.tb_frame.f_code.co_name == "awaited" and trace.tb_frame.f_code.co_filename.startswith(_OUR_CODE)


def _bounded(text: str) -> str:
    text = encoding.plain_text(text)
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
