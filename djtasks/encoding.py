"""Typed JSON: what arguments and results are written in.

JSON's own values stand as they are. Other values stand as `{"$": type, "v": value}`; a dict that
JSON would change (keys that are no text, or a key "$") stands as its pairs. Nothing is ever
imported or called by a name found in the data, but for models, which Django's registry looks up.
All text is ASCII: NUL bytes and lone surrogates stand escaped, since PostgreSQL refuses them.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db import Error as DatabaseError
from django.db.models import Model
from django.utils.functional import Promise

from djtasks import compact
from djtasks.exceptions import MalformedMessage
from djtasks.masking import excerpt

TAG: Final = "$"
VALUE: Final = "v"
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})

_dumps = compact.writer()


@dataclasses.dataclass(frozen=True, slots=True)
class ModelReference:
    """A model instance as it stands in a message: `label` is 'app_label.model_name'."""

    label: str
    pk: Any
    alias: str | None = None

    def fetch(self) -> Model:
        """The instance as the database has it now. Raises the model's DoesNotExist."""
        found: Model = apps.get_model(self.label)._base_manager.using(self.alias).get(pk=self.pk)
        return found

    def __repr__(self) -> str:
        return f"<{self.label} pk={self.pk!r}>"


def encode(value: object, *, tuples: bool = False, name: str = "value") -> str:
    """Write one value. Tuples become lists unless `tuples`; `name` is what an error calls the value.

    Raises TypeError, naming the place and the type, for what cannot be carried.
    """
    if value is None:
        return "null"
    return _written(_Writer(tuples).write, value, name)


def encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
    """Write a call's arguments as a JSON list and a JSON object; tuples inside stay tuples.

    Raises TypeError, naming the argument and its type, for what cannot be carried.
    """
    writer = _Writer(tuples=True)
    return (
        _written(writer.sequence, args, "args") if args else "[]",
        _written(writer.keywords, kwargs, "kwargs") if kwargs else "{}",
    )


def decode(text: str, *, fetch: bool = True) -> Any:
    """Read what `encode` wrote. Model instances are fetched, or stand as `ModelReference` if not `fetch`.

    Raises MalformedMessage for text that is none of ours, DoesNotExist for an instance that is gone.
    """
    if text == "{}":
        return {}
    try:
        return compact.read(text, _fetching if fetch else _referring)
    except (ObjectDoesNotExist, DatabaseError, MemoryError):
        raise
    except Exception as error:  # whatever the constructors of the types say to nonsense
        raise MalformedMessage(f"This is not a value of ours ({error}): {excerpt(text)}") from error


def decode_arguments(args: str, kwargs: str, *, fetch: bool = True) -> tuple[list[Any], dict[str, Any]]:
    """Read what `encode_arguments` wrote; raises as `decode` does."""
    positional = [] if args == "[]" else decode(args, fetch=fetch)
    keywords = {} if kwargs == "{}" else decode(kwargs, fetch=fetch)
    if not isinstance(positional, list):
        raise MalformedMessage(f"args must be a list, not {type(positional).__name__}.")
    if not isinstance(keywords, dict) or not all(isinstance(key, str) for key in keywords):
        raise MalformedMessage("kwargs must be an object with text keys.")
    return positional, keywords


def plain_text(text: str) -> str:
    """`text` fit for every database: NUL bytes and lone surrogates stand escaped."""
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _written(write: Callable[[Any, str], object], value: object, name: str) -> str:
    try:
        return _dumps(write(value, name))
    except RecursionError:
        raise TypeError(f"{name} is nested too deeply, or contains itself; JSON cannot carry it.") from None
    except ValueError as error:
        raise TypeError(f"{name} cannot be written as JSON: {error}") from None  # a number of too many digits


