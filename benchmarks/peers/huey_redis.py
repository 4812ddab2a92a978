"""huey with Redis as broker and result store, two worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.huey_app import mark
from benchmarks.peers.base import CHILDREN, PYTHON
from benchmarks.peers.celery_redis import CeleryRedis


class Huey(CeleryRedis):
    """A result stays in Redis until it is read. A job is lost if its process dies."""

    results = True

    def worker_command(self) -> list[str]:
        return [
            *(PYTHON, "-m", "huey.bin.huey_consumer", "benchmarks.huey_app.huey"),
            *("--workers", str(CHILDREN), "--worker-type", "process", "--quiet", "--graceful-signal", "TERM"),
        ]

    def send(self, number: int, seconds: float = 0.0) -> Any:
        return mark(number, seconds)

    def send_many(self, numbers: Sequence[int], seconds: float = 0.0) -> None:
        for number in numbers:
            mark(number, seconds)

    def result(self, handle: Any) -> Any:
        return handle.get(blocking=True, timeout=10)


PEER = Huey
