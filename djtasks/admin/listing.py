"""The list of jobs: its filters and its pages, made so that it answers on millions of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from djtasks import registry, selection
from djtasks.admin.presentation import breakable
from djtasks.conf import settings
from djtasks.models import Job, Queue, Worker
from djtasks.selection import Selection, Window, starts_with

__all__ = ["JobChangeList", "starts_with", "worker_names"]

RECENT: Final = 1_000  # newest jobs that are looked at for names of queues
MOST_CHOICES: Final = 100  # of one filter
NOT_LISTED: Final = (
    "args",
    "kwargs",
    "result",
    "exception_message",
    "exception_args",
    "traceback",
    "attempts",
    "meta",
    "headers",
    "options",
)
# Any other lookup would let people search what they may not see, or the whole table.
LOOKUPS: Final = frozenset(selection.NAMES) - {"q"}
OLDER: Final = "before"  # in addresses: the jobs after this one, as they are listed
NEWER: Final = "after"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of the list begins or ends: at a job, of which the order's column and the id are given."""

    moment: datetime | None
    pk: str

    @classmethod
    def of(cls, job: Job, window: Window) -> Place:
        return cls(None if window.order == "id" else getattr(job, window.order), job.pk)

    @classmethod
    def read(cls, text: str, window: Window) -> Place | None:
        """What `str` of a place has written; None for anything else."""
        text = text.replace("\x00", "")  # which PostgreSQL refuses
        if window.order == "id":
            return cls(None, text) if text else None
        written, _space, pk = text.partition(" ")
        try:
            moment = datetime.fromisoformat(written)
            return cls(moment.astimezone(UTC), pk) if moment.tzinfo else None
        except (ValueError, OverflowError):  # it has no year in UTC
            return None

    @property
    def key(self) -> tuple[Any, str]:
        """What it is ordered by."""
        return (self.pk, self.pk) if self.moment is None else (self.moment, self.pk)

    def __str__(self) -> str:
        return self.pk if self.moment is None else f"{self.moment.isoformat()} {self.pk}"

    def condition(self, window: Window, side: str) -> Q:
        """Jobs on one side of it: "lt" or "gt"."""
        if self.moment is None:
            return Q(**{f"id__{side}": self.pk})
        column = window.order
        beside = Q(**{f"{column}__{side}": self.moment}) | Q(**{column: self.moment, f"id__{side}": self.pk})
        return Q(**{f"{column}__{side}e": self.moment}) & beside  # the first for the index


