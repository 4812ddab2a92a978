"""The one door in: all that enqueues becomes a `Message` here and is handed to the broker."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, TypedDict

from django.db import connections, transaction

from djtasks import encoding, outbox, routing
from djtasks.announce import announced, told
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.failure import sent_from
from djtasks.limits import limits_of
from djtasks.message import (
    LONGEST_DELAY,
    MAX_NAME_LENGTH,
    MOST_RETRIES,
    Message,
    NewGroup,
    Uniqueness,
    checked_id,
    checked_priority,
    checked_queue,
    checked_text,
    new_id,
)
from djtasks.models import Job, Worker, statements
from djtasks.models.fields import aware
from djtasks.models.job import message_of
from djtasks.packing import packed_links
from djtasks.request import current_job
from djtasks.steps import LaterSteps
from djtasks.unique import Unique, key_of, unique_of

_LIMITS: Final = ("time_limit", "soft_time_limit")
_STORED: Final = (*_LIMITS, "ignore_result", "acks_late", "shadow", "max_retries")


class TaskOptions(TypedDict, total=False):
    """What `apply_async` takes beside args and kwargs. Durations in seconds."""

    countdown: float
    eta: datetime
    expires: float | timedelta | datetime
    queue: str
    priority: int
    task_id: str
    headers: Mapping[str, Any]
    time_limit: float
    soft_time_limit: float
    ignore_result: bool
    acks_late: bool
    max_retries: int
    shadow: str
    retries: int
    parent_id: str
    root_id: str
    throw: bool
    link: Any
    link_error: Any
    # Celery's, taken and of no effect here
    add_to_parent: bool
    chain: Any
    chord: Any
    compression: str
    connection: Any
    exchange: Any
    group_id: str
    group_index: int
    producer: Any
    retry: bool
    retry_policy: Mapping[str, Any]
    routing_key: str
    serializer: str
    reply_to: str
    using: str


_OPTIONS: Final = frozenset(TaskOptions.__annotations__)
_KEPT: Final = ("awaited", "failed", "stands_for")  # what follow-ups add to the options of a signature
OURS: Final = frozenset({"own_id", *_KEPT})
watchers: list[Callable[[Sequence[Message]], None]] = []  # told of all that is sent from here, for tests


_NO_STEPS: Final = LaterSteps()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job stands in a workflow.

    `chain`: what follows it. Of a group: its id and its member's `index`; `keeps` if a body needs the result.
    `header`: the group whose results it is to have, `bare` if it only waits for them.
    """

    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    index: int = 0
    keeps: bool = False
    chain: LaterSteps = _NO_STEPS
    header: str | None = None
    bare: bool = False
    nesting: int = 0

    def as_options(self) -> dict[str, Any]:
        """What of it travels in the message's options."""
        options = self.chain.as_options()
        if self.group_id is not None:
            options["index"] = self.index
        if self.keeps:
            options["keeps"] = True
        if self.header is not None:
            options["header"] = [self.header, self.bare]
        if self.nesting:
            options["nesting"] = self.nesting
        return options


_NOWHERE: Final = Place()


def build(
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    task: Any = None,
    place: Place = _NOWHERE,
) -> Message:
    """The message for one call. `options` are the call's own; those of `task` (if known here) come after.

    Raises TypeError for an argument that JSON cannot carry and for an unknown option, ValueError for an
    option that makes no sense (both eta and countdown, a naive eta under USE_TZ, a priority outside −100…100, …).
    """
    if options:
        check_names(options if place is _NOWHERE else options.keys() - OURS)
        options = {key: value for key, value in options.items() if value is not None}
    options = {**_task_options(task), **options}
    if route := _routed(name, args, kwargs, options, task):
        options = {**route, **options}
    if "time_limit" in options or "soft_time_limit" in options or _has_limits(task):
        limits_of(options, task)  # raises what is wrong with them here, not in a worker
    encoded = encoding.encode_arguments(tuple(args or ()), kwargs or {})
    own_id = options.get("task_id")
    unique = unique_of(task) if place is _NOWHERE and task is not None and task.unique else None
    parent_id, root_id = _relatives(options, place)
    return Message(
        id=new_id() if own_id is None else checked_id(own_id),
        check=own_id is not None and options.get("own_id", place is _NOWHERE),
        task=checked_text(name, "The task name", MAX_NAME_LENGTH),
        args=encoded[0],
        kwargs=encoded[1],
        queue=checked_queue(options.get("queue") or settings.TASK_DEFAULT_QUEUE),
        priority=checked_priority(options.get("priority", settings.TASK_DEFAULT_PRIORITY)),
        prioritized="priority" in options,
        retries=_retries(options["retries"]) if "retries" in options else 0,
        parent_id=parent_id,
        root_id=root_id,
        group_id=place.group_id,
        unique_key=None if unique is None else key_of(task, unique, args or (), kwargs or {}),
        headers=_headers(options["headers"]) if "headers" in options else "{}",
        options=_stored(options, place, unique),
        **(schedule(options) if options else {}),
    )


