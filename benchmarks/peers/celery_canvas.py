"""Celery with Redis as broker and as result backend: where its chords count down in Redis itself, its fastest way."""

from __future__ import annotations

from typing import Any, ClassVar

from celery import chain, chord

from benchmarks.celery_app import count, increment, noop
from benchmarks.peers.celery_redis import CeleryRedis


class CeleryCanvas(CeleryRedis):
    """Results are in Redis for a day."""

    results: ClassVar[bool] = True
    composes: ClassVar[bool] = True

    def result(self, handle: Any) -> Any:
        return handle.get(timeout=10)

    def chord(self, members: int) -> int:
        return int(chord((noop.s(number) for number in range(members)), count.s())().get(timeout=60))

    def chain(self, steps: int) -> int:
        return int(chain(increment.s(0), *(increment.s() for _ in range(steps - 1)))().get(timeout=60))


PEER = CeleryCanvas
