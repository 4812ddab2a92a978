"""dramatiq with Redis as broker, two processes of one thread; results are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks.dramatiq_app import mark
from benchmarks.peers.base import CHILDREN, PYTHON
from benchmarks.peers.celery_redis import CeleryRedis


class Dramatiq(CeleryRedis):
    """A job is acknowledged after its run, and comes again a minute after its process has died."""

    results: ClassVar[bool] = False

    def worker_command(self) -> list[str]:
        size = ["--processes", str(CHILDREN), "--threads", "1"]
        return [PYTHON, "-m", "dramatiq", "benchmarks.dramatiq_app", *size, "--skip-logging"]

    def send(self, number: int, seconds: float = 0.0) -> Any:
        return mark.send(number, seconds)

    def send_many(self, numbers: Sequence[int], seconds: float = 0.0) -> None:
        for number in numbers:
            mark.send(number, seconds)


PEER = Dramatiq