def changed(message: Message, options: Mapping[str, Any], task: Any) -> Message:
    """`message` for another run under its id; `options` take the place of those that it came with.

    Raises as `build` does.
    """
    check_names(options)
    options = {key: value for key, value in options.items() if value is not None}
    stored = {**encoding.decode(message.options, fetch=False), **_storable(options)}
    limits_of(stored, task)
    fields: dict[str, Any] = {"eta": None, "countdown": None, **schedule(options)}
    if "queue" in options:
        fields["queue"] = checked_queue(options["queue"])
    if "priority" in options:
        fields.update(priority=checked_priority(options["priority"]), prioritized=True)
    if "headers" in options:
        fields["headers"] = _headers(options["headers"])
    return replace(message, options=_as_text(stored), **fields)


def check_names(options: Iterable[str]) -> None:
    """Raise TypeError for an option that there is not."""
    for name in set(options) - _OPTIONS:
        close = get_close_matches(name, _OPTIONS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"There is no option {name!r} of a job.{hint}")


def publish(
    messages: Sequence[Message],
    groups: Sequence[NewGroup] = (),
    *,
    using: str | None = None,
    on_commit: str | bool | None = None,
    holders: dict[str, str] | None = None,
) -> Callable[[], bool] | None:
    """Send messages, with the signals around it; an id that was taken before is left alone.

    `holders` gets the ids of those that were not sent, as another job has their unique key, each with that job's.

    They go with the transaction that is open; `groups`, `using`, `on_commit` and what is returned: see `outbox.send`.
    Raises MessageTooLarge, BrokerUnavailable, ValueError.
    """
    messages, groups = announced(messages), [replace(each, body=tuple(announced(each.body))) for each in groups]
    dropped: dict[str, str] = {} if holders is None else holders
    committed = outbox.send(messages, groups, using=using, on_commit=on_commit, holders=dropped)
    if dropped:
        messages = [each for each in messages if each.id not in dropped]
    told(messages)
    for watcher in watchers:
        watcher(messages)
    if job := current_job():
        job.sent += [(each.id, each.group_id) for each in messages if each.parent_id == job.id]
    return committed


def again(ids: Sequence[str]) -> int:
    """Send finished jobs once more, each under its id with its counters at 0. Returns how many were finished."""
    with transaction.atomic(using=settings.DATABASE):
        known = Job.objects.finished().filter(pk__in=ids).exclude(task="")
        jobs = list(known.order_by("id").select_for_update())
        now = statements.now(connections[settings.DATABASE])
        for job in jobs:
            job.begin_again(now)
        messages = [replace(message_of(job), check=True, claims=job.token) for job in jobs]
        get_broker().pardon([job.pk for job in jobs])
        outbox.send(messages, using=settings.DATABASE, on_commit="outbox", checked=True)
    return len(jobs)


def revoke(ids: Sequence[str], terminate: str | int | None = None) -> int:
    """Cancel jobs; with `terminate`, a signal, what runs is ended by it. Returns how many had not ended.

    Raises BrokerUnavailable, ValueError for a signal that there is not.
    """
    signal_name = None if terminate is None else _signal_name(terminate)
    broker = get_broker()
    ids = [*ids, *Job.objects.all().standing_for(ids)]
    count = broker.cancel(ids)
    if signal_name is not None:
        # After the commit: whoever claims such a job from now on sees that it was revoked.
        transaction.on_commit(partial(_terminate, ids, signal_name), using=settings.DATABASE)
    if broker.transactional:
        return count
    # What waits by its row stays revoked, should the broker have lost its memory or lose it before the job has ended.
    waiting = Job.objects.waiting().filter(pk__in=ids)
    count += waiting.exclude(pk__in=broker.known(ids)).count()
    waiting.update(revoked=True)
    return count


