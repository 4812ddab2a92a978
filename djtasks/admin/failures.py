"""The newest failures of one task, by exception and place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.db.models.functions import Right
from django.utils.text import Truncator

import djtasks
from djtasks import states
from djtasks.models import Job

LOOKED_AT: Final = 10_000  # newest jobs of the task
MOST: Final = 200  # failures among these
TAIL: Final = 8_000  # characters of a traceback: the frame that is wanted stands near its end
LONGEST_MESSAGE: Final = 300  # characters

_BEGIN: Final = "Traceback (most recent call last):"
_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
_LIBRARIES: Final = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python\d|^<")
_OURS: Final = str(Path(djtasks.__file__).parent)


@dataclass(slots=True)
class Kind:
    """Failures of one exception at one place; `last` is the newest job, with what it said."""

    exception: str
    place: str
    last: Job
    message: str
    count: int = 0


def newest(task: str, *, with_messages: bool) -> tuple[list[Kind], int]:
    """The kinds of the newest failures, the most frequent first, and how many failures these are.

    Reads a bounded number of rows, however many there are.
    """
    found = list(_failed(task))
    kinds: dict[tuple[str, str], Kind] = {}
    for job in found:
        place = place_of(job.tail or "")
        kind = kinds.get((job.exception, place))
        if kind is None:
            message = Truncator(job.exception_message or "").chars(LONGEST_MESSAGE) if with_messages else ""
            kind = kinds[job.exception, place] = Kind(job.exception, place, job, message)
        kind.count += 1
    return sorted(kinds.values(), key=lambda kind: -kind.count), len(found)


def _failed(task: str) -> Any:
    jobs = Job.objects.filter(task=task).order_by("-pk")
    oldest = jobs.values_list("pk", flat=True)[LOOKED_AT : LOOKED_AT + 1].first()
    failed = jobs.filter(state=states.FAILURE, **({} if oldest is None else {"pk__gt": oldest}))
    columns = ("id", "task", "exception", "exception_message", "finished_at")
    return failed.annotate(tail=Right("traceback", TAIL)).only(*columns)[:MOST]


def place_of(traceback: str) -> str:
    """Where in the user's own code an exception came from: 'path:line in function', '' if nobody knows.

    The innermost frame that is in no library; of libraries alone, the innermost one.
    """
    frames = _FRAME.findall(traceback.rpartition(_BEGIN)[2])
    own = [frame for frame in frames if not _LIBRARIES.search(frame[0]) and not frame[0].startswith(_OURS)]
    return "{}:{} in {}".format(*(own or frames)[-1]) if frames else ""
