"""The form of a call: a field for each parameter of the task, by its annotation, or JSON; checked by the signature."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any, Final
from uuid import UUID

from django import forms
from django.utils.html import conditional_escape
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djtasks import encoding
from djtasks.admin.action import valid_queue
from djtasks.admin.schedule_form import SuggestingInput
from djtasks.exceptions import MalformedMessage
from djtasks.masking import MASK, is_sensitive, masked_call
from djtasks.message import LONGEST_DELAY, MAX_QUEUE_LENGTH, PRIORITIES
from djtasks.queues import known_queues
from djtasks.task import Task

PREFIX: Final = "argument_"  # so that no parameter takes the name of an option
OPTIONS: Final = ("queue", "priority", "countdown")
LONGEST_DEFAULT: Final = 80  # characters
_MANY: Final[Mapping[Any, type]] = {inspect.Parameter.VAR_POSITIONAL: list, inspect.Parameter.VAR_KEYWORD: dict}
_STARS: Final[Mapping[Any, str]] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
# Of a task that nobody here knows, or as who sends it wants to write.
_LOOSE: Final = (
    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
)
_FIELDS: Final[Mapping[Any, Callable[..., forms.Field]]] = {
    str: lambda **options: forms.CharField(strip=False, **options),
    int: forms.IntegerField,
    float: forms.FloatField,
    Decimal: forms.DecimalField,
    UUID: forms.UUIDField,
    date: forms.DateField,
    time: forms.TimeField,
    datetime: forms.DateTimeField,
}


@dataclass(frozen=True, slots=True)
class Given:
    """What an argument was before: its value, and the JSON that stands for it in the form, masked where it must be."""

    value: Any
    text: str


class ValueField(forms.CharField):
    """A value in typed JSON; None in `clean` is "nothing was said", a value is `(value,)`: `null` is one, too."""

    def __init__(self, *, kind: type | None = None, given: Given | None = None, **options: Any) -> None:
        attrs = {"class": "vLargeTextField djtasks-code", "rows": _rows(given.text) if given else 2}
        widget = forms.Textarea({**attrs, "spellcheck": "false", "autocomplete": "off"})
        super().__init__(**{"widget": widget, "initial": given.text if given else "", **options})
        self.kind, self.given = kind, given

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        if self.given is not None and text == self.given.text.strip():
            return (self.given.value,)
        if self.given is not None and MASK in text:
            raise forms.ValidationError(_("A part of it is not shown. Type all of it, or leave it as it was."))
        found = _read(text)
        if self.kind is list and not isinstance(found, list):
            raise forms.ValidationError(_('Write a JSON list, such as [1, "two"].'))
        if self.kind is dict and not isinstance(found, dict):
            raise forms.ValidationError(_('Write a JSON object, such as {"page": 1}.'))
        return (found,)


class CallForm(forms.Form):
    """A call of `task`, whose arguments were `args` and `kwargs` before; a field that is left empty is not sent.

    None for a task is one that nobody here knows. `as_json`: two fields for all arguments.
    """

    queue = forms.CharField(
        label=gettext_lazy("Queue"),
        required=False,
        strip=False,
        max_length=MAX_QUEUE_LENGTH,
        widget=SuggestingInput(known_queues),
        help_text=gettext_lazy("Empty: as the task and the routes say."),
    )
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        required=False,
        min_value=PRIORITIES[0],
        max_value=PRIORITIES[-1],
        help_text=gettext_lazy("From -100 to 100, higher runs first. Empty: what the task says."),
    )
    countdown = forms.FloatField(
        label=gettext_lazy("Countdown (seconds)"),
        required=False,
        min_value=0,
        max_value=LONGEST_DELAY,
    )

    def __init__(
        self,
        data: Any,
        *,
        task: Task[Any, Any] | None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        as_json: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(data, **options)
        self.task = task
        self.parameters, given = _bound(task, args, kwargs or {}, as_json=as_json)
        hints = _hints(task)
        for each in self.parameters:
            self.fields[PREFIX + each.name] = _field(task, each, hints.get(each.name), given.get(each.name))
        self.order_fields([*(PREFIX + each.name for each in self.parameters), *OPTIONS])

    def arguments(self) -> list[forms.BoundField]:
        """The fields of the arguments, for the template."""
        return [self[PREFIX + each.name] for each in self.parameters]

    def options_fields(self) -> list[forms.BoundField]:
        """The other fields, for the template."""
        return [self[name] for name in OPTIONS]

    def clean_queue(self) -> str | None:
        return valid_queue(self.cleaned_data["queue"]) if self.cleaned_data["queue"] else None

    def clean(self) -> dict[str, Any]:
        if not self.errors:
            try:
                args, kwargs = self.call()
                if self.task is not None:
                    self.task.check_arguments(args, kwargs)
            except TypeError as error:
                raise forms.ValidationError(str(error)) from error
        return self.cleaned_data

    def call(self) -> tuple[list[Any], dict[str, Any]]:
        """args and kwargs as they are sent, by name where that can be. For a form that is valid so far."""
        said = {
            each: found
            for each in self.parameters
            if (found := _said(self.cleaned_data[PREFIX + each.name])) is not None
        }
        has_rest = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in said)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter, (value,) in said.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args += value
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                _add(kwargs, value)
            elif _goes_by_place(parameter, has_rest=has_rest):
                args.append(value)
            else:
                kwargs[parameter.name] = value
        return args, kwargs

    def options(self) -> dict[str, Any]:
        """The options of the call that were given."""
        chosen = {name: self.cleaned_data[name] for name in OPTIONS}
        return {name: value for name, value in chosen.items() if value is not None}


def _goes_by_place(parameter: inspect.Parameter, *, has_rest: bool) -> bool:
    """Whether it has no name in a call, or stands before what has none."""
    if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return has_rest
    return parameter.kind is inspect.Parameter.POSITIONAL_ONLY


def _add(kwargs: dict[str, Any], more: Mapping[str, Any]) -> None:
    if twice := sorted(kwargs.keys() & more.keys()):
        raise TypeError(_("“%(name)s” has a field of its own.") % {"name": twice[0]})
    kwargs |= more


def _said(value: Any) -> tuple[Any] | None:
    """What a field says, as `ValueField` gives it: None is nothing."""
    if value is None or value == "":
        return None
    return value if isinstance(value, tuple) else (value,)


def _bound(
    task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any], *, as_json: bool
) -> tuple[Sequence[inspect.Parameter], dict[str, Given]]:
    """The parameters, and what each was given. Of a call that does not fit the task, `args` and `kwargs`."""
    shown_args, shown_kwargs = masked_call(task, args, kwargs)
    if task is not None and not as_json:
        try:
            values = task.parameters.bind_partial(*args, **kwargs).arguments
            shown = task.parameters.bind_partial(*shown_args, **shown_kwargs).arguments
        except TypeError:
            pass
        else:
            given = {name: _given(value, shown[name]) for name, value in values.items()}
            return list(task.parameters.parameters.values()), given
    loose = {"args": (list(args), shown_args), "kwargs": (dict(kwargs), shown_kwargs)}
    return _LOOSE, {name: _given(value, seen) for name, (value, seen) in loose.items() if value}


def _given(value: Any, shown: Any) -> Given:
    return Given(list(value) if isinstance(value, tuple) else value, encoding.encode(shown, tuples=True))


def _hints(task: Task[Any, Any] | None) -> dict[str, Any]:
    try:
        return typing.get_type_hints(task.run) if task is not None else {}
    except Exception:  # names that exist for type checkers only
        return {}


def _field(task: Task[Any, Any] | None, parameter: inspect.Parameter, hint: Any, given: Given | None) -> forms.Field:
    kind = _MANY.get(parameter.kind)
    make = None if kind else _maker(_bare(hint))
    if make is not None and given is not None and not _is_kept(make(), given):
        make = None
    is_hidden = is_sensitive(parameter.name) or (task is not None and parameter.name in task.sensitive_arguments)
    notes = _notes(parameter, hint, is_json=make is None, hides_default=is_hidden)
    options: dict[str, Any] = {
        "label": _label(parameter),
        "required": kind is None and parameter.default is inspect.Parameter.empty,
        "help_text": conditional_escape(" · ".join(notes)),  # forms show it unescaped
    }
    if make is None:
        options |= {"kind": kind, "given": given}
    elif given is not None:
        options["initial"] = _written(given.value) if isinstance(given.value, bool) else given.value
    if is_hidden and given is None:
        options["widget"] = forms.PasswordInput({"autocomplete": "new-password"})
    return (make or ValueField)(**options)


def _maker(kind: Any) -> Callable[..., forms.Field] | None:
    """What makes a field for values of this annotation; None where only JSON will do."""
    if kind is bool:
        return partial(_choice, {"true": True, "false": False})
    if typing.get_origin(kind) is typing.Literal:
        return partial(_choice, {str(each): each for each in typing.get_args(kind)})
    return _FIELDS.get(kind)


def _choice(values: Mapping[str, Any], **options: Any) -> forms.Field:
    options.pop("widget", None)  # what can be chosen is no secret
    choices = [("", "–"), *((text, text) for text in values)]
    return forms.TypedChoiceField(choices=choices, coerce=lambda text: (values[text],), empty_value=None, **options)


def _is_kept(field: forms.Field, given: Given) -> bool:
    """Whether the field shows this value, and gives it back as it was."""
    value: Any = given.value
    if MASK in given.text or (isinstance(value, str) and "\n" in value):
        return False
    if isinstance(value, datetime) or getattr(value, "microsecond", None):  # its zone, or a part of it, is not shown
        return False
    try:
        said = _said(field.clean(_written(value)))
    except forms.ValidationError:
        return False
    return said is not None and repr(said[0]) == repr(value)  # the type, too


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bare(hint: Any) -> Any:
    """The type without `| None` and `Annotated`."""
    if typing.get_origin(hint) is typing.Annotated:
        return _bare(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        others = [each for each in typing.get_args(hint) if each is not type(None)]
        return _bare(others[0]) if len(others) == 1 else hint
    return hint


def _label(parameter: inspect.Parameter) -> str:
    if parameter is _LOOSE[0]:
        return _("Positional arguments")
    if parameter is _LOOSE[1]:
        return _("Keyword arguments")
    return f"{_STARS.get(parameter.kind, '')}{parameter.name}"


def _notes(parameter: inspect.Parameter, hint: Any, *, is_json: bool, hides_default: bool) -> list[str]:
    notes = []
    if hint is not None:
        notes.append(inspect.formatannotation(hint))
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        notes.append(_('A JSON list, such as [1, "two"].'))
    elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
        notes.append(_('A JSON object, such as {"page": 1}.'))
    elif is_json:
        notes.append(_('as JSON: 1, "text", [1, 2]'))
    if parameter.default is not inspect.Parameter.empty:
        default = "…" if hides_default else repr(parameter.default)[:LONGEST_DEFAULT]
        notes.append(_("empty: %(default)s") % {"default": default})
    return notes


def _rows(text: str) -> int:
    return min(12, 1 + len(text) // 80)


def _read(text: str) -> Any:
    """The value of a JSON text. Raises ValidationError."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = _('This is no JSON: {error}. A text stands in double quotes, such as "two".')
        raise forms.ValidationError(hint.format(error=error)) from None
    try:
        return encoding.decode(text, fetch=False)
    except MalformedMessage as error:
        raise forms.ValidationError(str(error)) from None
