"""The name of a worker."""

from __future__ import annotations

import socket


def expand_hostname(name: str) -> str:
    """`name` with %h (machine), %n (its short name), %d (its domain) filled in, as in Celery."""
    full = socket.gethostname()
    short, _, domain = full.partition(".")
    return name.replace("%h", full).replace("%n", short).replace("%d", domain)
