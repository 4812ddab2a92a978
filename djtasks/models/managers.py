"""The managers of the app's models: which database is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

from django.db import models, router

from djtasks.conf import settings

Row = TypeVar("Row", bound=models.Model)

_shown_from: Final[ContextVar[str | None]] = ContextVar("djtasks_shown_from", default=None)


class AppManager(models.Manager[Row]):
    """Queries go to DJTASKS["DATABASE"], never to a router's choice: a replica may not have heard of a job's end."""

    def get_queryset(self) -> models.QuerySet[Row]:
        return super().get_queryset().using(self._db or settings.DATABASE)


class HistoryManager(AppManager[Row]):
    """Of the many rows, which pages that only show them may read from a replica (`showing`)."""

    def get_queryset(self) -> models.QuerySet[Row]:
        return super().get_queryset().using(self._db or history_alias())


def history_alias() -> str:
    """Where rows are read now, of which there are many: DJTASKS["DATABASE"], but within `showing`."""
    return _shown_from.get() or settings.DATABASE


@contextmanager
def showing(model: type[models.Model]) -> Iterator[None]:
    """Within the block, in which nothing is decided, rows are read where DATABASE_ROUTERS let `model` be read.

    Routers that have it written elsewhere than in DJTASKS["DATABASE"] do not know where it is, and are not followed.
    One answer counts for the whole block: several replicas could not be asked in one query.
    """
    is_known = router.db_for_write(model) == settings.DATABASE
    token = _shown_from.set(router.db_for_read(model) if is_known else None)
    try:
        yield
    finally:
        _shown_from.reset(token)
