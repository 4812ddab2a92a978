"""The port of `runworker --metrics-port`, taken before anything is forked: one that is not free is known at once."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from typing import Final

from djtasks.exceptions import ImproperlyConfigured
from djtasks.worker import counters

DEFAULT_HOST: Final = "127.0.0.1"  # names of tasks and queues are for nobody else, unless somebody says so
BACKLOG: Final = 16


def scrape_at(where: str) -> tuple[int, int, int]:
    """What stands in `WorkerOptions.scrape`, of "9100" or "0.0.0.0:9100". Raises ImproperlyConfigured."""
    if find_spec("prometheus_client") is None:
        raise ImproperlyConfigured("--metrics-port needs prometheus_client: pip install 'djtasks[prometheus]'.")
    host, _, port = where.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ImproperlyConfigured(f"--metrics-port takes a port, as 9100, or 0.0.0.0:9100, not {where!r:.100}.")
    return _listening(host.strip("[]") or DEFAULT_HOST, int(port)), *counters.pair()


def address_of(descriptor: int) -> str:
    """Where the socket of that descriptor listens, as a URL."""
    with socket.socket(fileno=os.dup(descriptor)) as listens:
        host, port = listens.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listening(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listens = socket.socket(family, socket.SOCK_STREAM)
    listens.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listens.bind((host, port))
    except OSError as error:
        listens.close()
        raise ImproperlyConfigured(f"--metrics-port: {host}:{port} cannot be had: {error.strerror}.") from error
    listens.listen(BACKLOG)
    return listens.detach()
