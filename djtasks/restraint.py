"""What limits the jobs of a task or a queue: how often they begin, how many run at a time, over all workers.

A job has one limit of each kind: its task's, or else its queue's.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from django.utils.translation import gettext as _

from djtasks import encoding
from djtasks.brokers import Broker
from djtasks.conf import settings
from djtasks.message import RATE, Message, moment
from djtasks.models import Limit, Queue
from djtasks.rates import NONE, checked_rate, interval_of

logger = logging.getLogger("djtasks.limits")

LONGEST_KEY: Final = 200  # characters; of what is longer the rest is a hash
MOST_PLACES: Final = 1_000_000
QUEUE: Final = "queue:"  # before the name of a queue, in the key of its limits
UNLIMITED: Final = ("", None)  # rate and places of a queue

Key = str | Callable[..., Any] | None


@dataclass(frozen=True, slots=True)
class Restraint:
    """The limits on one task. `interval`: seconds between two starts; `places`: jobs at a time; None for no limit.

    Each counts for the whole task, or apart for each value of its key: an argument's name, or a function of all; or it
    is the queue's, and counts for all in there that have none of their own.
    """

    task: Any
    interval: float | None = None
    rate_key: Key = None
    places: int | None = None
    places_key: Key = None
    is_rate_of_queue: bool = False
    are_places_of_queue: bool = False

    def key_of_rate(self, message: Message) -> str:
        """The key under which the message's job counts."""
        return QUEUE + message.queue if self.is_rate_of_queue else key_of(self.task, self.rate_key, message)

    def key_of_places(self, message: Message) -> str:
        """The key under which the message's job counts."""
        return QUEUE + message.queue if self.are_places_of_queue else key_of(self.task, self.places_key, message)


def restraint_on(task: Any, rates: Mapping[str, str], of_queue: tuple[str, int | None] = UNLIMITED) -> Restraint | None:
    """The limits on the jobs of a task in one queue, None if there are none.

    `rates`: what an operator has set, by task; `of_queue`: the queue's rate and places.
    """
    if task.batch is not None:
        return None
    rate, places = of_queue
    own_rate, own_places = rates.get(task.name) or task.rate_limit, getattr(task, "max_concurrency", None)
    is_rate_of_queue = bool(rate) and own_rate in (None, "")
    interval = interval_of(rate if is_rate_of_queue else rates.get(task.name) or rate_in_code(task))
    if interval is None and places is None and own_places is None:
        return None
    return Restraint(
        task,
        interval,
        _given(task, "rate_limit_key"),
        places if own_places is None else own_places,
        _given(task, "max_concurrency_key"),
        is_rate_of_queue=is_rate_of_queue,
        are_places_of_queue=own_places is None,
    )


def rate_in_code(task: Any) -> str:
    """The rate that the task has by itself, or by TASK_DEFAULT_RATE_LIMIT; "" for none. Raises ValueError.

    A batch has none: a rate counts jobs, and it is one call of many.
    """
    if task.batch is not None:
        return ""
    own = task.rate_limit
    return checked_rate(settings.TASK_DEFAULT_RATE_LIMIT if own is None or own == "" else own)


def declared(tasks: Iterable[Any]) -> list[tuple[str, str, int | None]]:
    """The limits of tasks, as they stand in the code: task, rate ("" for none), how many at a time."""
    return [(task.name, rate_in_code(task), task.max_concurrency) for task in tasks]


def recall(broker: Broker, tasks: Collection[str], queues: Collection[str] = ()) -> None:
    """Call back what waits for slots of these tasks, or by limits of these queues, which have changed.

    Raises BrokerUnavailable.
    """
    for standing in broker.limits() if tasks or queues else ():
        queue = queue_of(standing.key)
        is_of_task = queue is None and standing.limit.startswith(RATE) and task_of(standing.key) in tasks
        if is_of_task or queue in queues:
            broker.recall(standing.limit)


def task_of(key: str) -> str:
    """The task whose limit has this key."""
    return key.partition("[")[0] if key.endswith("]") else key


def queue_of(key: str) -> str | None:
    """The queue whose limit has this key; None if it is a task's."""
    return key.removeprefix(QUEUE) if key.startswith(QUEUE) else None