class JobChangeList(ChangeList):
    """Jobs without their big texts, and with the names of their workers; a page begins where another has ended."""

    selection: Selection
    window: Window

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        for name in (OLDER, NEWER):  # of links and filters they are no part, as the number of a page is not
            self.params.pop(name, None)
            self.filter_params.pop(name, None)
        found = super().get_queryset(request, exclude_parameters)
        self.selection = selection_of(request)
        self.window = self.selection.window()
        matching = self.selection.matching(found, leads=self.window.leads)  # type: ignore[arg-type]
        return self.window.of(matching).order_by(*self.window.ordering).defer(*NOT_LISTED)

    def get_results(self, request: HttpRequest) -> None:
        self.older = self.newer = ""
        if self.window.is_sought:
            self.result_list = self._sought(request.GET)
        else:
            self.counts = self.selection.counts()
            self.result_list = self._page(request.GET)
            self.result_count = len(self.result_list)
            if self.older or self.newer:
                self.result_count = self.queryset.order_by()[: selection.MOST_COUNTED].count()
        # The number stands below the list, where it can be "10,000+".
        self.full_result_count, self.show_full_result_count = self.result_count, False
        self.show_admin_actions, self.can_show_all, self.multi_page = True, False, False
        names = worker_names(job.worker for job in self.result_list)
        for job in self.result_list:
            job.worker_name = names.get(job.worker, job.worker)

    @property
    def shown_count(self) -> str:
        """How many match; '10,000+' if there may be more."""
        return selection.shown(self.result_count, is_cut=self.window.is_cut)

    def _sought(self, given: Mapping[str, str]) -> list[Job]:
        """The page that is asked for, where jobs are looked through: once, for page and counts alike."""
        columns = self.queryset.values_list(self.window.order, "pk", "state")
        found = list(columns[: selection.MOST_COUNTED])
        self.result_count = len(found)
        self.counts = self._counts_of([state for _order, _pk, state in found])
        size, places = self.list_per_page, [(order, pk) for order, pk, _state in found]
        before, after = (Place.read(given.get(name, ""), self.window) for name in (OLDER, NEWER))
        start = 0
        if after:
            start = max(0, sum(place > after.key for place in places) - size)
        elif before:
            start = sum(place >= before.key for place in places)
        ids = [pk for _order, pk in places[start : start + size]]
        rows = {job.pk: job for job in self.queryset.model._default_manager.filter(pk__in=ids).defer(*NOT_LISTED)}
        jobs = [rows[pk] for pk in ids if pk in rows]
        self._link(jobs, is_first=start == 0, is_last=start + size >= len(places))
        return jobs

    def _counts_of(self, found: list[str]) -> dict[str, str]:
        """For each state the number to show; where it takes long, only for that which is asked for."""
        state = self.selection.given.get("state")
        if state and "q" not in self.selection.given and not self.window.is_cut:
            return self.selection.counts()
        counts = selection.tally(found, self.window)
        return {state: counts[state]} if state in counts else counts

    def _page(self, given: Mapping[str, str]) -> list[Job]:
        """The page that is asked for, where an index gives it."""
        size = self.list_per_page
        if after := Place.read(given.get(NEWER, ""), self.window):
            jobs = list(self.queryset.filter(after.condition(self.window, "gt")).reverse()[: size + 1])
            if len(jobs) >= size:
                shown = jobs[:size][::-1]
                self._link(shown, is_first=len(jobs) == size, is_last=False)
                return shown
        before = None if after else Place.read(given.get(OLDER, ""), self.window)
        rest = self.queryset.filter(before.condition(self.window, "lt")) if before else self.queryset
        jobs = list(rest[: size + 1])
        self._link(jobs[:size], is_first=before is None, is_last=len(jobs) <= size)
        return jobs[:size]

    def _link(self, jobs: list[Job], *, is_first: bool, is_last: bool) -> None:
        if jobs and not is_last:
            self.older = self.get_query_string({OLDER: str(Place.of(jobs[-1], self.window))})
        if not is_first:
            newer = {NEWER: str(Place.of(jobs[0], self.window))} if jobs else {}
            self.newer = self.get_query_string(newer)


def selection_of(request: HttpRequest) -> Selection:
    """The filters in the address."""
    return Selection.read(request.GET, reads_arguments=request.user.has_perm("djtasks.view_job_arguments"))


def worker_names(owners: Iterable[str]) -> dict[str, str]:
    """The names of the workers by what stands in `Job.worker`, for those that are known."""
    ids = {owner: owner.partition(".")[0] for owner in owners if owner}
    hostnames = dict(Worker.objects.filter(pk__in=set(ids.values())).values_list("pk", "hostname")) if ids else {}
    return {owner: hostnames[boot_id] for owner, boot_id in ids.items() if boot_id in hostnames}


class ChoiceFilter(admin.SimpleListFilter):
    """One of some names; a name that is asked for is offered, whether or not it was found."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        choices = dict(self.choices_now())
        asked = self.used_parameters.get(str(self.parameter_name))
        if asked and asked not in choices:
            choices[asked] = asked
        return list(choices.items())

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class JobFilter(ChoiceFilter):
    """A filter of jobs: what it matches is for `Selection` to say."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset


class StateFilter(JobFilter):
    """Each state with the number of jobs in it that match all other filters."""

    title = _("state")
    parameter_name = "state"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return [(state, state) for state in selection.STATES]

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice, (state, _title) in zip(super().choices(changelist), [("", ""), *self.lookup_choices], strict=True):
            if state in changelist.counts:
                count = changelist.counts[state]
                shown = format_html('{} <span class="djtasks-count">{}</span>', choice["display"], count)
                choice = {**choice, "display": shown}
            yield choice


class TaskFilter(JobFilter):
    title = _("task")
    parameter_name = "task"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return [(name, breakable(name)) for name in registry.names()]


