"""A signature as it travels in a message: a dict of what it holds, or the text of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from djtasks import encoding


def packed(sig: Mapping[str, Any]) -> dict[str, Any]:
    """A signature as it travels, at every depth: what is empty is left out. Raises TypeError for what is none."""
    if not isinstance(sig, Mapping) or "task" not in sig:
        raise TypeError(f"This is no signature: {sig!r:.200}; make one with task.s(…).")
    kwargs = {name: _packed_part(value) for name, value in (sig.get("kwargs") or {}).items()}
    options = {name: packed_links(name, value) for name, value in (sig.get("options") or {}).items()}
    parts = {
        "args": list(sig.get("args") or ()),
        "kwargs": kwargs,
        "options": options,
        "subtask_type": sig.get("subtask_type"),
        "immutable": sig.get("immutable"),
    }
    return {"task": sig["task"], **{name: value for name, value in parts.items() if value}}


def text_of(sig: Mapping[str, Any]) -> str:
    """A signature as JSON text. Raises TypeError for what JSON cannot carry."""
    return encoding.encode(packed(sig), tuples=True, name="signature")


def from_text(text: str) -> Any:
    """The signature, as a dict, that `text_of` wrote; model instances stand as references."""
    return encoding.decode(text, fetch=False)


def packed_links(name: str, value: Any) -> Any:
    """The option `name`: of links each one packed, anything else as it is."""
    return [packed(_as_signature(each)) for each in as_list(value)] if name in ("link", "link_error") else value


def as_list(value: Any) -> list[Any]:
    """None as [], one signature as a list of it, several as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _packed_part(value: Any) -> Any:
    """An argument; the signatures of a canvas are packed too."""
    if isinstance(value, Mapping) and "subtask_type" in value:
        return packed(value)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(each, Mapping) and "subtask_type" in each for each in value)
    ):
        return [packed(each) for each in value]
    return value


def _as_signature(callback: Any) -> Mapping[str, Any]:
    """A task given as a callback, as a signature of it."""
    return callback if isinstance(callback, Mapping) or not hasattr(callback, "name") else {"task": callback.name}
