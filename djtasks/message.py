"""What travels: a `Message` to the worker, a `Delivery` inside it, an `Outcome` back.

All are frozen; to change one is to make another (`dataclasses.replace`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, TypeVar
from uuid import UUID

import uuid_utils

from djtasks import compact
from djtasks.exceptions import MalformedMessage
from djtasks.masking import excerpt

VERSION: Final = 1  # of the format; a worker refuses what is newer than itself
MAX_ID_LENGTH: Final = 64  # characters
MAX_QUEUE_LENGTH: Final = 128  # characters
MAX_NAME_LENGTH: Final = 255  # characters
MOST_RETRIES: Final = 2**31 - 2  # the column takes one more, for the next try
LONGEST_DELAY: Final = 100 * 365.25 * 86400  # seconds; what databases can add to a time without overflow
PRIORITIES: Final = range(-100, 101)


class Uniqueness(NamedTuple):
    """How a job with a unique key is the only one: until it begins, for so many seconds at least, as a replacement."""

    until_start: bool = False
    seconds: float | None = None
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One job on its way from its caller to the worker that runs it.

    `args`, `kwargs`, `headers` and `options` are JSON text. `countdown` and `expires_in` (seconds)
    are resolved by the broker's clock when it takes the message; `eta` and `expires_at` are aware.
    `check` marks a message that may have been sent before: its job's row is looked at before it runs.
    """

    id: str
    task: str
    args: str = "[]"
    kwargs: str = "{}"
    queue: str = "default"
    priority: int = 0  # -100 (last) to 100 (first)
    prioritized: bool = field(default=False, compare=False)  # somebody chose it; else the queue's default goes before
    eta: datetime | None = None
    countdown: float | None = None
    expires_at: datetime | None = None
    expires_in: float | None = None
    retries: int = 0
    parent_id: str | None = None
    root_id: str | None = None
    group_id: str | None = None
    unique_key: str | None = None
    schedule: str | None = None  # name of the periodic task that sent it
    sender: str = ""  # user and URL, for people
    headers: str = "{}"
    options: str = "{}"
    check: bool = False
    claims: int = 0  # made of this id before: its tokens go on from there
    version: int = VERSION

    @property
    def size(self) -> int:
        """Bytes of what the caller may make arbitrarily large; all of it is ASCII."""
        return len(self.args) + len(self.kwargs) + len(self.headers) + len(self.options)

    @property
    def uniqueness(self) -> Uniqueness:
        """What its options say of its unique key; nothing special if nobody can read them."""
        if '"unique"' not in self.options:
            return Uniqueness()
        try:
            until_start, seconds, replaces = json.loads(self.options)["unique"]
            return Uniqueness(bool(until_start), None if seconds is None else float(seconds), bool(replaces))
        except (ValueError, TypeError, KeyError, RecursionError):
            return Uniqueness()

    def to_json(self) -> str:
        """The whole message as one JSON object; times in ISO 8601."""
        values = {
            name: value for (name, default), value in zip(_DEFAULTS, _VALUES(self), strict=True) if value != default
        }
        return _TEXT_OF(values)

    @classmethod
    def from_json(cls, text: str | bytes) -> Message:
        """Read what `to_json` wrote, here or in a newer release: what that has added is left out.

        Raises MalformedMessage for anything else.
        """
        try:
            values = compact.read(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedMessage(f"This is not a message of ours ({error}): {excerpt(text)}") from error
        return cls.from_values(values)

    @classmethod
    def several_from_json(cls, text: str) -> list[Message]:
        """Read one message, or a JSON list of them. Raises MalformedMessage."""
        if not text.startswith("["):
            return [cls.from_json(text)]
        try:
            return [cls.from_values(values) for values in compact.read(text)]
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedMessage(f"These are not messages of ours ({error}): {excerpt(text)}") from error

    @classmethod
    def from_values(cls, values: Any) -> Message:
        """The message that these decoded values stand for. Raises MalformedMessage."""
        try:
            for name in ("eta", "expires_at"):
                if values.get(name):
                    values[name] = datetime.fromisoformat(values[name])
            if values.get("version", VERSION) > VERSION:
                values = {name: values[name] for name, _default in _DEFAULTS if name in values}
            for name, value in values.items():
                if (
                    type(value) is str
                    and value.isascii()
                    and len(value) <= _LONGEST.get(name, -1)
                    and "\0" not in value
                ):
                    continue  # as it is nearly always
                if name in _FITS and value != _DEFAULT_OF[name] and not _FITS[name](value):
                    raise TypeError(f"no {name} is {value!r:.100}")
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise MalformedMessage(f"This is not a message of ours ({error}): {excerpt(values)}") from error


_DEFAULTS: Final = (
    *((each.name, each.default) for each in fields(Message) if each.name != "version"),
    ("version", None),  # always there
)
_DEFAULT_OF: Final = {each.name: each.default for each in fields(Message)}
_VALUES: Final = attrgetter(*(name for name, _default in _DEFAULTS))


def _text(longest: float) -> Callable[[Any], bool]:
    """What every database takes as text of so many characters."""

    def fits(value: Any) -> bool:
        if not isinstance(value, str) or "\x00" in value or len(value) > longest:
            return False
        return value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)

    return fits


