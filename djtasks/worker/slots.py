"""Shared memory of one worker: what each child runs, since when, and when the keeper last beat.

A child has a place for each call that it runs at a time, wide enough for the jobs of the largest batch. Who runs a job
writes it there just before the task's own code and clears it after that, so that when a child dies those that had begun
in it are known (DESIGN: rule 4).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps
_MAGIC: Final = b"djtasks3"  # the version of this layout at its end
# Magic, process, children, places in each, jobs in a place, start, WORKER_LOST_AFTER, name
_HEAD: Final = struct.Struct("=8sQQQQdd256s")
_BEAT: Final = struct.Struct("=d")
# How often the queues to serve have changed, and they themselves: checksum and length of a text, JSON.
_QUEUES: Final = struct.Struct("=QII16368s")
_CHANGES: Final = struct.Struct("=Q")
_QUEUES_OFFSET: Final = _HEAD.size + _BEAT.size
_FIRST_SLOT: Final = _QUEUES_OFFSET + _QUEUES.size
# Of each child:
_OWNER: Final = struct.Struct("=64s")  # its boot id
_UNSETTLED: Final = struct.Struct("=Q")  # outcomes that it has not stored yet
_TURN: Final = struct.Struct("=d")  # when it last asked for jobs, or ended one
_UNSETTLED_OFFSET: Final = _OWNER.size
_TURN_OFFSET: Final = _UNSETTLED_OFFSET + _UNSETTLED.size
_FIRST_PLACE: Final = _TURN_OFFSET + _TURN.size
# Of each job in each of its places:
_PLACE: Final = struct.Struct("=64sQdd??6x")  # id, token, start, hard time limit (0: none), marked, condemned
_COUNTS: Final = struct.Struct("=QQ")  # processed, failed; of a place, at its first job
_MARK: Final = struct.Struct("=?")
_MARK_OFFSET: Final = struct.calcsize("=64sQdd")
_CONDEMNED_OFFSET: Final = _MARK_OFFSET + _MARK.size
_COUNTS_OFFSET: Final = _PLACE.size
_PLACE_SIZE: Final = _COUNTS_OFFSET + _COUNTS.size
LONGEST_QUEUES: Final = 16_000  # bytes of the names of queues that were changed
_MOST_MARKS: Final = 100_000  # in a child; 11 MB


def clock() -> float:
    """Seconds on a clock that all processes of this machine share and that nobody sets."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Started:
    """A job that has begun in a child: since when, by `clock()`, and for how many seconds at most it may run."""

    id: str
    token: int
    since: float
    time_limit: float = 0.0  # 0: for ever
    place: int = 0  # what runs in one place runs in one call

    @property
    def left(self) -> float:
        """Seconds until its hard time limit."""
        return self.since + self.time_limit - clock() if self.time_limit else float("inf")


