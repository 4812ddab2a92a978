"""What may stand in a schedule's row: a check for each field that Django's own do not cover."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from django.utils.translation import gettext as _

from djtasks import encoding
from djtasks.exceptions import MalformedMessage, ParseException
from djtasks.message import PRIORITIES
from djtasks.schedules import from_text

if TYPE_CHECKING:
    from djtasks.models.periodic_task import PeriodicTask

LONGEST: Final = 100 * 365.25 * 86400  # seconds; what databases can add to a time without overflow
_NO_TEXT: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})  # not all databases store it, nor stays it in a line of the log
Check = Callable[["PeriodicTask"], object]


def problems(row: PeriodicTask) -> dict[str, str]:
    """What is wrong with the definition, a sentence a field."""
    found: dict[str, str] = {}
    for field, check in _CHECKS.items():
        try:
            check(row)
        except (TypeError, ValueError) as error:
            found[field] = error.translated() if isinstance(error, ParseException) else str(error)
    return found


def _check_name(name: str) -> Check:
    def check(row: PeriodicTask) -> None:
        if not getattr(row, name).isprintable():
            raise ValueError(_("Write a name of printable characters."))

    return check


def _check_name_of_row(row: PeriodicTask) -> None:
    if any(unicodedata.category(character) in _NO_TEXT for character in row.name):
        raise ValueError(_("Write a name without control characters, in one line."))


def _check_schedule(row: PeriodicTask) -> None:
    from_text(row.schedule)


def _check_args(row: PeriodicTask) -> None:
    if not isinstance(_json(row.args), list):
        raise ValueError(_('Write a JSON list, such as [1, "two"].'))
    _typed(row.args)


def _check_object(name: str) -> Check:
    def check(row: PeriodicTask) -> None:
        text = getattr(row, name)
        values = _json(text)
        if not isinstance(values, dict) or encoding.TAG in values:
            raise ValueError(_('Write a JSON object, such as {"page": 1}.'))
        _typed(text)

    return check


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(_("This is no JSON: {error}.").format(error=error)) from None


def _typed(text: str) -> None:
    try:
        encoding.decode(text, fetch=False)
    except MalformedMessage as error:
        raise ValueError(str(error)) from None


def _check_priority(row: PeriodicTask) -> None:
    if row.priority is not None and row.priority not in PRIORITIES:
        raise ValueError(
            _("A priority is a whole number from {least} to {most}; higher runs first.").format(
                least=PRIORITIES[0], most=PRIORITIES[-1]
            )
        )


def _check_seconds(name: str, *, zero: bool) -> Check:
    def check(row: PeriodicTask) -> None:
        value = getattr(row, name)
        if value is None or (math.isfinite(value) and 0 <= value <= LONGEST and (zero or value > 0)):
            return
        least = _("0 or more") if zero else _("more than 0")
        raise ValueError(_("Write a number of seconds: {least}, and at most 100 years.").format(least=least))

    return check


def _check_max_runs(row: PeriodicTask) -> None:
    if row.max_runs is not None and row.max_runs < 1:
        raise ValueError(_("Write a whole number above 0, or nothing for no limit."))


def _check_end_at(row: PeriodicTask) -> None:
    if row.start_at is not None and row.end_at is not None and row.end_at < row.start_at:
        raise ValueError(_("The end lies before the start."))


def _check_catch_up(row: PeriodicTask) -> None:
    if row.catch_up not in row.CatchUp.values:
        raise ValueError(_("Write one of: {words}.").format(words=", ".join(row.CatchUp.values)))


_CHECKS: Final[Mapping[str, Check]] = {
    "name": _check_name_of_row,
    "task": _check_name("task"),
    "schedule": _check_schedule,
    "timezone": lambda row: row.zone,
    "args": _check_args,
    "kwargs": _check_object("kwargs"),
    "headers": _check_object("headers"),
    "queue": _check_name("queue"),
    "priority": _check_priority,
    "end_at": _check_end_at,
    "max_runs": _check_max_runs,
    "expires": _check_seconds("expires", zero=False),
    "jitter": _check_seconds("jitter", zero=True),
    "catch_up": _check_catch_up,
    "misfire_grace": _check_seconds("misfire_grace", zero=True),
}
