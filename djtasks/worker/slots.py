"""Shared memory of one worker: what each child runs, since when, and when the keeper last beat.

Written by the child's main thread just before the task's own code and cleared after it, so that when
a child dies the one job that had begun in it is known (DESIGN: rule 4).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps
_MAGIC: Final = b"djtasks1"  # the version of this layout at its end
_HEAD: Final = struct.Struct("=8sQQdd256s")  # magic, process, number of slots, start, WORKER_LOST_AFTER, name
_BEAT: Final = struct.Struct("=d")
_FIRST_SLOT: Final = _HEAD.size + _BEAT.size
_SLOT: Final = struct.Struct("=64sQdd??6x")  # id, token, start, hard time limit (0: none), marked, condemned
_COUNTS: Final = struct.Struct("=QQ")  # processed, failed
_OWNER: Final = struct.Struct("=64s")  # the boot id of the child that has the slot
_UNSETTLED: Final = struct.Struct("=Q")  # outcomes that the child has not stored yet
_COUNTS_OFFSET: Final = _SLOT.size
_OWNER_OFFSET: Final = _COUNTS_OFFSET + _COUNTS.size
_UNSETTLED_OFFSET: Final = _OWNER_OFFSET + _OWNER.size
_TURN: Final = struct.Struct("=d")  # when the child last asked for jobs, or ended one
_TURN_OFFSET: Final = _UNSETTLED_OFFSET + _UNSETTLED.size
_SLOT_SIZE: Final = _TURN_OFFSET + _TURN.size
_MARK: Final = struct.Struct("=?")
_MARK_OFFSET: Final = struct.calcsize("=64sQdd")
_CONDEMNED_OFFSET: Final = _MARK_OFFSET + _MARK.size


def clock() -> float:
    """Seconds on a clock that all processes of this machine share and that nobody sets."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Started:
    """The job that has begun in a child: since when, by `clock()`, and for how many seconds at most it may run."""

    id: str
    token: int
    since: float
    time_limit: float = 0.0  # 0: for ever

    @property
    def left(self) -> float:
        """Seconds until its hard time limit."""
        return self.since + self.time_limit - clock() if self.time_limit else float("inf")