def _whole(numbers: range) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value in numbers


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LONGEST_DELAY


def _is_aware(value: Any) -> bool:
    """Whether it is a time of which all clocks know, in UTC, too."""
    try:
        return isinstance(value, datetime) and value.tzinfo is not None and bool(value.astimezone(UTC))
    except OverflowError:
        return False


_LONGEST: Final[Mapping[str, float]] = {  # what is stored must fit its column, whoever has sent it
    **dict.fromkeys(("args", "kwargs", "headers", "options"), math.inf),
    **dict.fromkeys(("id", "parent_id", "root_id", "group_id"), MAX_ID_LENGTH),
    "task": MAX_NAME_LENGTH,
    "queue": MAX_QUEUE_LENGTH,
    "sender": 255,
    "unique_key": 128,
    "schedule": 200,
}
_FITS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **{name: _text(longest) for name, longest in _LONGEST.items()},
    **dict.fromkeys(("eta", "expires_at"), _is_aware),
    **dict.fromkeys(("countdown", "expires_in"), _is_duration),
    **dict.fromkeys(("retries", "claims"), _whole(range(MOST_RETRIES + 1))),
    "priority": _whole(PRIORITIES),
    "version": _whole(range(2**15)),
}
_TEXT_OF: Final = compact.writer(datetime.isoformat)


RATE: Final = "rate:"  # before the key in the name of a limit
CONCURRENCY: Final = "concurrency:"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a delivery has got of a limit: a place, or a slot of a rate.

    `slot` and `interval` are µs by the broker's clock; it begins at `start` by this machine's monotonic clock, or up to
    `spread` seconds before.
    """

    limit: str
    slot: int = 0
    interval: int = 0
    start: float = 0.0
    spread: float = 0.0

    @property
    def key(self) -> str:
        return self.limit.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Wait:
    """For which limit a job waits: until its slot of a rate; `until` is None for a place under `max_concurrency`."""

    limit: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on which `worker` (a boot id) holds the lease.

    `token` is 1 at the first claim of an id and one more at each later one: the fence. `losses`
    counts runs whose process died, `refusals` workers that did not know the task. `attempts` is
    the JSON list of earlier attempts. `grants`: what it has got of the limits on its task.
    """

    message: Message
    worker: str
    token: int
    losses: int = 0
    refusals: int = 0
    revoked: bool = False
    attempts: str = "[]"
    created_at: datetime | None = None
    malformed: str = ""  # why the message cannot be read; then `message` has its id alone
    grants: tuple[Grant, ...] = ()

    @property
    def id(self) -> str:
        return self.message.id


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is stored: `arguments` is what `encoding` wrote of the exception's args, if it could."""

    kind: str  # module.Class
    message: str
    arguments: str | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A group whose members are sent. `body`: what is sent once all of them have ended.

    `is_open`: its sender is not done yet, and counts as one more member meanwhile.
    """

    id: str
    size: int
    body: tuple[Message, ...] = ()
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one delivery ended. `result` (JSON) and `failure` exclude each other, but for a retry.

    `state` is SUCCESS, FAILURE, REVOKED or IGNORED; REPLACED, if other jobs are to give its result; RETRY, with the
    message to come as `next`; REJECTED or PENDING: given back after `delay` seconds, and `count` ("losses",
    "refusals") raised.

    What follows from it is ready-made: `follow_ups` and `groups` are sent, `also` are jobs that end with it without a
    run, `counts` is the group in which it counts as ended, `grows` a group that has got so many more members,
    `stands_for` the replaced jobs that end as it does. `sent`: what its run has sent itself, ids with their groups.
    """

    delivery: Delivery
    state: str
    result: str | None = None
    failure: Failure | None = None
    seconds: float | None = None  # run time; None if it never ran
    ended: float = field(default_factory=time.monotonic)  # when, by this machine's monotonic clock
    next: Message | None = None
    delay: float = 0.0
    count: Literal["losses", "refusals"] | None = None
    forget: bool = False  # a plain job whose result nobody wants: its row goes
    follow_ups: tuple[Message, ...] = ()
    groups: tuple[NewGroup, ...] = ()
    also: tuple[Outcome, ...] = ()
    counts: str | None = None
    grows: tuple[str, int] | None = None
    stands_for: tuple[str, ...] = ()
    sent: tuple[tuple[str, str | None], ...] = ()

    @property
    def size(self) -> int:
        """Bytes, about, of what a task may make arbitrarily large."""
        bodies = (message for group in self.groups for message in group.body)
        following = (*self.follow_ups, *bodies, *([self.next] if self.next else []))
        return len(self.result or "") + sum(message.size for message in following)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """µs since 1970 of an aware time."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(microseconds: int) -> datetime:
    """The aware time that is so many µs after 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


