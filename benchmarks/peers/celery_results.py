"""Celery with Redis as broker and the results in the site's database, by django-celery-results."""

from __future__ import annotations

from typing import Any, ClassVar

from django_celery_results.models import TaskResult

from benchmarks import databases
from benchmarks.peers.celery_redis import CeleryRedis


class CeleryResults(CeleryRedis):
    """Each result is stored, in a transaction of its own; the connection is reused."""

    results: ClassVar[bool] = True

    def result(self, handle: Any) -> Any:
        return handle.get(timeout=10, interval=0.0005)  # the default looks twice a second

    def durability(self) -> str:
        return f"{super().durability()}; results: {databases.durability()}"

    def settled(self) -> int:
        return TaskResult.objects.filter(status="SUCCESS").count()


PEER = CeleryResults
