"""The file with the worker's process number. Its lock says whether that process lives: numbers are used again."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from djtasks.exceptions import ImproperlyConfigured

logger = logging.getLogger("djtasks.worker")


@contextmanager
def pidfile(name: str | None) -> Iterator[None]:
    """Keep our process number in the file `name` within the block; None keeps it nowhere.

    Raises ImproperlyConfigured if the file belongs to a worker that runs, or cannot be written.
    """
    if name is None:
        yield
        return
    path = Path(name).absolute()
    try:
        descriptor = _taken(path)
    except OSError as error:
        raise ImproperlyConfigured(f"The pidfile {path} cannot be written: {error}.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                path.unlink()
        os.close(descriptor)


def _taken(path: Path) -> int:
    """The descriptor of the file, whole from its first moment, and locked for as long as we live."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        os.fchmod(descriptor, 0o644)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        _put(Path(temporary), path)
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)
    return descriptor


def _put(temporary: Path, path: Path) -> None:
    """Let `path` be this file, unless it is one of a worker that runs."""
    while True:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError), path.open("r+") as former:
                _check_left_behind(former.fileno(), former.read().strip(), path)
                temporary.replace(path)
                return
        else:
            return


def _check_left_behind(former: int, number: str, path: Path) -> None:
    try:
        fcntl.lockf(former, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ImproperlyConfigured(
            f"The pidfile {path} belongs to a worker that runs, process {number}: stop that one, or name another file."
        ) from None
    logger.warning("The pidfile %s was left behind by process %s, which has ended; it is replaced", path, number)
