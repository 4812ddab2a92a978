"""What a keeper asks of the table of workers again and again, with work or without: the ORM costs more than that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks.models.fields import as_parameter
from djtasks.models.statements.common import CLOCKS, sql


def beats(connection: BaseDatabaseWrapper) -> dict[str, int]:
    """How often each worker has beaten that is neither stopped nor lost."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, beat FROM djtasks_worker WHERE stopped_at IS NULL AND lost_at IS NULL")
        return dict(cursor.fetchall())


def beat(connection: BaseDatabaseWrapper, workers: Sequence[str]) -> int:
    """Let those of `workers` beat, once, that are neither stopped nor lost. Returns how many."""
    clock, moment = CLOCKS.get(connection.vendor, "%s"), list[Any]()
    if connection.vendor not in CLOCKS:
        moment = [as_parameter(datetime.now(UTC), connection)]
    places = ", ".join(["%s"] * len(workers))
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE djtasks_worker SET beat = beat + 1, beat_at = {clock} "  # noqa: S608
            f"WHERE id IN ({places}) AND stopped_at IS NULL AND lost_at IS NULL",
            [*moment, *workers],
        )
        return int(cursor.rowcount)


def tell_of_worker(
    connection: BaseDatabaseWrapper,
    worker: str,
    *,
    processed: int,
    failed: int,
    woke_at: datetime | None,
    beat_at: datetime | None,
) -> None:
    """Note of a worker how many jobs it has run, how many failed, and when its beat looked for due schedules.

    `beat_at`: when it has beaten, if that is not noted otherwise.
    """
    moments = [as_parameter(each, connection) for each in (woke_at, beat_at)]
    with connection.cursor() as cursor:
        has_beaten = int(beat_at is not None)
        cursor.execute(sql(connection.vendor, "tell_of_worker"), [processed, failed, *moments, has_beaten, worker])
