"""Unique jobs where the queue is the job table: the row has the key, under a unique index, until its job has ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import connections, transaction

from djtasks import states
from djtasks.conf import settings
from djtasks.message import Message
from djtasks.models import Job, statements
from djtasks.models.job import row_of

TRIES: Final = 10  # while others come and go under the same key


def enqueue(messages: Sequence[Message]) -> dict[str, str]:
    """Insert messages that have unique keys, in the order of the keys, so that two who do so wait for each other.

    Returns the ids of those that were not taken, each with the id of the job that has its key.
    """
    found: dict[str, str] = {}
    for message in sorted(messages, key=lambda each: (each.unique_key or "", each.id)):
        holder = _enqueue(message)
        if holder is not None:
            found[message.id] = holder
    return found


def _enqueue(message: Message) -> str | None:
    connection = connections[settings.DATABASE]
    for _ in range(TRIES):
        holding = Job.objects.filter(unique_key=message.unique_key)
        statements.enqueue(connection, [message])
        with transaction.atomic(using=settings.DATABASE):
            row = holding.select_for_update().first()
            if row is None:
                if Job.objects.filter(pk=message.id).exists():
                    return None  # an id that was taken before
                continue  # who held the key has just ended
            if row.pk == message.id:
                return None
            if row.state in states.FINISHED and not _lasts(row, statements.now(connection)):
                holding.update(unique_key=None)
                continue
            if message.uniqueness.replaces and row.state in states.WAITING and not row.revoked:
                holding.update(**row_of(message, statements.now(connection)))
            return str(row.pk)
    return None


def _lasts(row: Job, now: datetime) -> bool:
    """Whether a job that has ended still keeps others from being sent."""
    seconds = Message(id=row.pk, task=row.task, options=row.options).uniqueness.seconds
    return seconds is not None and row.created_at + timedelta(seconds=seconds) > now


def unlock(messages: Sequence[Message]) -> None:
    """Let go of the keys of these jobs."""
    Job.objects.filter(pk__in=[each.id for each in messages]).update(unique_key=None)
