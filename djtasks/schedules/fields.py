"""The fields of a crontab: sets of numbers, read from what users write and written as cron does."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from djtasks.exceptions import ParseException
from djtasks.exceptions import gettext_noop as _

_PART = re.compile(
    r"(?: \* | (?P<first>[0-9]+|[a-z]+) (?: - (?P<last>[0-9]+|[a-z]+) )? ) (?: / (?P<step>[0-9]+) )?", re.VERBOSE
)
_SHORTEST_NAME = 3  # letters: jan, sun; more of the name may follow


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its keyword in `crontab`, the numbers that it may hold, and their names if they have some."""

    keyword: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # of low, low + 1, …

    def parse(self, given: object) -> frozenset[int]:
        """The numbers that `given` means: an int, a text or an iterable of ints. Raises ParseException."""
        if isinstance(given, str):
            numbers = frozenset(number for part in given.split(",") for number in self._part(part.strip().lower()))
        elif isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray)):
            numbers = frozenset(self._number(number) for number in given)
        else:
            numbers = frozenset([self._number(given)])
        if not numbers:
            raise self._refused(_("{keyword}: an empty list names no time at all."))
        return numbers

    def write(self, numbers: Collection[int]) -> str:
        """The shortest text that people would write: `*`, a step, or ranges and numbers."""
        if len(numbers) == self._size:
            return "*"
        ordered = sorted(numbers)
        return self._as_step(ordered) or self._as_runs(ordered)

    def _part(self, text: str) -> Iterable[int]:
        found = _PART.fullmatch(text)
        if not found:
            raise self._unreadable(text)
        step = self._step(found["step"])
        if found["first"] is None:
            return range(self.low, self.high + 1, step)
        first = self._named(found["first"])
        if found["last"] is not None:
            return self._range(first, self._named(found["last"]))[::step]
        if found["step"] is not None:
            raise self._refused(
                _("{keyword}: {text!r} steps from where to where? Write {example}."),
                text=text,
                example=f"{first}-{self.high}/{step}",
            )
        return (first,)

    def _range(self, first: int, last: int) -> list[int]:
        if first <= last:
            return list(range(first, last + 1))
        return [*range(first, self.high + 1), *range(self.low, last + 1)]

    def _step(self, text: str | None) -> int:
        if text is None:
            return 1
        step = int(text) if len(text) < 5 else self._size + 1  # int() is slow on very long texts
        if 1 <= step <= self._size:
            return step
        raise self._refused(
            _(
                "{keyword}: a step of {step} is none. Within this field it can be 1 to {most}; "
                "for longer times use schedule(), whose text is as 'every 90 minutes'."
            ),
            step=text,
            most=self._size,
        )

    def _named(self, text: str) -> int:
        if text.isdigit():
            return self._number(int(text) if len(text) < 5 else self.high + 1)
        for number, name in enumerate(self.names, self.low):
            if len(text) >= _SHORTEST_NAME and name.startswith(text):
                return number
        raise self._unreadable(text)

    def _number(self, number: object) -> int:
        if isinstance(number, bool) or not isinstance(number, int):
            raise self._refused(
                _("{keyword}: takes an int, a text or an iterable of ints, not {number!r}."), number=number
            )
        if not self.low <= number <= self.high:
            raise self._refused(
                _("{keyword}: {number} is out of range, which is {low} to {high}."), number=number, **self._bounds
            )
        return int(number)

    def _as_step(self, ordered: list[int]) -> str | None:
        steps = {later - earlier for earlier, later in pairwise(ordered)}
        if len(steps) != 1 or steps == {1}:
            return None
        step = steps.pop()
        first, last = ordered[0], ordered[-1]
        even = self._size % step == 0
        if first == self.low and last + step > self.high and (even or len(ordered) > 2):
            return f"*/{step}"
        return f"{first}-{last}/{step}" if len(ordered) > 3 else None

    def _as_runs(self, ordered: list[int]) -> str:
        found = runs(ordered)
        if len(found) == 2 and ordered[0] == self.low and ordered[-1] == self.high and len(ordered) > 2:
            return f"{found[1][0]}-{found[0][-1]}"  # goes on from the end to the beginning: 22-3
        return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in found)

    @property
    def _size(self) -> int:
        return self.high - self.low + 1

    @property
    def _bounds(self) -> dict[str, str]:
        if not self.names:
            return {"low": f"{self.low}", "high": f"{self.high}"}
        first, last = self.names[0].capitalize(), self.names[-1].capitalize()
        return {"low": f"{self.low} ({first})", "high": f"{self.high} ({last})"}

    def _unreadable(self, text: str) -> ParseException:
        if self.names:
            return self._refused(
                _(
                    "{keyword}: cannot read {text!r}. Write *, a number from {low} to {high} or a name such as {name}, "
                    "a range as 2-5, a step as */2 or 2-10/2, or several of these with commas between."
                ),
                text=text,
                name=self.names[1][:_SHORTEST_NAME],
                **self._bounds,
            )
        return self._refused(
            _(
                "{keyword}: cannot read {text!r}. Write *, a number from {low} to {high}, a range as 2-5, "
                "a step as */2 or 2-10/2, or several of these with commas between."
            ),
            text=text,
            **self._bounds,
        )

    def _refused(self, text: str, /, **words: object) -> ParseException:
        return ParseException(text, keyword=self.keyword, **words)


def runs(ordered: Iterable[int]) -> list[list[int]]:
    """Ascending numbers in runs without gaps: [1, 2, 3, 7] gives [[1, 2, 3], [7]]."""
    found: list[list[int]] = []
    for number in ordered:
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return found


_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip

MINUTE: Final = Field("minute", 0, 59)
HOUR: Final = Field("hour", 0, 23)
DAY_OF_WEEK: Final = Field("day_of_week", 0, 6, _WEEKDAYS)
DAY_OF_MONTH: Final = Field("day_of_month", 1, 31)
MONTH_OF_YEAR: Final = Field("month_of_year", 1, 12, _MONTHS)
SECOND: Final = Field("second", 0, 59)
