"""An exception as text: as it is stored, as hooks get it, as it is logged."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from djtasks import encoding
from djtasks.exceptions import MalformedMessage
from djtasks.message import Failure

LONGEST_TEXT: Final = 64 * 1024  # characters kept of a traceback or an exception's message
_OUR_CODE: Final = str(Path(__file__).parent)


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


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, _users_own(error.__traceback__)))
    except Exception as broken:
        return f"<its traceback could not be formatted: {type(broken).__name__}>"


def _users_own(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without our frames at its head; all of it if there are no others."""
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename.startswith(_OUR_CODE):
        rest = rest.tb_next
    return rest or trace


def _bounded(text: str) -> str:
    text = encoding.plain_text(text)
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
