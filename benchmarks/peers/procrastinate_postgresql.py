"""procrastinate on PostgreSQL, two workers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import connections

from benchmarks import databases
from benchmarks.peers.base import CHILDREN, PYTHON, Peer
from benchmarks.procrastinate_app import app, mark


class Procrastinate(Peer):
    """It keeps the row of a job that has ended, and no result."""

    results: ClassVar[bool] = False

    def prepare(self) -> None:
        databases.create()
        app.open()
        app.schema_manager.apply_schema()

    def worker_command(self) -> list[str]:
        worker = shlex.join([PYTHON, "-m", "procrastinate", "--app", "benchmarks.procrastinate_app.app", "worker"])
        # One process each; it has no command for several. They end together.
        return ["sh", "-c", f"trap 'kill 0' TERM; {f'{worker} & ' * CHILDREN} wait"]

    def send(self, number: int, seconds: float = 0.0) -> Any:
        return mark.defer(number=number, seconds=seconds)

    def send_many(self, numbers: Sequence[int], seconds: float = 0.0) -> None:
        for at in range(0, len(numbers), 1000):
            mark.batch_defer(*({"number": number, "seconds": seconds} for number in numbers[at : at + 1000]))

    def settled(self) -> int:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
            return int(cursor.fetchone()[0])

    def durability(self) -> str:
        return databases.durability()

    def clean_up(self) -> None:
        app.close()
        databases.drop()


PEER = Procrastinate
