"""Which jobs: the filters of the job list, answered within bounds however many millions of rows there are.

Some filters an index answers, in the order in which jobs are shown. All others (a queue, a worker, a run time, a text)
are sought only among the newest `LOOKED_THROUGH` of the jobs that the former leave.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Q
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.datastructures import BaseTable
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from djtasks import registry, states
from djtasks.conf import settings
from djtasks.masking import is_sensitive
from djtasks.message import LONGEST_DELAY
from djtasks.models import Job, statements
from djtasks.models.fields import utc_now
from djtasks.models.job import JobQuerySet
from djtasks.models.managers import history_alias
from djtasks.models.words import ENDED_OTHERWISE, OF_STATE, among

LOOKED_THROUGH: Final = 100_000  # jobs
MOST_COUNTED: Final = 10_000  # jobs; of more there are "10,000+"
LONGEST_VALUE: Final = 255  # characters
NONE_SEEN: Final = "–"  # where there may be some
SPANS: Final[Mapping[str, timedelta]] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
SAME: Final = ("task", "queue", "parent_id", "group_id", "periodic_task", "state")  # name of the filter and column
ENDED: Final = ("ended_from", "ended_to")
NAMES: Final = (*SAME, "worker", "root_id", "enqueued", *ENDED, "longer", "q")
STATES: Final = (*states.WAITING, *states.RUNNING, *states.SETTLED)
_LATER: Final = (states.SCHEDULED, states.RETRY)
# With the words of an index's condition SQLite takes it. Of what is for later the next is looked at first: so retries
# are found, though a million jobs of next year stand behind them.
_COUNT: Final = "(SELECT COUNT(*) FROM (SELECT 1 FROM {} LIMIT %s) AS counted)"
_JOBS: Final = "djtasks_job WHERE state = %s"
_SOON: Final = "SELECT state FROM djtasks_job WHERE state IN ('SCHEDULED', 'RETRY') ORDER BY run_at LIMIT %s"
_FROM: Final = {
    states.SUCCESS: f"{_JOBS} AND finished_at IS NOT NULL",
    **dict.fromkeys(states.RUNNING, f"{_JOBS} AND state IN ('RECEIVED', 'STARTED')"),
    **dict.fromkeys(_LATER, f"({_SOON}) AS soon WHERE state = %s"),
}
_NARROW: Final = ("q", "group_id", "parent_id", "root_id", "periodic_task")
_LEADS: Final = ("state", "task")
_AFTER_ASCII: Final = "\x7f"


@dataclass(frozen=True, slots=True)
class Way:
    """An index that answers the filters `names`, in the order of the column `order`; `condition`: what it is asked."""

    names: frozenset[str]
    condition: Q
    order: str = "id"
    leads: str = ""  # the column that its entries stand by first, where the database has to be made to use it


@dataclass(frozen=True, slots=True)
class Window:
    """Among which jobs the filters are sought: all, or those from `boundary` on in the order of `order`.

    `is_sought`: no index answers all filters, so that jobs are looked through. `newest`: those from `boundary` on,
    where the database has to be made to take the index that gives them.
    """

    order: str = "id"
    boundary: Any = None
    is_sought: bool = True
    leads: str = ""
    newest: JobQuerySet | None = None

    @property
    def is_cut(self) -> bool:
        """Whether there may be more that match."""
        return self.boundary is not None

    def of(self, jobs: JobQuerySet) -> JobQuerySet:
        """Those of `jobs` that are in it."""
        if self.newest is None:
            return jobs.filter(**{f"{self.order}__gte": self.boundary}) if self.is_cut else jobs
        jobs = jobs.all()
        jobs.query.get_initial_alias()
        jobs.query.alias_map[Job._meta.db_table] = _Rows(self.newest)
        return jobs

    @property
    def ordering(self) -> tuple[str, ...]:
        """The newest first; of what has succeeded, what ended last; of what is for later, what is due last."""
        if self.order == "id":
            return (f"-{self.leads}", "-id") if self.leads else ("-id",)
        return (f"-{self.order}", "-id")


@dataclass(frozen=True)
class Selection:
    """The filters by their names in addresses.

    With `reads_arguments` a text is sought in arguments and in messages, too.
    """

    given: Mapping[str, str]
    reads_arguments: bool = False
    now: datetime = field(default_factory=utc_now)

    @classmethod
    def read(cls, given: Mapping[str, Any], *, reads_arguments: bool = False) -> Selection:
        """The filters as an address has them, without what makes no sense."""
        found = {name: _clean(str(given.get(name) or "")) for name in NAMES}
        found["longer"] = found["longer"] if _seconds(found["longer"]) is not None else ""
        found["enqueued"] = found["enqueued"] if found["enqueued"] in SPANS else ""
        for name in ENDED:
            moment = _moment(found[name])
            found[name] = moment.isoformat() if moment else ""
        return cls({name: value for name, value in found.items() if value}, reads_arguments)

    def without(self, *names: str) -> Selection:
        """The same but for these filters."""
        given = {name: value for name, value in self.given.items() if name not in names}
        return Selection(given, self.reads_arguments, self.now)

    def matching(self, jobs: JobQuerySet | None = None, *, leads: str = "") -> JobQuerySet:
        """Those of `jobs`, of all unless given, that match; however long it takes to find them.

        `leads`: as of the window in whose order they are wanted.
        """
        jobs = Job.objects.all() if jobs is None else jobs
        for condition in {**self._conditions, **self._led_by(leads)}.values():
            jobs = jobs.filter(condition)
        return jobs

    def window(self, *, always: bool = False) -> Window:
        """Among which jobs they are sought; `always`: among so many at most, though an index answers all filters."""
        ways = list(self._ways())
        for way in ways:
            if not always and way.names >= self.given.keys():
                return Window(way.order, is_sought=False, leads=way.leads)
        windows = []
        for way in ways:
            newest = _by(way)[:LOOKED_THROUGH] if way.leads == "task" else None
            windows.append(Window(way.order, _boundary(way), leads=way.leads, newest=newest))
            if not windows[-1].is_cut:
                break
        return windows[-1] if not windows[-1].is_cut else windows[0]

    def _ways(self) -> Iterator[Way]:
        """The indexes that answer some of the filters, those first that leave the fewest jobs."""
        conditions, state = self._conditions, self.given.get("state")
        succeeded = state == states.SUCCESS
        for name in (*_NARROW, *(() if succeeded else ("state",)), "task"):
            if name in conditions and (name != "q" or self._is_id):
                order = "run_at" if name == "state" and state in _LATER else "id"
                led = self._led_by(name)
                yield Way(frozenset({name}), led.get(name, conditions[name]), order, name if led else "")
        if succeeded or any(name in conditions for name in ENDED):
            ended = Q(finished_at__isnull=False)
            for name in ENDED:
                ended &= conditions.get(name, Q())
            yield Way(frozenset({*ENDED, *(["state"] if succeeded else [])}), ended, "finished_at")
        elif not state and "task" not in conditions:
            yield Way(frozenset(), Q())

    @cached_property
    def _conditions(self) -> dict[str, Q]:
        given = self.given
        found = {name: Q(**{name: given[name]}) for name in SAME if name in given}
        state = given.get("state", "")
        if state == states.SUCCESS:
            found["state"] &= Q(finished_at__isnull=False)  # or no index would be of use
        if state in OF_STATE:
            found["state"] &= OF_STATE[state]
        if value := given.get("worker"):
            found["worker"] = Q(worker=value) | starts_with("worker", f"{value}.")
        if value := given.get("root_id"):
            found["root_id"] = Q(root_id=value) | Q(pk=value)
        if term := given.get("q"):
            found["q"] = starts_with("id", term) if self._is_id else _mentions(term, self.reads_arguments)
        return found | dict(self._times())

    def _led_by(self, column: str) -> dict[str, Q]:
        """Conditions that make PostgreSQL take the index that begins with this column; none if it is of no use.

        With an equation it walks the primary key, past millions, as it does not know how far off such jobs are.
        """
        value, task = self.given.get(column, ""), self.given.get("task")
        if column not in _LEADS or not value or connections[settings.DATABASE].vendor != "postgresql":
            return {}
        found = {column: Q(**{f"{column}__gte": value, f"{column}__lte": value})}
        if column == "state":
            if value not in ENDED_OTHERWISE:
                return {}
            found[column] &= among(ENDED_OTHERWISE)
            if task:  # by two indexes, without a look at the rows
                found["task"] = Q(pk__in=Job.objects.filter(task=task).values("pk"))
        return found

    def _times(self) -> Iterator[tuple[str, Q]]:
        given = self.given
        if value := given.get("enqueued"):
            yield "enqueued", Q(created_at__gte=self.now - SPANS[value])
        if (seconds := _seconds(given.get("longer", ""))) is not None:
            since = self.now - timedelta(seconds=seconds)
            yield "longer", Q(seconds__gt=seconds) | Q(state=states.STARTED, started_at__lt=since)
        for name, lookup in zip(ENDED, ("gte", "lte"), strict=True):
            if moment := _moment(given.get(name, "")):
                yield name, Q(**{f"finished_at__{lookup}": moment})

    @cached_property
    def _is_id(self) -> bool:
        """Whether the text is an id or its beginning: then it is that and nothing else."""
        return Job.objects.filter(starts_with("id", self.given["q"])).order_by().exists()

    def counts(self) -> dict[str, str]:
        """How many jobs are in each state and match all other filters, for people: no more than some are counted."""
        others = self.without("state")
        if not others.given:
            return _counts_of_all()
        window = others.window()
        newest = others.matching(window.of(Job.objects.all()), leads=window.leads).order_by(*window.ordering)
        return tally(list(newest.values_list("state", flat=True)[:MOST_COUNTED]), window)


def tally(found: Sequence[str], window: Window) -> dict[str, str]:
    """How many of the jobs that were found in `window` are in each state, for people."""
    is_cut = window.is_cut or len(found) >= MOST_COUNTED
    counts = {**dict.fromkeys(STATES, 0), **Counter(found)}
    return {state: shown(count, is_cut=is_cut) if count or not is_cut else NONE_SEEN for state, count in counts.items()}


def shown(count: int, *, is_cut: bool = False, about: int = 0) -> str:
    """A count for people: '1,234'; where there may be more, '≈ 512,000', if that is known, or '10,000+'."""
    if count < MOST_COUNTED:
        return f"{count:,}{'+' if is_cut else ''}"
    return f"≈ {round(about, 3 - len(str(about))):,}" if about > MOST_COUNTED else f"{MOST_COUNTED:,}+"


def starts_with(column: str, prefix: str) -> Q:
    """Rows whose ASCII `column` starts with `prefix`; as a range, which an index answers on every database."""
    return Q(**{f"{column}__gte": prefix, f"{column}__lt": prefix + _AFTER_ASCII})


def _boundary(way: Way) -> Any:
    """The value of the order's column in the last job that is looked at; None if there are no more than that."""
    rows = _by(way).values_list(way.order, flat=True)
    return next(iter(rows[LOOKED_THROUGH - 1 : LOOKED_THROUGH]), None)


