"""How messages go into the scripts, and deliveries come out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from djtasks.exceptions import MalformedMessage
from djtasks.message import Delivery, Message, microseconds, moment


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
    except MalformedMessage as error:
        malformed = str(error)
        message = Message(id=job_id.decode("ascii", "replace"), task="", queue=queue)
    return Delivery(
        message,
        worker,
        token,
        losses,
        refusals,
        bool(revoked),
        attempts.decode() if attempts else "[]",
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