class QueueFilter(JobFilter):
    """The queues that are set, that tasks name, or that recent jobs stood in."""

    title = _("queue")
    parameter_name = "queue"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        names = set(Job.objects.order_by("-id").values_list("queue", flat=True)[:RECENT])
        names.update(Queue.objects.values_list("name", flat=True)[:MOST_CHOICES])
        names.update(task.queue for task in registry.all_tasks() if task.queue)
        names.add(settings.TASK_DEFAULT_QUEUE)
        return [(name, name) for name in sorted(names)[:MOST_CHOICES]]


class WorkerFilter(JobFilter):
    """The workers that were started last."""

    title = _("worker")
    parameter_name = "worker"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        newest = Worker.objects.order_by("-started_at")[:MOST_CHOICES]
        return [(worker.pk, f"{worker.hostname} · {worker.pid}") for worker in newest]


class _AskedFilter(JobFilter):
    """What only links lead to: it is offered where it is asked for, so that it can be seen and taken back."""

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return ()


class GroupFilter(_AskedFilter):
    title = _("group")
    parameter_name = "group_id"


class ParentFilter(_AskedFilter):
    title = _("parent")
    parameter_name = "parent_id"


class RootFilter(_AskedFilter):
    """The jobs of a workflow, the one that it began with among them."""

    title = _("workflow")
    parameter_name = "root_id"


class ScheduleFilter(_AskedFilter):
    """The runs of one schedule."""

    title = _("schedule")
    parameter_name = "periodic_task"


class EnqueuedFilter(JobFilter):
    """Jobs of the last hour, day, …"""

    title = _("enqueued")
    parameter_name = "enqueued"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        return [
            ("1h", _("In the last hour")),
            ("24h", _("In the last 24 hours")),
            ("7d", _("In the last 7 days")),
            ("30d", _("In the last 30 days")),
        ]


class TypedFilter(admin.ListFilter):
    """What is typed into a small form, of one field or several: its `parameters`."""

    parameters: tuple[str, ...] = ()

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        given = {name: params.pop(name)[-1] for name in self.parameters if name in params}
        self.given = Selection.read(given).given

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(self.parameters)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset

    def form(self, changelist: Any) -> dict[str, Any]:
        """What the template needs: the rest of the address as hidden fields, and the address without this filter."""
        rest = [(name, value) for name, value in changelist.params.items() if name not in self.parameters]
        return {"rest": rest, "values": self.values(), "reset": changelist.get_query_string(remove=[*self.parameters])}

    def values(self) -> dict[str, str]:
        """What stands in its fields."""
        return {name: self.given.get(name, "") for name in self.parameters}


class EndedFilter(TypedFilter):
    """When jobs have ended, from and to."""

    title = _("end")
    template = "admin/djtasks/job/_ended_filter.html"
    parameters = selection.ENDED

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {**self.form(changelist), "selected": bool(self.given), "zone": timezone.get_current_timezone_name()}

    def values(self) -> dict[str, str]:
        shown = {}
        for name, value in super().values().items():
            moment = timezone.localtime(datetime.fromisoformat(value)) if value else None
            shown[name] = moment.strftime("%Y-%m-%dT%H:%M") if moment else ""
        return shown


class LongerFilter(TypedFilter):
    """Jobs that ran, or have been running, longer than so many seconds."""

    title = _("run time")
    template = "admin/djtasks/job/_longer_filter.html"
    parameters = ("longer",)
    presets = (("1", _("Over 1 s")), ("10", _("Over 10 s")), ("60", _("Over 1 min")), ("600", _("Over 10 min")))

    def choices(self, changelist: Any) -> Iterator[Any]:
        asked, form = self.given.get("longer", ""), self.form(changelist)
        yield {"query_string": form["reset"], "display": _("All"), "selected": not asked, **form}
        for value, label in self.presets:
            link = changelist.get_query_string({"longer": value})
            yield {"query_string": link, "display": label, "selected": asked == value}


LABELS: Final[Mapping[str, Any]] = {
    **{
        str(each.parameter_name): each.title
        for each in (StateFilter, TaskFilter, QueueFilter, WorkerFilter, GroupFilter, ParentFilter, RootFilter)
    },
    str(ScheduleFilter.parameter_name): ScheduleFilter.title,
    str(EnqueuedFilter.parameter_name): EnqueuedFilter.title,
    "ended_from": _("ended from"),
    "ended_to": _("ended until"),
    "longer": _("run time over (seconds)"),
    "q": _("search"),
}
