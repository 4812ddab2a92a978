"""One sample of each kind of work, and the rules by which its ending is judged."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from PIL import Image, UnidentifiedImageError

from demo_project.shop import orders, pictures, storage, tasks
from demo_project.shop.signup import sign_up
from djtasks import AsyncResult, states

ORDERS = 20_000
PARTS = 8
PICTURES = 6
PRICE = Decimal("19.90")
TRIES = 3
BELOW = 20_000_000
PRIMES_SUM = 12_272_577_818_052  # of the primes below `BELOW`


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. `value` is its result, or its exception."""

    state: str
    value: Any
    retries: int = 0
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One piece of work: `send` queues it, `fault` tells what is wrong with its ending ('' if nothing is).

    `told` puts its ending in few words, once there is no fault in it.
    """

    title: str
    send: Callable[[], AsyncResult[Any] | None]
    fault: Callable[[Ending], str]
    told: Callable[[Ending], str]


def ending_of(result: AsyncResult[Any]) -> Ending:
    """Read how far a job is; call it once the job has ended for its ending."""
    return Ending(result.state, result.result, result.retries or 0, tuple(result.args or ()))


def sign_up_somebody() -> AsyncResult[Any] | None:
    return sign_up("Ada", f"ada-{secrets.token_hex(4)}@example.com")


def mail_fault(ending: Ending) -> str:
    """The mail must lie in the folder of mails, if mails are delivered there."""
    if ending.state != states.SUCCESS:
        return unsuccessful(ending)
    if "filebased" not in settings.DJTASKS.get("EMAIL_BACKEND", ""):
        return ""
    to = ending.args[0]["to"][0]
    folder = Path(settings.EMAIL_FILE_PATH)
    if any(f"To: {to}\n" in file.read_text(encoding="utf-8") for file in folder.glob("*.log")):
        return ""
    return f"no mail to {to} lies in {folder}"


def export_fault(ending: Ending) -> str:
    """The file must have a header and 20,000 complete rows, numbered in order."""
    if ending.state != states.SUCCESS:
        return unsuccessful(ending)
    path = storage.path_of(ending.value["file"])
    if not path.is_file():
        return f"{path} does not exist"
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if tuple(header) != orders.HEADER:
        return f"{path} begins with {header}"
    if len(rows) != ORDERS:
        return f"{path} has {len(rows)} rows, not {ORDERS}"
    sound = all(len(row) == len(header) and row[0] == str(number) for number, row in enumerate(rows, 1))
    return "" if sound else f"{path} has a row that is incomplete or out of order"


def thumbnails_fault(ending: Ending) -> str:
    """There must be six pictures of the right size."""
    if ending.state != states.SUCCESS:
        return unsuccessful(ending)
    names = ending.value["files"]
    if len(names) != PICTURES:
        return f"there are {len(names)} pictures, not {PICTURES}"
    return next(filter(None, map(picture_fault, names)), "")


def picture_fault(name: str) -> str:
    path = storage.path_of(name)
    try:
        with Image.open(path) as picture:
            picture.load()
            size = picture.size
    except (UnidentifiedImageError, OSError) as error:
        return f"{path} is no picture: {error}"
    return "" if size == pictures.THUMBNAIL_SIZE else f"{path} measures {size}, not {pictures.THUMBNAIL_SIZE}"


def payment_fault(ending: Ending) -> str:
    """The amount must be paid, and at the third try."""
    if ending.state != states.SUCCESS:
        return unsuccessful(ending)
    expected = {"amount": PRICE, "tries": TRIES}
    if ending.value != expected:
        return f"the result is {ending.value}, not {expected}"
    return "" if ending.retries == TRIES - 1 else f"the job counts {ending.retries} retries, not {TRIES - 1}"


def failure_fault(ending: Ending) -> str:
    """It must have failed, and with the task's own exception."""
    if ending.state != states.FAILURE:
        return f"it should have failed, and ended as {ending.state}"
    if type(ending.value) is not tasks.OutOfStock:
        return f"it failed with {ending.value!r}, not with OutOfStock"
    return "" if "sold out" in str(ending.value) else f"the exception says {str(ending.value)!r}"


def sum_fault(ending: Ending) -> str:
    if ending.state != states.SUCCESS:
        return unsuccessful(ending)
    return "" if ending.value == PRIMES_SUM else f"the sum is {ending.value}, not {PRIMES_SUM}"


def unsuccessful(ending: Ending) -> str:
    if ending.state in states.EXCEPTION_STATES:
        return f"it ended as {ending.state}: {type(ending.value).__name__}: {ending.value}"
    return f"it had not ended in time: {ending.state}"


def words(sample: Sample, ending: Ending) -> str:
    """Return in few words what became of a sample."""
    return sample.fault(ending) or sample.told(ending)


SAMPLES = (
    Sample(
        "Welcome mail",
        sign_up_somebody,
        mail_fault,
        lambda ending: f"sent to {ending.args[0]['to'][0]}",
    ),
    Sample(
        "Order export",
        lambda: tasks.export_orders.delay(ORDERS),
        export_fault,
        lambda ending: f"{ending.value['rows']:,} rows in a CSV file",
    ),
    Sample(
        "Order export in parts",
        lambda: tasks.export_in_parts.delay(PARTS, ORDERS // PARTS),
        export_fault,
        lambda ending: f"{ending.value['rows']:,} rows of {PARTS} jobs in one file",
    ),
    Sample(
        "Thumbnails",
        lambda: tasks.make_thumbnails.delay(PICTURES),
        thumbnails_fault,
        lambda ending: f"{len(ending.value['files'])} pictures of {' × '.join(map(str, pictures.THUMBNAIL_SIZE))}",
    ),
    Sample(
        "Flaky payment",
        lambda: tasks.charge_card.delay(PRICE),
        payment_fault,
        lambda ending: f"€{ending.value['amount']} paid at try {ending.value['tries']}",
    ),
    Sample(
        "A task that fails",
        lambda: tasks.reserve_item.delay("The teapot"),
        failure_fault,
        lambda ending: f"{type(ending.value).__name__}: {ending.value}",
    ),
    Sample(
        "Heavy sum",
        lambda: tasks.sum_primes.delay(BELOW),
        sum_fault,
        lambda ending: f"the primes below {BELOW:,} add up to {ending.value:,}",
    ),
)
