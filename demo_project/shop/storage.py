"""Files below MEDIA_ROOT, named by their path from there: `exports/orders-….csv`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.conf import settings


@contextmanager
def writing(name: str, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open the file `name` to write. It appears, or takes an older one's place, only once it is complete."""
    target = path_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    try:
        with open_to_write(unfinished, binary) as file:
            yield file
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def reading(name: str) -> IO[Any]:
    """Open the file `name` to read."""
    return path_of(name).open(encoding="utf-8", newline="")


def open_to_write(path: Path, binary: bool) -> IO[Any]:
    return path.open("wb") if binary else path.open("w", encoding="utf-8", newline="")


def path_of(name: str) -> Path:
    return Path(settings.MEDIA_ROOT) / name