class _Writer:
    """Turns values into what the json module writes as it stands.

    `hashable`: what is read back becomes a key or an element of a set.
    """

    def __init__(self, tuples: bool, hashable: bool = False) -> None:
        self.tuples = tuples
        self.hashable = hashable

    def write(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is list or (kind is range and not self.hashable):  # read back as a list, a range could be no key
            return self.sequence(value, path)
        if isinstance(value, dict):
            return self.mapping(value, path)
        if isinstance(value, (list, tuple)):
            items = self.sequence(value, path)
            return _tagged("tuple", items) if self.tuples and isinstance(value, tuple) else items
        return self.other(value, path)

    def sequence(self, values: Sequence[Any], path: str) -> list[Any]:
        return [
            value if type(value) in _SCALARS else self.write(value, f"{path}[{index}]")
            for index, value in enumerate(values)
        ]

    def keywords(self, values: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {key: self.write(value, f"{path}[{key!r}]") for key, value in values.items()}

    def mapping(self, values: Mapping[Any, Any], path: str) -> Any:
        if TAG not in values and all(type(key) is str for key in values):
            return self.keywords(values, path)
        keys = _Writer(tuples=True, hashable=True)
        return _tagged(
            "dict",
            [
                [keys.write(key, f"key {key!r} of {path}"), self.write(value, f"{path}[{key!r}]")]
                for key, value in values.items()
            ],
        )

    def other(self, value: Any, path: str) -> Any:
        for kind, tag, write in _WRITERS:
            if isinstance(value, kind):
                return _tagged(tag, write(value))
        if isinstance(value, (str, int, float)):
            return value
        if isinstance(value, (set, frozenset)):
            elements = _Writer(tuples=True, hashable=True).sequence(list(value), path)
            return _tagged("set" if isinstance(value, set) else "frozenset", elements)
        if isinstance(value, Promise):
            return str(value)
        if isinstance(value, (Model, ModelReference)):
            return _tagged("model", _reference(value, path))
        fields = _fields_of(value)
        if fields is None or self.hashable:  # read back as a dict, it could be no key
            raise TypeError(_refusal(value, path))
        return self.mapping(fields, path)


def _tagged(tag: str, value: object) -> dict[str, Any]:
    return {TAG: tag, VALUE: value}


def _reference(instance: Model | ModelReference, path: str) -> list[Any]:
    if isinstance(instance, ModelReference):  # read without being fetched, and handed on
        return [instance.label, _Writer(tuples=True).write(instance.pk, f"{path}.pk"), instance.alias]
    if instance.pk is None:
        raise TypeError(f"{path} is an unsaved {type(instance).__name__}; save it before it is passed to a task.")
    pk = _Writer(tuples=True).write(instance.pk, f"{path}.pk")
    return [instance._meta.label_lower, pk, instance._state.db]


def _fields_of(value: Any) -> dict[str, Any] | None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(type(value), "model_dump") and hasattr(type(value), "model_validate"):  # pydantic, if it is there
        return typing.cast("dict[str, Any]", value.model_dump())
    return None


def _refusal(value: object, path: str) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    hint = "pass the primary keys, or a list" if hasattr(value, "_iterable_class") else "pass plain data, or an id"
    return f"{path} is of type {kind}, which JSON cannot carry; {hint}."


_WRITERS: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (  # class or classes, tag, what writes them
    (datetime, "datetime", datetime.isoformat),  # before date, whose subclass it is
    (date, "date", date.isoformat),
    (time, "time", time.isoformat),
    (timedelta, "timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    (Decimal, "decimal", str),
    (uuid.UUID, "uuid", str),
    ((bytes, bytearray, memoryview), "bytes", lambda value: base64.b64encode(value).decode("ascii")),
)

_READERS: Mapping[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda value: timedelta(*value),
    "decimal": Decimal,
    "uuid": uuid.UUID,
    "bytes": lambda value: base64.b64decode(value, validate=True),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "model": lambda value: ModelReference(*value),
}


def _read_without_fetching(values: dict[str, Any]) -> Any:
    if TAG not in values:
        return values
    return _READERS[values[TAG]](values[VALUE])


def _read(values: dict[str, Any]) -> Any:
    value = _read_without_fetching(values)
    return value.fetch() if isinstance(value, ModelReference) else value


# Made once: json.loads makes a decoder for each call that has a hook.
_fetching = json.JSONDecoder(object_hook=_read)
_referring = json.JSONDecoder(object_hook=_read_without_fetching)

Converter = Callable[[Any], Any]


def converters(function: Callable[..., Any]) -> dict[str, Converter]:
    """What turns decoded arguments into what `function` is annotated with, by parameter name.

    Covers dataclasses and pydantic models, also as `X | None`, `list[X]`, `dict[str, X]` and the
    like; all else is passed as it is.
    """
    try:
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(function).parameters
    except Exception:  # names that exist for type checkers only: nothing to convert by
        return {}
    found = {
        name: _of_parameter(parameters[name].kind, _converter(hint))
        for name, hint in hints.items()
        if name in parameters
    }
    return {name: convert for name, convert in found.items() if convert is not None}


def _of_parameter(kind: Any, convert: Converter | None) -> Converter | None:
    if convert is not None and kind is inspect.Parameter.VAR_POSITIONAL:
        return _for_each(convert)
    if convert is not None and kind is inspect.Parameter.VAR_KEYWORD:
        return _for_each_value(convert)
    return convert


def _converter(hint: Any) -> Converter | None:
    """What converts a value annotated with `hint`; None if it stays as it is."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _converter(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _first(_converter(each) for each in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _lifted(_for_each_value, arguments[-1:])
    if isinstance(origin, type) and issubclass(origin, Collection):
        return _lifted(_for_each, arguments[:1])
    return _class_converter(hint)


def _first(converters: Iterable[Converter | None]) -> Converter | None:
    return next((each for each in converters if each is not None), None)


def _lifted(lift: Callable[[Converter], Converter], arguments: Sequence[Any]) -> Converter | None:
    convert = _first(_converter(each) for each in arguments)
    return None if convert is None else lift(convert)


def _for_each(convert: Converter) -> Converter:
    return lambda value: type(value)(map(convert, value)) if isinstance(value, (list, tuple)) else value


def _for_each_value(convert: Converter) -> Converter:
    return lambda value: {key: convert(each) for key, each in value.items()} if isinstance(value, dict) else value


def _class_converter(hint: Any) -> Converter | None:
    if not isinstance(hint, type):
        return None
    build: Converter
    if dataclasses.is_dataclass(hint):
        build = _dataclass_builder(hint)
    elif hasattr(hint, "model_validate") and hasattr(hint, "model_dump"):
        build = hint.model_validate
    else:
        return None
    return lambda value: build(value) if isinstance(value, dict) else value


def _dataclass_builder(kind: Any) -> Converter:
    made_by_itself = {field.name for field in dataclasses.fields(kind) if not field.init}

    def build(values: dict[str, Any]) -> Any:
        nested = converters(kind)
        given = {name: value for name, value in values.items() if name not in made_by_itself}
        return kind(**{name: nested[name](value) if name in nested else value for name, value in given.items()})

    return build
