"""The shop's slow work. Each function is a task: `function.delay(…)` queues it, a worker runs it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from decimal import Decimal
from itertools import compress
from math import isqrt
from typing import Any

from demo_project.shop import orders, pictures, storage
from djtasks import group, shared_task

CHUNK = 500  # orders written between two reports
PAUSE = 0.06  # seconds a chunk: about what a database would take for these orders
SEGMENT = 500_000  # numbers sieved between two reports


class GatewayTimeout(Exception):
    """The payment provider did not answer; the next try may succeed."""


class OutOfStock(Exception):
    """Nothing is left to send; no further try would help."""


@shared_task(bind=True)
def export_orders(self: Any, count: int = 20_000) -> dict[str, Any]:
    """Write `count` orders into a CSV file. Returns its name below MEDIA_ROOT and its number of rows."""
    name = f"exports/orders-{self.request.id}.csv"
    with storage.writing(name) as file:
        for done in orders.write_csv(file, count, CHUNK):
            time.sleep(PAUSE)
            report(self, done, count)
    return {"file": name, "rows": count}


@shared_task(bind=True)
def export_in_parts(self: Any, parts: int = 8, size: int = 2_500) -> None:
    """Let as many jobs write a part each, and one more join them: it gives the result of this one."""
    firsts = range(1, parts * size, size)
    raise self.replace(group(export_part.s(first, size) for first in firsts) | join_parts.s())


@shared_task(bind=True)
def export_part(self: Any, first: int, count: int) -> str:
    """Write `count` orders from number `first` on. Returns the file's name below MEDIA_ROOT."""
    name = f"exports/parts/{self.request.id}.csv"
    time.sleep(PAUSE * count / CHUNK)
    with storage.writing(name) as file:
        orders.write_part(file, first, count)
    return name


@shared_task(bind=True)
def join_parts(self: Any, names: list[str]) -> dict[str, Any]:
    """Make one file of several. Returns its name below MEDIA_ROOT and its number of rows."""
    name = f"exports/orders-{self.request.id}.csv"
    with ExitStack() as files, storage.writing(name) as file:
        rows = orders.join(file, [files.enter_context(storage.reading(part)) for part in names])
    return {"file": name, "rows": rows}


@shared_task(bind=True)
def make_thumbnails(self: Any, count: int = 6) -> dict[str, Any]:
    """Draw `count` pictures and shrink each. Returns the names of the thumbnails below MEDIA_ROOT."""
    names = []
    for number in range(1, count + 1):
        name = f"thumbnails/{self.request.id}-{number}.png"
        with storage.writing(name, binary=True) as file:
            pictures.thumbnail(pictures.draw(seed=number)).save(file, "PNG")
        names.append(name)
        report(self, number, count)
    return {"files": names}


@shared_task(bind=True, autoretry_for=(GatewayTimeout,), retry_backoff=True, retry_backoff_max=2, max_retries=5)
def charge_card(self: Any, amount: Decimal) -> dict[str, Any]:
    """Charge `amount` with a provider that answers the third try only. Returns the amount and the number of tries."""
    tries = self.request.retries + 1
    if tries < 3:
        raise GatewayTimeout(f"no answer from the payment provider (try {tries})")
    return {"amount": amount, "tries": tries}


@shared_task
def reserve_item(item: str) -> None:
    """Reserve an item that is not there, and so fail."""
    raise OutOfStock(f"{item} is sold out")


@shared_task(bind=True)
def sum_primes(self: Any, below: int) -> int:
    """Return the sum of all primes below `below`."""
    small = primes(isqrt(max(below, 4) - 1) + 1)
    total = 0
    for start in range(0, below, SEGMENT):
        end = min(start + SEGMENT, below)
        total += sum_between(start, end, small)
        report(self, end, below)
    return total


def primes(below: int) -> list[int]:
    """Return all primes below `below` (≥ 2)."""
    found: list[int] = []
    for number in range(2, below):
        root = isqrt(number)
        if all(number % prime for prime in found if prime <= root):
            found.append(number)
    return found


def sum_between(start: int, end: int, small: list[int]) -> int:
    """Return the sum of the primes in [start, end). `small` holds all primes up to the root of `end` - 1."""
    sieve = bytearray([1]) * (end - start)
    for prime in small:
        first = max(prime * prime, -(-start // prime) * prime)
        for multiple in range(first, end, prime):
            sieve[multiple - start] = 0
    return sum(number for number in compress(range(start, end), sieve) if number > 1)


def report(task: Any, done: int, total: int) -> None:
    task.update_state(state="PROGRESS", meta={"done": done, "total": total})
