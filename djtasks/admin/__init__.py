"""The app in the Django admin: on the default site by itself, on any other by `register`."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.admin import AdminSite

from djtasks.admin.job import JobAdmin
from djtasks.admin.limit import LimitAdmin
from djtasks.admin.periodic_task import PeriodicTaskAdmin
from djtasks.admin.queue import QueueAdmin
from djtasks.admin.task import TaskAdmin
from djtasks.admin.worker import WorkerAdmin
from djtasks.models import Job, Limit, PeriodicTask, Queue, Task, Worker

__all__ = ["JobAdmin", "LimitAdmin", "PeriodicTaskAdmin", "QueueAdmin", "TaskAdmin", "WorkerAdmin", "register"]

_ADMINS = {
    Job: JobAdmin,
    Limit: LimitAdmin,
    PeriodicTask: PeriodicTaskAdmin,
    Queue: QueueAdmin,
    Task: TaskAdmin,
    Worker: WorkerAdmin,
}


def register(site: AdminSite) -> None:
    """Show all that there is to see on `site`; a model that is there already stays as it is."""
    for model, model_admin in _ADMINS.items():
        if not site.is_registered(model):
            site.register(model, model_admin)


register(admin.site)
