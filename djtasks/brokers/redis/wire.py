"""How messages go into the scripts, and deliveries come out of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from djtasks.brokers.base import Count
from djtasks.encoding import plain_text
from djtasks.exceptions import MalformedMessage
from djtasks.masking import excerpt
from djtasks.message import MAX_QUEUE_LENGTH, Delivery, Message, microseconds, moment

STATE_FIELD: Final[Mapping[Count | None, int]] = {None: 0, "losses": 4, "refusals": 5}  # of a job, in the scripts
LOST: Final = (
    '{"token":%d,"worker":"%s","start":null,"seconds":null,"ending":"LOST","error":"The worker process died."}'
)


def sent(queues: Sequence[str], messages: Sequence[Message]) -> list[Any]:
    """Messages as the script `enqueue` takes them."""
    number = {queue: at for at, queue in enumerate(queues, 1)}
    return [len(queues), *queues] + [
        value
        for m in messages
        for value in (
            m.id,
            m.to_json(),
            number[m.queue],
            100 - m.priority,
            time_of(m),
            m.task,
            m.claims,
            int(m.prioritized),
            m.unique_key or "",
            0 if m.unique_key is None else round((m.uniqueness.seconds or 0) * 1_000_000),
        )
    ]


def sent_again(queues: Sequence[str], messages: Sequence[Message]) -> list[Any]:
    """The same once more: the answer to the first try may have got lost, and a job may have ended since."""
    return sent(queues, [replace(each, check=True) for each in messages])


def rescheduled(pairs: Iterable[tuple[Delivery, Message]]) -> list[Any]:
    """Deliveries, each with the message to come, as the script `reschedule` takes them."""
    return [
        value
        for d, m in pairs
        for value in (
            d.id,
            d.token,
            m.to_json(),
            100 - m.priority,
            time_of(m),
            m.task,
            d.attempts,
            int(m.prioritized),
        )
    ]


def as_field(queue: str) -> str:
    """How a queue's name stands in the text of a message."""
    return f'"queue":{json.dumps(queue)}'


def tokens(deliveries: Iterable[Delivery]) -> list[Any]:
    """Deliveries as the scripts take them that ask whether they are still held."""
    return [value for each in deliveries for value in (each.id, each.token)]


def time_of(message: Message) -> str:
    """When a message is due, as the scripts take it."""
    if message.countdown is not None:
        return f"+{round(message.countdown * 1_000_000)}"
    return f"@{microseconds(message.eta)}" if message.eta is not None else ""


def delivery_of(job: Sequence[Any], worker: str, queue: str) -> Delivery:
    job_id, text, token, losses, refusals, revoked, created, put, attempts = job
    malformed = ""
    try:
        if text is None:
            raise MalformedMessage("The message is missing: somebody has deleted it from Redis.")
        message = _resolved(Message.from_json(text), put)
        if message.id.encode("utf-8", "replace") != job_id:
            raise MalformedMessage(f"The message says that its id is {excerpt(message.id)}.")
    except MalformedMessage as error:
        malformed = str(error)
        message = Message(id=job_id.decode("ascii", "replace"), task="", queue=queue[:MAX_QUEUE_LENGTH])
    return Delivery(
        message,
        worker,
        token,
        losses,
        refusals,
        bool(revoked),
        plain_text(attempts.decode("utf-8", "replace")) if attempts else "[]",
        moment(created) if created else None,
        malformed,
    )


def _resolved(message: Message, put: int) -> Message:
    """The message with the durations that it came with as times; `put` is when it came (µs)."""
    if message.countdown is not None:
        message = replace(message, countdown=None, eta=moment(put) + timedelta(seconds=message.countdown))
    if message.expires_in is not None:
        message = replace(message, expires_in=None, expires_at=moment(put) + timedelta(seconds=message.expires_in))
    return message


def doubted(delivery: Delivery) -> Delivery:
    return replace(delivery, message=replace(delivery.message, check=True))