def _terminate(ids: Sequence[str], signal_name: str) -> None:
    """Ask the workers that hold these jobs to end them."""
    broker = get_broker()
    leases = broker.leases(ids)
    if not broker.transactional:  # of what was never in a queue its row may know alone
        rows = Job.objects.running().filter(pk__in=ids).values_list("pk", "worker", "token")
        leases = {**{pk: (worker, token) for pk, worker, token in rows}, **leases}
    by_worker: dict[str, list[tuple[str, int]]] = {}
    for job_id, (owner, token) in leases.items():
        by_worker.setdefault(owner.partition(".")[0], []).append((job_id, token))
    for worker, runs in sorted(by_worker.items()):
        Worker.objects.all().tell(worker, {"terminate": runs, "signal": signal_name})


def _signal_name(wanted: str | int) -> str:
    """'SIGTERM' for 'SIGTERM', 'term' and 15. Raises ValueError."""
    try:
        if isinstance(wanted, str):
            return signal.Signals[f"SIG{wanted.upper().removeprefix('SIG')}"].name
        return signal.Signals(wanted).name
    except (ValueError, KeyError):
        raise ValueError(f"There is no signal {wanted!r}.") from None


def schedule(options: Mapping[str, Any]) -> dict[str, Any]:
    """`eta`, `countdown` and `expires` of a call as the fields of a message."""
    eta, countdown, expires = options.get("eta"), options.get("countdown"), options.get("expires")
    if eta is not None and countdown is not None:
        raise ValueError("Give either eta or countdown, not both.")
    if eta is not None and not isinstance(eta, datetime):
        raise ValueError(f"eta must be a datetime, not {eta!r}; for a number of seconds there is countdown.")
    fields: dict[str, Any] = {"eta": aware(eta)} if eta is not None else {}
    if countdown is not None:
        fields["countdown"] = _duration(countdown, "countdown")
    if isinstance(expires, datetime):
        fields["expires_at"] = aware(expires)
    elif expires is not None:
        fields["expires_in"] = _duration(expires, "expires")
    return fields


def _task_options(task: Any) -> dict[str, Any]:
    if task is None:
        return {}
    return {
        name: value for name in ("queue", "priority", "expires") if (value := getattr(task, name, None)) is not None
    }


def _has_limits(task: Any) -> bool:
    return task is not None and bool(task.time_limit or task.soft_time_limit)


def _routed(
    name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any], task: Any
) -> dict[str, Any]:
    """What the routes set of what neither the call nor the task does."""
    if not (route := routing.route(name, args, kwargs, options, task)):
        return {}
    return {
        option: value
        for option in routing.OPTIONS
        if (value := route.get(option)) is not None and getattr(task, option, None) is None
    }


def _duration(value: Any, name: str) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number of seconds or a timedelta, not {value!r}.")
    if not math.isfinite(value) or value > LONGEST_DELAY:
        raise ValueError(f"{name} must be at most 100 years of seconds, not {value!r}.")
    return max(0.0, float(value))


def _retries(retries: Any) -> int:
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= MOST_RETRIES:
        raise ValueError(f"retries must be a whole number from 0 to {MOST_RETRIES}, not {retries!r:.200}.")
    return retries


def _relatives(options: Mapping[str, Any], place: Place) -> tuple[str | None, str | None]:
    """Of which job it is a child, and of which workflow a part: as its options say, or as the job that sends it is."""
    parent_id, root_id = place.parent_id, place.root_id
    if place is _NOWHERE and (job := current_job()):
        parent_id, root_id = job.id, job.root_id
    if options.get("parent_id"):
        parent_id = checked_id(options["parent_id"])
    if options.get("root_id"):
        root_id = checked_id(options["root_id"])
    return parent_id, root_id


def _headers(headers: Mapping[str, Any] | None) -> str:
    return encoding.encode_arguments((), headers)[1] if headers else "{}"


def _stored(options: Mapping[str, Any], place: Place, unique: Unique | None) -> str:
    stored = _storable(options) if options else {}
    if unique is not None and unique.uniqueness != Uniqueness():
        stored["unique"] = list(unique.uniqueness)
    if options.get("task_id") is not None and options.get("own_id", place is _NOWHERE):
        stored["own_id"] = True
    if settings.TRACE_ENQUEUE and (origin := sent_from()):
        stored["sent_from"] = origin
    if place is not _NOWHERE:
        stored.update(place.as_options())
        stored.update({name: options[name] for name in _KEPT if name in options})
    return _as_text(stored)


def _storable(options: Mapping[str, Any]) -> dict[str, Any]:
    stored = {name: options[name] for name in _STORED if options.get(name) is not None}
    for name in ("link", "link_error"):
        if options.get(name):
            stored[name] = packed_links(name, options[name])
    return stored


def _as_text(stored: Mapping[str, Any]) -> str:
    return encoding.encode(stored, tuples=True, name="options") if stored else "{}"
