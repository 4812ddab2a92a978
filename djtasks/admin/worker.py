"""Workers in the admin, to be looked at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djtasks.admin.job import ReadOnlyAdmin
from djtasks.admin.presentation import age, exact_and_age, pill
from djtasks.models import Worker


class LookOnlyAdmin(ReadOnlyAdmin):
    """Nothing is deleted by hand either."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def jobs_link(self, parameter: str, value: str) -> SafeString:
        """A link to the jobs that have `value`."""
        address = reverse("admin:djtasks_job_changelist", current_app=self.admin_site.name)
        return format_html('<a href="{}?{}">{}</a>', address, urlencode({parameter: value}), _("Jobs"))


class WorkerAdmin(LookOnlyAdmin):
    list_display = (
        "hostname",
        "status",
        "pid",
        "served",
        "shown_pool",
        "processed",
        "failed",
        "up_since",
        "last_beat",
        "jobs",
    )
    list_per_page = 50
    sortable_by = ()
    ordering = ("-started_at", "id")
    fields = (
        "hostname",
        "status",
        "id",
        "pid",
        "version",
        "served",
        "shown_pool",
        "processed",
        "failed",
        "up_since_exactly",
        "last_beat_exactly",
        "jobs",
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("status", "served", "shown_pool", "up_since_exactly", "last_beat_exactly", "jobs")

    @admin.display(description=gettext_lazy("status"))
    def status(self, worker: Worker) -> SafeString:
        if worker.lost_at:
            return pill(_("lost"), "failure")
        return pill(_("stopped"), "cancelled") if worker.stopped_at else pill(_("live"), "success")

    @admin.display(description=gettext_lazy("queues"))
    def served(self, worker: Worker) -> str:
        if named := worker.named_queues():
            return ", ".join(named)
        if excluded := worker.excluded_queues():
            return _("all but %(queues)s") % {"queues": ", ".join(excluded)}
        return _("all")

    @admin.display(description=gettext_lazy("pool"))
    def shown_pool(self, worker: Worker) -> str:
        return f"{worker.pool} × {worker.concurrency}"

    @admin.display(description=gettext_lazy("started"))
    def up_since(self, worker: Worker) -> str:
        return age(worker.started_at)

    @admin.display(description=gettext_lazy("last beat"))
    def last_beat(self, worker: Worker) -> str:
        return age(worker.beat_at)

    @admin.display(description=gettext_lazy("started"))
    def up_since_exactly(self, worker: Worker) -> str:
        return exact_and_age(worker.started_at)

    @admin.display(description=gettext_lazy("last beat"))
    def last_beat_exactly(self, worker: Worker) -> str:
        return exact_and_age(worker.beat_at)

    @admin.display(description=gettext_lazy("jobs"))
    def jobs(self, worker: Worker) -> SafeString:
        return self.jobs_link("worker", worker.pk)
