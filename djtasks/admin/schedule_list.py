"""The filters of the list of schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from djtasks.admin.listing import MOST_CHOICES, ChoiceFilter
from djtasks.admin.presentation import breakable
from djtasks.admin.schedule_presentation import STATUSES
from djtasks.models import PeriodicTask

_SOUND: Final = Q(problem=None)
_IN_USE: Final = _SOUND & Q(gone=False, enabled=True)
BY_STATUS: Final = {  # what `PeriodicTask.status` says of one row, of many
    "broken": ~_SOUND,
    "gone": _SOUND & Q(gone=True),
    "disabled": _SOUND & Q(gone=False, enabled=False),
    "live": _IN_USE & Q(next_run_at__isnull=False),
    "ended": _IN_USE & Q(next_run_at=None),
}
LOOKUPS: Final = frozenset({"status", "source", "task"})


class StatusFilter(ChoiceFilter):
    title = _("status")
    parameter_name = "status"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return [(status, word) for status, (word, _look) in STATUSES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        return queryset.filter(BY_STATUS[value]) if value in BY_STATUS else queryset.none()


class SourceFilter(ChoiceFilter):
    title = _("source")
    parameter_name = "source"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        return PeriodicTask.Source.choices


class ScheduledTaskFilter(ChoiceFilter):
    """The tasks that have schedules."""

    title = _("task")
    parameter_name = "task"

    def choices_now(self) -> Iterable[tuple[str, Any]]:
        names = PeriodicTask.objects.order_by("task").values_list("task", flat=True).distinct()
        return [(name, breakable(name)) for name in names[:MOST_CHOICES]]
