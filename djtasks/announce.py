"""Tells the receivers of `before_task_publish` and `after_task_publish` of messages, in Celery's words."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from djtasks import encoding, signals
from djtasks.exceptions import ImproperlyConfigured
from djtasks.message import Message


def announced(messages: Sequence[Message]) -> Sequence[Message]:
    """Tell `before_task_publish` of messages; whatever a receiver adds to the headers travels with them."""
    if not signals.before_task_publish.receivers:
        return messages
    return [_announced(message) for message in messages]


def told(messages: Iterable[Message]) -> None:
    """Tell `after_task_publish` of messages."""
    if not signals.after_task_publish.receivers:
        return
    for message in messages:
        signals.after_task_publish.notify(
            sender=message.task, body=_body(message), headers=_protocol(message), **_address(message)
        )


def _announced(message: Message) -> Message:
    """Tell `before_task_publish`; whatever a receiver adds to the headers travels with the message."""
    protocol = _protocol(message)
    ours = frozenset(protocol)
    before = copy.deepcopy(protocol)
    signals.before_task_publish.notify(
        sender=message.task,
        body=_body(message),
        headers=protocol,
        declare=[],
        properties={"correlation_id": message.id, "priority": message.priority},
        retry_policy=None,
        **_address(message),
    )
    if protocol == before:
        return message
    added = {key: value for key, value in protocol.items() if key not in ours or value != before[key]}
    kept = encoding.decode(message.headers, fetch=False)
    if not isinstance(kept, dict):
        raise ImproperlyConfigured("headers must be a dict.")
    return replace(message, headers=encoding.encode_arguments((), {**kept, **added})[1])


def _protocol(message: Message) -> dict[str, Any]:
    return {
        **encoding.decode(message.headers, fetch=False),
        "id": message.id,
        "task": message.task,
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "group": message.group_id,
        "retries": message.retries,
        "eta": message.eta.isoformat() if message.eta else None,
        "expires": message.expires_at.isoformat() if message.expires_at else None,
    }


def _body(message: Message) -> tuple[Any, Any, dict[str, Any]]:
    """Celery's body, fit for json.dumps: typed values stand as they travel."""
    return json.loads(message.args), json.loads(message.kwargs), {"callbacks": None, "errbacks": None}


def _address(message: Message) -> dict[str, Any]:
    return {"exchange": "", "routing_key": message.queue}
