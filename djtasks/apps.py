"""The Django app."""

from __future__ import annotations

import os
import sys

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DjtasksConfig(AppConfig):
    name = "djtasks"
    verbose_name = _("Background jobs")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Find the tasks of all installed apps, so that callers and workers know the same ones."""
        from djtasks import builtin, checks, conf, mail, registry, store_checks  # noqa: F401 - models may load only now
        from djtasks.worker import beside_runserver

        if not conf.is_readable():
            return  # the check djtasks.E001 says so, which a traceback from here would keep from being seen
        if sys.argv[1:3] != ["djtasks", "health"]:  # asked every few seconds, and of no task
            registry.autodiscover()
        if beside_runserver.is_wanted(sys.argv, dict(os.environ)):
            beside_runserver.start()