class Slots:
    """The shared memory, made before the fork. `count` is the number of children at most, `runs` that of their places.

    `width` is how many jobs a place should take; fewer do if there are very many places. With `descriptor`, of an empty
    file, others can look into it: see `look`. `name` and `lost_after` are told to them.
    """

    def __init__(
        self,
        count: int,
        runs: int = 1,
        *,
        width: int = 1,
        name: str = "",
        lost_after: float = 0.0,
        descriptor: int | None = None,
    ) -> None:
        self.count, self.runs, self.width = count, runs, max(1, min(width, _MOST_MARKS // runs))
        self._slot_size = _FIRST_PLACE + runs * self.width * _PLACE_SIZE
        size = _FIRST_SLOT + count * self._slot_size
        if descriptor is not None:
            os.ftruncate(descriptor, size)
        self._file = descriptor
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, size)
        self.name, self.pid, self.born, self.lost_after = name, os.getpid(), clock(), lost_after
        sizes = count, runs, self.width
        _HEAD.pack_into(self._memory, 0, _MAGIC, self.pid, *sizes, self.born, lost_after, name.encode()[:256])
        self._lock, path = tempfile.mkstemp()
        os.unlink(path)  # noqa: PTH108 - it is gone with its descriptors

    @classmethod
    def look(cls, descriptor: int) -> Slots:
        """The slots in the file of another worker, to be read. Raises ValueError if it has none of this layout."""
        slots = cls.__new__(cls)
        slots._memory = mmap.mmap(descriptor, 0)
        if len(slots._memory) < _FIRST_SLOT:
            raise ValueError("The file is too short.")
        head = _HEAD.unpack_from(slots._memory, 0)
        magic, slots.pid, slots.count, slots.runs, slots.width, slots.born, slots.lost_after, name = head
        slots.name = name.rstrip(b"\0").decode("utf-8", "ignore")
        slots._slot_size = _FIRST_PLACE + slots.runs * slots.width * _PLACE_SIZE
        if magic != _MAGIC or len(slots._memory) != _FIRST_SLOT + slots.count * slots._slot_size:
            raise ValueError("The file has another layout.")
        return slots

    @classmethod
    def shared(cls, descriptor: int, lock: int) -> Slots:
        """Our worker's own slots, in a program that has inherited `descriptors`."""
        slots = cls.look(descriptor)
        slots._file, slots._lock = descriptor, lock
        return slots

    def descriptors(self) -> tuple[int, int]:
        """What another program needs of these slots; they must be in a file."""
        assert self._file is not None  # noqa: S101 - whoever spawns has made one
        return self._file, self._lock

    def beat(self) -> None:
        """Say that the broker has just taken a beat of this worker."""
        _BEAT.pack_into(self._memory, _HEAD.size, clock())
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.utime(self._file)  # or those who tidy /tmp up might think that nobody needs it

    def tell_queues(self, named: Sequence[str] | None, excluded: Sequence[str]) -> None:
        """Say which queues the children serve from now on: the named ones (None: all), but for the excluded ones.

        Raises ValueError if these are too many.
        """
        text = json.dumps([named, excluded]).encode()
        if len(text) > LONGEST_QUEUES:
            raise ValueError(f"The names of the queues have {len(text)} bytes; {LONGEST_QUEUES} are the most.")
        (changes,) = _CHANGES.unpack_from(self._memory, _QUEUES_OFFSET)
        _QUEUES.pack_into(self._memory, _QUEUES_OFFSET, changes + 1, zlib.crc32(text), len(text), text)

    def changed_queues(self, seen: int) -> tuple[int, list[str] | None, list[str]] | None:
        """What `tell_queues` said last, with how often it had; None if that is `seen`, or is being written."""
        if _CHANGES.unpack_from(self._memory, _QUEUES_OFFSET) == (seen,):
            return None
        changes, checksum, length, text = _QUEUES.unpack_from(self._memory, _QUEUES_OFFSET)
        if zlib.crc32(text[:length]) != checksum:
            return None
        named, excluded = json.loads(text[:length])
        return changes, named, excluded

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

    def mark(
        self, index: int, job_id: str, token: int, time_limit: float | None = None, *, place: int = 0, member: int = 0
    ) -> None:
        """Say that the child begins this job, which may run for `time_limit` seconds; `member` of the call there."""
        at = self._at_place(index, place, member)
        _PLACE.pack_into(self._memory, at, job_id.encode("ascii"), token, clock(), time_limit or 0.0, False, False)
        _MARK.pack_into(self._memory, at + _MARK_OFFSET, True)  # last: a torn mark is none

    def clear(self, index: int, *, place: int = 0, ended: int = 1, failed: int = 0) -> None:
        """Say that the call there has ended, with so many jobs."""
        for member in range(ended):
            _MARK.pack_into(self._memory, self._at_place(index, place, member) + _MARK_OFFSET, False)
        at = self._at_place(index, place) + _COUNTS_OFFSET
        processed, failures = _COUNTS.unpack_from(self._memory, at)
        _COUNTS.pack_into(self._memory, at, processed + ended, failures + failed)
        self.turn(index)

    def turn(self, index: int) -> None:
        """Say that the child has just asked for jobs, and was answered; or need not ask."""
        _TURN.pack_into(self._memory, self._at(index) + _TURN_OFFSET, clock())

    def longest_wait(self) -> float | None:
        """Seconds since that child last asked for jobs which has waited for longest. None: no child waits for any."""
        now, waits = clock(), []
        for index in range(self.count):
            if self.owner(index) and self.busy(index) < self.runs:
                (turn,) = _TURN.unpack_from(self._memory, self._at(index) + _TURN_OFFSET)
                waits.append(now - max(turn, self.born))
        return max(waits) if waits else None

    def condemn(self, index: int, mark: int) -> None:
        """Say that this job is to end by the signal that comes. For the parent, while the child stands."""
        _MARK.pack_into(self._memory, self._at_mark(index, mark) + _CONDEMNED_OFFSET, True)

    def is_condemned(self, index: int) -> bool:
        """Whether a signal that comes is meant for a job that runs in the child, not for the child."""
        return any(self._memory[self._at_mark(index, mark) + _CONDEMNED_OFFSET] for mark in self._marked(index))

    def tell_unsettled(self, index: int, count: int) -> None:
        """Say how many outcomes the child has not stored yet."""
        _UNSETTLED.pack_into(self._memory, self._at(index) + _UNSETTLED_OFFSET, count)

    def unsettled(self, index: int) -> int:
        """How many outcomes the child has not stored yet, as it said last."""
        return int(_UNSETTLED.unpack_from(self._memory, self._at(index) + _UNSETTLED_OFFSET)[0])

    def give(self, index: int, owner: str) -> None:
        """Make the slot that of a new child, before it is born; "": of none."""
        at = self._at(index)
        self._memory[self._marks(index)] = bytes(self.runs * self.width)
        _OWNER.pack_into(self._memory, at, owner.encode("ascii"))
        _UNSETTLED.pack_into(self._memory, at + _UNSETTLED_OFFSET, 0)
        _TURN.pack_into(self._memory, at + _TURN_OFFSET, clock())

    def clear_owners(self) -> None:
        """Say that no child lives any more."""
        for index in range(self.count):
            self.give(index, "")

    def owner(self, index: int) -> str:
        """The boot id of the child that has the slot; "" if it is free."""
        text: bytes = _OWNER.unpack_from(self._memory, self._at(index))[0]
        return text.rstrip(b"\0").decode("ascii")

    def owners(self) -> set[str]:
        """The boot ids of the children that have the slots."""
        return {self.owner(index) for index in range(self.count)} - {""}

    def running(self, index: int) -> dict[int, Started]:
        """What has begun in the child and not ended, by its mark."""
        found = {}
        for mark in self._marked(index):
            at = self._at_mark(index, mark)
            job_id, token, since, limit, _marked, _condemned = _PLACE.unpack_from(self._memory, at)
            place = mark // self.width
            found[mark] = Started(job_id.rstrip(b"\0").decode("ascii"), token, since, limit, place)
        return found

    def busy(self, index: int) -> int:
        """In how many places of the child something runs."""
        return len({mark // self.width for mark in self._marked(index)})

    def counts(self, index: int | None = None) -> tuple[int, int]:
        """How many jobs that child has run, or all have, and how many of these failed."""
        children = range(self.count) if index is None else [index]
        places = [self._at_place(child, place) for child in children for place in range(self.runs)]
        pairs = [_COUNTS.unpack_from(self._memory, at + _COUNTS_OFFSET) for at in places]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def _marked(self, index: int) -> list[int]:
        """The marks that are set, numbered through all places."""
        return [mark for mark, is_set in enumerate(self._memory[self._marks(index)]) if is_set]

    def _marks(self, index: int) -> slice:
        first = self._at_mark(index, 0) + _MARK_OFFSET
        return slice(first, first + self.runs * self.width * _PLACE_SIZE, _PLACE_SIZE)

    def _at(self, index: int) -> int:
        return _FIRST_SLOT + index * self._slot_size

    def _at_place(self, index: int, place: int, member: int = 0) -> int:
        return self._at_mark(index, place * self.width + member)

    def _at_mark(self, index: int, mark: int) -> int:
        return _FIRST_SLOT + index * self._slot_size + _FIRST_PLACE + mark * _PLACE_SIZE
