"""djtasks with the queues in Redis and `ignore_result`: a plain job leaves no row."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.peers.djtasks_redis import DjtasksRedis


class DjtasksIgnored(DjtasksRedis):
    """What has succeeded is acknowledged, and that is all."""

    results: ClassVar[bool] = False
    composes: ClassVar[bool] = False
    schedules: ClassVar[bool] = False
    limits: ClassVar[bool] = False
    steps: ClassVar[bool] = False

    def settled(self) -> None:
        return None


PEER = DjtasksIgnored
