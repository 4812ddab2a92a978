"""The manager of the app's models."""

from __future__ import annotations

from typing import TypeVar

from django.db import models

from djtasks.conf import settings

Row = TypeVar("Row", bound=models.Model)


class AppManager(models.Manager[Row]):
    """Queries go to DJTASKS["DATABASE"], never to a router's choice: a replica may not have heard of a job's end."""

    def get_queryset(self) -> models.QuerySet[Row]:
        return super().get_queryset().using(self._db or settings.DATABASE)
