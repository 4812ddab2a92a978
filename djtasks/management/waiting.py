"""What `manage.py djtasks inspect` says of jobs that wait."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from djtasks import encoding, registry
from djtasks.exceptions import MalformedMessage
from djtasks.management.tables import time_and_age
from djtasks.masking import call_as_text, masked_call, masked_text
from djtasks.message import Delivery, Message

MOST_AT_ONCE: Final = 10_000  # jobs
FARTHEST: Final = 10**9  # jobs that may be skipped
LONGEST_ARGUMENTS: Final = 200  # characters of a line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked about the jobs of a queue."""
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument(
        "--limit", type=partial(_number, least=1, most=MOST_AT_ONCE), default=100, help="So many at most. Default: 100."
    )
    parser.add_argument(
        "--offset", type=partial(_number, least=0, most=FARTHEST), default=0, help="Leave out so many first ones."
    )
    parser.add_argument(
        "--args",
        dest="with_arguments",
        action="store_true",
        help="Arguments too; those with a sensitive name are masked.",
    )
    parser.add_argument("--json", action="store_true", help="Print a JSON list instead of a table.")


def _number(text: str, *, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no whole number.") from None
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{number} is not between {least} and {most}.")
    return number


def table(
    deliveries: Sequence[Delivery], *, first: int, scheduled: bool, with_arguments: bool
) -> tuple[list[str], list[list[object]]]:
    """Head and lines of a table; `first` is the place of the first one in its queue."""
    columns = [
        *COLUMNS,
        *([DUE] if scheduled else []),
        *([SO_FAR] if any(map(_so_far, deliveries)) else []),
        *([ARGUMENTS] if with_arguments else []),
    ]
    rows = [[position, *(read(each) for _, read in columns)] for position, each in enumerate(deliveries, first)]
    return ["#", *(name for name, _ in columns)], rows


def as_json(delivery: Delivery, *, with_arguments: bool) -> dict[str, Any]:
    message = delivery.message
    values = {
        "id": message.id,
        "task": message.task,
        "queue": message.queue,
        "priority": message.priority,
        "enqueued_at": _iso(delivery.created_at),
        "eta": _iso(message.eta),
        "expires_at": _iso(message.expires_at),
        "claims": delivery.token,
        "losses": delivery.losses,
        "revoked": delivery.revoked,
    }
    if with_arguments:
        values["args"], values["kwargs"] = _plain(_arguments(message))
    return values


def _arguments(message: Message) -> tuple[Any, Any]:
    """args and kwargs, masked; as text where they cannot be read."""
    try:
        args, kwargs = encoding.decode_arguments(message.args, message.kwargs, fetch=False)
    except MalformedMessage:
        return masked_text(message.args), masked_text(message.kwargs)
    return masked_call(registry.find(message.task), args, kwargs)


def _plain(value: Any) -> Any:
    """What JSON has no word for, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _arguments_as_text(message: Message) -> str:
    try:
        args, kwargs = encoding.decode_arguments(message.args, message.kwargs, fetch=False)
    except MalformedMessage:
        text = masked_text(f"{message.args} {message.kwargs}")
    else:
        text = call_as_text(registry.find(message.task), args, kwargs)
    return text if len(text) <= LONGEST_ARGUMENTS else f"{text[:LONGEST_ARGUMENTS]}..."


def _so_far(delivery: Delivery) -> str:
    words = (("unreadable", bool(delivery.malformed)), ("revoked", delivery.revoked))
    counts = (("claims", delivery.token), ("losses", delivery.losses))
    return ", ".join(
        [*(word for word, holds in words if holds), *(f"{word} {count}" for word, count in counts if count)]
    )


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


Column = tuple[str, Callable[[Delivery], object]]
COLUMNS: Final[Sequence[Column]] = (
    ("id", lambda delivery: delivery.id),
    ("task", lambda delivery: delivery.message.task),
    ("priority", lambda delivery: delivery.message.priority),
    ("enqueued", lambda delivery: time_and_age(delivery.created_at)),
)
DUE: Final[Column] = ("due", lambda delivery: time_and_age(delivery.message.eta))
SO_FAR: Final[Column] = ("so far", _so_far)
ARGUMENTS: Final[Column] = ("arguments", lambda delivery: _arguments_as_text(delivery.message))
