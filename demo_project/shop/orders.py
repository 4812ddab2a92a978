"""Orders that nobody made: the same ones each time."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, TextIO

HEADER = ("number", "date", "customer", "article", "quantity", "price", "total")
NAMES = ("Ada", "Björn", "Chloé", "Dmitri", "Esra", "Fatima", "Grace", "Hiro", "Inés", "Jürgen")
ARTICLES = {"Teapot": "24.90", "Lamp": "39.00", "Notebook": "4.50", "Bicycle bell": "12.75", "Scarf": "18.20"}
FIRST_DAY = date(2026, 1, 1)


def write_csv(file: TextIO, count: int, chunk: int) -> Iterator[int]:
    """Write a header and `count` orders; yield how many are written, after each `chunk` and at the end."""
    writer = csv.writer(file)
    writer.writerow(HEADER)
    dice = random.Random(count)
    for number in range(1, count + 1):
        writer.writerow(order(number, dice))
        if number % chunk == 0 or number == count:
            yield number


def write_part(file: TextIO, first: int, count: int) -> None:
    """Write `count` orders from number `first` on, without a header."""
    dice = random.Random(first)
    csv.writer(file).writerows(order(number, dice) for number in range(first, first + count))


def join(file: TextIO, parts: Iterable[TextIO]) -> int:
    """Write a header and the orders of `parts`. Returns how many these are."""
    csv.writer(file).writerow(HEADER)
    rows = 0
    for part in parts:
        for line in part:
            file.write(line)
            rows += 1
    return rows


def order(number: int, dice: random.Random) -> tuple[Any, ...]:
    article, price = dice.choice(list(ARTICLES.items()))
    quantity = dice.randint(1, 5)
    day = FIRST_DAY + timedelta(days=dice.randrange(365))
    return number, day.isoformat(), dice.choice(NAMES), article, quantity, price, quantity * Decimal(price)