def _by(way: Way) -> JobQuerySet:
    """The jobs that the index answers, in its order."""
    order = (f"-{way.leads}", "-id") if way.leads else (f"-{way.order}",)
    return Job.objects.filter(way.condition).order_by(*order)


class _Rows(BaseTable):
    """The table of jobs as if it held only these.

    With the task and the id of the oldest one in its WHERE, PostgreSQL walks through the jobs of all tasks since then.
    """

    def __init__(self, jobs: JobQuerySet) -> None:
        super().__init__(Job._meta.db_table, Job._meta.db_table)
        self.jobs = jobs

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, tuple[Any, ...]]:
        sql, values = self.jobs.query.get_compiler(connection=connection).as_sql()
        return f"({sql}) {connection.ops.quote_name(Job._meta.db_table)}", values


def _counts_of_all() -> dict[str, str]:
    """Of each state, for people, as far as its index need be read; estimated beyond that."""
    looked_at = 2 * MOST_COUNTED  # of what is for later
    each, values = [], list[str | int]()
    for state in STATES:
        each.append(_COUNT.format(_FROM.get(state, _JOBS)))
        values += [looked_at, state, looked_at] if state in _LATER else [state, MOST_COUNTED]
    with connections[history_alias()].cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(each)}", values)
        counts = dict(zip(STATES, cursor.fetchone(), strict=True))
    is_cut = sum(counts[state] for state in _LATER) >= looked_at
    many = [state for state, count in counts.items() if count >= MOST_COUNTED]
    about = statements.estimate(connections[history_alias()], many) if many else {}
    return {
        state: shown(count, is_cut=is_cut and state in _LATER, about=about.get(state, 0))
        for state, count in counts.items()
    }


