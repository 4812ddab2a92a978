"""Signing up: a customer's row, and a welcome mail that is sent in the background."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.core.mail import send_mail
from django.db import transaction

from demo_project.shop.models import Customer
from djtasks import AsyncResult
from djtasks.signals import after_task_publish

WELCOME = """Hello {name},

thank you for signing up with the demo shop. This mail was written while the page
was made, and sent by a worker after it.
"""

sent: ContextVar[list[str] | None] = ContextVar("sent", default=None)


def sign_up(name: str, email: str) -> AsyncResult[int] | None:
    """Save the customer and queue the welcome mail: both, or neither if the transaction fails.

    Returns the mail's job; None where jobs run at once and so leave none.
    """
    with transaction.atomic(), jobs_sent() as ids:
        customer = Customer.objects.create(name=name, email=email)
        send_mail("Welcome to the demo shop", WELCOME.format(name=name), None, [customer.email])
    return AsyncResult(ids[0]) if ids else None


@contextmanager
def jobs_sent() -> Iterator[list[str]]:
    """Collect the ids of the jobs that are queued inside the block, by this thread."""
    ids: list[str] = []
    before = sent.set(ids)
    try:
        yield ids
    finally:
        sent.reset(before)


@after_task_publish.connect
def remember(headers: dict[str, Any], **kwargs: Any) -> None:
    """Add the id of each queued job to the list that `jobs_sent` gave out, if it did."""
    ids = sent.get()
    if ids is not None:
        ids.append(headers["id"])
