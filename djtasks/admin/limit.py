"""Limits in the admin: how often jobs of each task begin, how many run at a time, and how many wait for that."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djtasks import control, restraint
from djtasks.admin.app_admin import AppAdmin
from djtasks.admin.presentation import NOTHING, age, pill
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Limit
from djtasks.rates import checked_rate

_seen: ContextVar[Mapping[str, restraint.Standing]] = ContextVar("djtasks_limits", default=MappingProxyType({}))


class LimitForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """The rate that an operator sets."""

    class Meta:
        model = Limit
        fields = ("key", "rate")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "rate" in self.fields:
            self.fields["rate"].help_text = _(
                "Such as 10/s, 10/m or 10/h, over all workers: 10/m is one in six seconds. “none” is no limit; empty "
                "is what the code says. Workers heed it within seconds; what waits for its turn is called back."
            )
        if "key" in self.fields:
            self.fields["key"].label = _("Task")
            self.fields["key"].help_text = _("Its full name, such as shop.tasks.sync.")

    def clean_rate(self) -> str:
        try:
            return checked_rate(self.cleaned_data["rate"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def clean_key(self) -> str:
        task: str = self.cleaned_data["key"]
        try:
            control.check_task(task)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        return task


class LimitAdmin(AppAdmin):
    form = LimitForm
    list_display = ("key", "shown_rate", "shown_declared", "at_a_time", "waiting", "running", "shown_last_slot")
    list_per_page = 50
    sortable_by = ()
    ordering = ("key",)
    search_fields = ("key",)
    search_help_text = gettext_lazy("A task, or a part of its name")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Limit | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Limit]:
        """Tasks that are limited, or were."""
        return super().get_queryset(request).filter(is_task=True)

    def get_fields(self, request: HttpRequest, obj: Limit | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("key", "rate")
        return ("key", "rate", "shown_declared", "at_a_time", "waiting", "running", "shown_last_slot")

    def get_readonly_fields(self, request: HttpRequest, obj: Limit | None = None) -> tuple[str, ...]:
        return () if obj is None else ("key", "shown_declared", "at_a_time", "waiting", "running", "shown_last_slot")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        self._look(request)
        return super().changelist_view(request, {"title": _("Limits on tasks"), **(extra_context or {})})

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        self._look(request)
        return super().changeform_view(request, *args, **kwargs)

    def _look(self, request: HttpRequest) -> None:
        """See how the limits stand, once for the whole page."""
        found: dict[str, restraint.Standing] = {}
        try:
            for each in restraint.standings(get_broker()):
                task = restraint.task_of(each.key)
                found[task] = each if task not in found else found[task].with_key(each)
        except BrokerUnavailable as error:
            self.message_user(request, str(error), messages.ERROR)
        _seen.set(found)

    def _standing(self, row: Limit) -> restraint.Standing:
        return _seen.get().get(row.key) or restraint.Standing(key=row.key)

    @admin.display(description=gettext_lazy("rate"))
    def shown_rate(self, row: Limit) -> SafeString | str:
        if not row.rate:
            return row.declared or NOTHING
        return pill(row.rate, "retry")

    @admin.display(description=gettext_lazy("in the code"))
    def shown_declared(self, row: Limit) -> str:
        return row.declared or NOTHING

    @admin.display(description=gettext_lazy("at a time"))
    def at_a_time(self, row: Limit) -> str:
        return NOTHING if row.max_concurrency is None else str(row.max_concurrency)

    @admin.display(description=gettext_lazy("waiting"))
    def waiting(self, row: Limit) -> int:
        return self._standing(row).waiting

    @admin.display(description=gettext_lazy("running"))
    def running(self, row: Limit) -> int | str:
        return NOTHING if row.max_concurrency is None else self._standing(row).running

    @admin.display(description=gettext_lazy("last slot"))
    def shown_last_slot(self, row: Limit) -> SafeString | str:
        return age(self._standing(row).last_slot)

    def save_model(self, request: HttpRequest, obj: Limit, form: Any, change: bool) -> None:
        control.set_rate(obj.key, obj.rate or None)