Item = TypeVar("Item")


def portions(items: Sequence[Item], size: Callable[[Item], int], most: int, most_bytes: int) -> Iterator[list[Item]]:
    """`items` in lists of up to `most` and, but for single ones that are larger, `most_bytes` by their `size`."""
    if len(items) == 1:
        yield [*items]
        return
    portion: list[Item] = []
    total = 0
    for item in items:
        if portion and (len(portion) == most or total + size(item) > most_bytes):
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += size(item)
    if portion:
        yield portion


def new_id() -> str:
    """A new job id: a UUIDv7 (RFC 9562), so that rows are inserted at the index's right edge."""
    return str(uuid_utils.uuid7())


def first_id(moment: datetime) -> str:
    """What stands before all ids that are made from `moment` on, and after those that were made before."""
    digits = f"{int(moment.timestamp() * 1000):012x}"  # RFC 9562, 5.7: milliseconds, 48 bits
    return f"{digits[:8]}-{digits[8:]}"


def sent_at(job_id: str) -> datetime | None:
    """When an id was made, to the millisecond; None of one that is a caller's own."""
    try:
        found = UUID(job_id)
    except ValueError:
        return None
    return datetime.fromtimestamp((found.int >> 80) / 1000, UTC) if found.version == 7 else None


def is_id(value: object) -> bool:
    """Whether this is the id of a job or a group, as it travels."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and value.isascii() and value.isprintable()


def checked_id(task_id: object) -> str:
    """A caller's own id, as it is. Raises ValueError unless it is 1 to 64 printable ASCII characters."""
    text = str.__str__(task_id) if isinstance(task_id, str) else str(task_id)
    if not 0 < len(text) <= MAX_ID_LENGTH or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError(f"task_id must be 1 to {MAX_ID_LENGTH} printable ASCII characters, not {text[:100]!r}.")
    return text


def checked_text(value: object, name: str, longest: int) -> str:
    """A text as it is. Raises ValueError, which calls it `name`, unless it is 1 to `longest` printable characters."""
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise ValueError(f"{name} must be 1 to {longest} printable characters, not {value!r:.200}.")
    return str.__str__(value)  # of an enum's member the value, whatever its own __str__ says


def checked_queue(name: object) -> str:
    """A queue's name, as it is. Raises ValueError unless it is 1 to 128 printable characters."""
    return checked_text(name, "queue", MAX_QUEUE_LENGTH)


def checked_priority(priority: object) -> int:
    """A priority, as it is. Raises ValueError unless it is a whole number from -100 to 100."""
    if not isinstance(priority, int) or isinstance(priority, bool) or priority not in PRIORITIES:
        raise ValueError(f"priority must be a whole number from -100 to 100 (higher runs first), not {priority!r}.")
    return int(priority)