def _mentions(term: str, reads_arguments: bool) -> Q:
    """Jobs whose task or error is called so, or that have it in their arguments or messages, if these may be read."""
    known = [name for name in registry.names() if term.lower() in name.lower()]
    found = starts_with("task", term) | Q(task__in=known) | Q(exception__icontains=term)
    if not reads_arguments:
        return found
    written = json.dumps(term)[1:-1]
    arguments = Q(args__contains=written) | Q(kwargs__contains=written)  # with icontains it takes three times as long
    return found | Q(exception_message__icontains=term) | (arguments & ~_hides())


def _hides() -> Q:
    """Jobs of whose arguments some are masked: what may not be seen may not be sought."""
    hidden = Q(task__in=_with_hidden_parameters())
    for word in settings.TASK_SENSITIVE_ARGUMENTS:
        written = json.dumps(word)[1:-1]
        hidden |= Q(args__icontains=written) | Q(kwargs__icontains=written)
    return hidden


def _with_hidden_parameters() -> Collection[str]:
    return [
        task.name
        for task in registry.all_tasks()
        if task.sensitive_arguments or any(map(is_sensitive, task.parameters.parameters))
    ]


def _clean(text: str) -> str:
    """What may be asked of any database: PostgreSQL refuses NUL."""
    return text.replace("\x00", "").strip()[:LONGEST_VALUE]


def _seconds(text: str) -> float | None:
    """A run time; None for what is none."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= LONGEST_DELAY else None


def _moment(text: str) -> datetime | None:
    """A time, without a zone in the current one; None for what is none."""
    try:
        moment = parse_datetime(text)
        if moment is not None and moment.tzinfo is None:
            moment = timezone.make_aware(moment, timezone.get_current_timezone())
        moment = moment.astimezone(UTC) if moment is not None else None
        # One of the first or the last year may have none in another zone.
        return moment if moment is not None and datetime.min.year < moment.year < datetime.max.year else None
    except (ValueError, OverflowError):
        return None


def in_words(given: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """The filters in the order of `NAMES`, for logs."""
    return [(name, given[name]) for name in NAMES if name in given]
