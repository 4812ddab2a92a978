"""Times that mean the same under USE_TZ=True and False."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone


class UTCDateTimeField(models.DateTimeField):  # type: ignore[type-arg]  # no generic at run time
    """A DateTimeField that is always aware in Python and always UTC in the database.

    Django stores local time under USE_TZ=False, which is ambiguous for an hour a year and differs
    from what the hot statements compare with. A naive value is local time under USE_TZ=False.
    """

    def get_prep_value(self, value: Any) -> Any:
        moment = self.to_python(value)
        return aware(moment) if isinstance(moment, datetime) else moment

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        if not prepared:
            value = self.get_prep_value(value)
        return as_parameter(value, connection) if isinstance(value, datetime) else value

    def from_db_value(self, value: Any, expression: object, connection: BaseDatabaseWrapper) -> datetime | None:
        return as_utc(value, connection)

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Any]:
        return [self.from_db_value]

    def deconstruct(self) -> Any:
        name, _path, args, kwargs = super().deconstruct()
        return name, "djtasks.models.fields.UTCDateTimeField", args, kwargs


def utc_now() -> datetime:
    """This machine's time, aware."""
    return datetime.now(UTC)


def aware(moment: datetime) -> datetime:
    """`moment` with a zone. Raises ValueError for a naive one under USE_TZ=True, or one that UTC has no year for."""
    if timezone.is_aware(moment):
        try:
            moment.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{moment} lies before the year 1 or after 9999 in UTC.") from None
        return moment
    if settings.USE_TZ:
        raise ValueError(
            f"{moment!r} is naive, and USE_TZ is True: pass an aware time, e.g. django.utils.timezone.now()."
        )
    return timezone.make_aware(moment, timezone.get_default_timezone())


def as_parameter(moment: datetime | None, connection: BaseDatabaseWrapper) -> Any:
    """`moment` (aware) as a statement's parameter: what the column of this vendor holds, in UTC."""
    if moment is None:
        return None
    utc = moment.astimezone(UTC)
    return utc if connection.vendor == "postgresql" else str(utc.replace(tzinfo=None))


def as_utc(value: Any, connection: BaseDatabaseWrapper) -> datetime | None:
    """What a driver gave for a time column, as aware UTC."""
    if value is None:
        return None
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if connection.vendor != "postgresql":
        return moment.replace(tzinfo=UTC)  # whatever zone the backend took it for, we stored UTC
    if moment.tzinfo is None:  # under USE_TZ=False it answers in the connection's zone without naming it
        moment = timezone.make_aware(moment, connection.timezone or timezone.get_default_timezone())
    return moment.astimezone(UTC)