def name_of(key: str) -> str:
    """How people call what a limit with this key is on: a queue, or a task with a value in brackets."""
    queue = queue_of(key)
    return key if queue is None else _("the queue %(queue)s") % {"queue": queue}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the limits on one task or queue, or on one of a task's keys, stand. Rates are text, "" for none."""

    key: str
    declared: str = ""
    rate: str = ""  # set by an operator
    places: int | None = None  # any number
    waiting: int = 0
    running: int = 0
    last_slot: datetime | None = None

    def with_key(self, other: Standing) -> Standing:
        """Of the task as a whole: this, and the standing of one of its keys."""
        return replace(
            self,
            waiting=self.waiting + other.waiting,
            running=self.running + other.running,
            last_slot=max(filter(None, (self.last_slot, other.last_slot)), default=None),
        )

    @property
    def in_force(self) -> str:
        """The rate that counts; "" for none."""
        rate = self.rate or self.declared
        return "" if rate == NONE else rate


def standings(broker: Broker) -> list[Standing]:
    """The limits of all tasks and queues that have any, and of tasks' keys that are in use; by name.

    Raises BrokerUnavailable.
    """
    rows = {row.key: row for row in Limit.objects.filter(is_task=True)}
    found = {key: _standing_of(key, row) for key, row in rows.items() if row.is_limited}
    for name, (rate, places) in Queue.objects.limits().items():
        found[QUEUE + name] = Standing(key=QUEUE + name, rate=rate, places=places)
    for each in broker.limits():
        key = each.key
        before = found.get(key) or _standing_of(key, rows.get(task_of(key)))
        found[key] = replace(
            before,
            waiting=before.waiting + each.waiting,
            running=before.running + each.holding,
            last_slot=moment(each.last_slot) if each.last_slot else before.last_slot,
        )
    return [found[key] for key in sorted(found)]


def _standing_of(key: str, row: Limit | None) -> Standing:
    if row is None:
        return Standing(key=key)
    return Standing(key=key, declared=row.declared, rate=row.rate, places=row.max_concurrency)


def check(task: Any) -> None:
    """Raise ValueError for limits of a task that cannot be."""
    try:
        interval_of(task.rate_limit)
    except ValueError as error:
        raise ValueError(f"{task.origin}: rate_limit. {error}") from None
    places = task.max_concurrency
    if places is not None:
        try:
            check_places(places)
        except ValueError as error:
            raise ValueError(f"{task.origin}: {error}") from None
    for name in ("rate_limit_key", "max_concurrency_key"):
        check_key(task, name, _given(task, name))


def check_places(places: object) -> None:
    """Raise ValueError unless it is a number of jobs that may run at a time."""
    if not isinstance(places, int) or isinstance(places, bool) or not 0 < places <= MOST_PLACES:
        raise ValueError(
            f"max_concurrency is how many jobs may run at a time: a whole number from 1 to {MOST_PLACES}, or None, "
            f"not {places!r:.100}."
        )


def check_key(task: Any, name: str, key: object) -> None:
    """Raise ValueError unless `key` is an argument of the task, a function, or None."""
    if key is None or callable(key):
        return
    kinds = {each.kind for each in task.parameters.parameters.values()}
    if not isinstance(key, str) or (
        key not in task.parameters.parameters and inspect.Parameter.VAR_KEYWORD not in kinds
    ):
        raise ValueError(
            f"{task.origin}: {name} is the name of an argument, or a function of the arguments, not {key!r:.100}. "
            f"Its arguments: {', '.join(task.parameters.parameters) or 'none'}."
        )


def _given(task: Any, name: str) -> Key:
    """An attribute as it stands in the class: a function is no method here."""
    found = inspect.getattr_static(task, name, None)
    return found.__func__ if isinstance(found, staticmethod) else found


def key_of(task: Any, key: Key, message: Message) -> str:
    """The task's name, with the value of `key` if there is one. What cannot be asked for it counts as no value."""
    if key is None:
        return shortened(str(task.name))
    try:
        args, kwargs = encoding.decode_arguments(message.args, message.kwargs, fetch=False)
        value = value_of(task, key, args, kwargs)
    # All that the user's function may raise, and arguments that do not fit: sys.exit() would end the I/O thread.
    except BaseException as error:
        logger.warning("The key of a limit on %s[%s] cannot be told: %s", message.task, message.id, error)
        value = "?"
    return shortened(f"{task.name}[{value}]")


def value_of(task: Any, key: Key, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What `key` says of a call, as text. Raises what the user's function does, TypeError."""
    if callable(key):
        return str(key(*args, **kwargs))
    bound = task.parameters.bind_partial(*args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for name, parameter in task.parameters.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return str(arguments.get(str(key)))


def shortened(key: str) -> str:
    """The key, its end replaced by a hash if it is too long."""
    if len(key) <= LONGEST_KEY and key.isprintable():
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    head = "".join(each for each in key[: LONGEST_KEY - 34] if each.isprintable())
    return f"{head}~{digest}]"