class Slots:
    """The shared memory, made before the fork. `count` is the number of children at most.

    With `descriptor`, of an empty file, others can look into it: see `look`. `name` and `lost_after` are told to them.
    """

    def __init__(self, count: int, *, name: str = "", lost_after: float = 0.0, descriptor: int | None = None) -> None:
        self.count = count
        size = _FIRST_SLOT + count * _SLOT_SIZE
        if descriptor is not None:
            os.ftruncate(descriptor, size)
        self._file = descriptor
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, size)
        self.name, self.pid, self.born, self.lost_after = name, os.getpid(), clock(), lost_after
        _HEAD.pack_into(self._memory, 0, _MAGIC, self.pid, count, self.born, lost_after, name.encode()[:256])
        self._lock, path = tempfile.mkstemp()
        os.unlink(path)  # noqa: PTH108 - it is gone with its descriptors

    @classmethod
    def look(cls, descriptor: int) -> Slots:
        """The slots in the file of another worker, to be read. Raises ValueError if it has none of this layout."""
        slots = cls.__new__(cls)
        slots._memory = mmap.mmap(descriptor, 0)
        if len(slots._memory) < _FIRST_SLOT:
            raise ValueError("The file is too short.")
        magic, slots.pid, slots.count, slots.born, slots.lost_after, name = _HEAD.unpack_from(slots._memory, 0)
        slots.name = name.rstrip(b"\0").decode("utf-8", "ignore")
        if magic != _MAGIC or len(slots._memory) != _FIRST_SLOT + slots.count * _SLOT_SIZE:
            raise ValueError("The file has another layout.")
        return slots

    def beat(self) -> None:
        """Say that the broker has just taken a beat of this worker."""
        _BEAT.pack_into(self._memory, _HEAD.size, clock())
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.utime(self._file)  # or those who tidy /tmp up might think that nobody needs it

    def beat_age(self) -> float:
        """Seconds since the last good beat; very many if there was none."""
        (last,) = _BEAT.unpack_from(self._memory, _HEAD.size)
        return clock() - last if last else float("inf")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the other processes of this worker out meanwhile. Not for two threads of one process."""
        # lockf, not flock: a flock on an inherited descriptor is one and the same for all processes.
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def mark(self, index: int, job_id: str, token: int, time_limit: float | None = None) -> None:
        """Say that the child begins this job, which may run for `time_limit` seconds."""
        at = self._at(index)
        _SLOT.pack_into(self._memory, at, job_id.encode("ascii"), token, clock(), time_limit or 0.0, False, False)
        _MARK.pack_into(self._memory, at + _MARK_OFFSET, True)  # last: a torn mark is none

    def clear(self, index: int, *, failed: bool = False) -> None:
        """Say that the child's job has ended."""
        at = self._at(index)
        _MARK.pack_into(self._memory, at + _MARK_OFFSET, False)
        processed, failures = _COUNTS.unpack_from(self._memory, at + _COUNTS_OFFSET)
        _COUNTS.pack_into(self._memory, at + _COUNTS_OFFSET, processed + 1, failures + failed)
        self.turn(index)

    def turn(self, index: int) -> None:
        """Say that the child has just asked for jobs, and was answered; or need not ask."""
        _TURN.pack_into(self._memory, self._at(index) + _TURN_OFFSET, clock())

    def longest_wait(self) -> float | None:
        """Seconds since that child last asked for jobs which has waited for longest. None: no child waits for any."""
        now, waits = clock(), []
        for index in range(self.count):
            if self.read(index) is None:
                (turn,) = _TURN.unpack_from(self._memory, self._at(index) + _TURN_OFFSET)
                waits.append(now - max(turn, self.born))
        return max(waits) if waits else None

    def condemn(self, index: int) -> None:
        """Say that what the child runs is to end by the signal that comes. For the parent, while the child stands."""
        _MARK.pack_into(self._memory, self._at(index) + _CONDEMNED_OFFSET, True)

    def is_condemned(self, index: int) -> bool:
        """Whether a signal that comes is meant for the job that runs in the child, not for the child."""
        *_, marked, condemned = _SLOT.unpack_from(self._memory, self._at(index))
        return bool(marked and condemned)

    def tell_unsettled(self, index: int, count: int) -> None:
        """Say how many outcomes the child has not stored yet."""
        _UNSETTLED.pack_into(self._memory, self._at(index) + _UNSETTLED_OFFSET, count)

    def unsettled(self, index: int) -> int:
        """How many outcomes the child has not stored yet, as it said last."""
        return int(_UNSETTLED.unpack_from(self._memory, self._at(index) + _UNSETTLED_OFFSET)[0])

    def give(self, index: int, owner: str) -> None:
        """Make the slot that of a new child, before it is born."""
        at = self._at(index)
        _MARK.pack_into(self._memory, at + _MARK_OFFSET, False)
        _OWNER.pack_into(self._memory, at + _OWNER_OFFSET, owner.encode("ascii"))
        _UNSETTLED.pack_into(self._memory, at + _UNSETTLED_OFFSET, 0)

    def clear_owners(self) -> None:
        """Say that no child lives any more."""
        for index in range(self.count):
            self.give(index, "")

    def owners(self) -> set[str]:
        """The boot ids of the children that have the slots."""
        texts = [_OWNER.unpack_from(self._memory, self._at(index) + _OWNER_OFFSET)[0] for index in range(self.count)]
        return {text.rstrip(b"\0").decode("ascii") for text in texts} - {""}

    def read(self, index: int) -> Started | None:
        """What has begun in the child and not ended."""
        job_id, token, since, limit, marked, _condemned = _SLOT.unpack_from(self._memory, self._at(index))
        return Started(job_id.rstrip(b"\0").decode("ascii"), token, since, limit) if marked else None

    def counts(self) -> tuple[int, int]:
        """How many jobs all children have run, and how many of these failed."""
        pairs = [_COUNTS.unpack_from(self._memory, self._at(index) + _COUNTS_OFFSET) for index in range(self.count)]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def _at(self, index: int) -> int:
        return _FIRST_SLOT + index * _SLOT_SIZE
