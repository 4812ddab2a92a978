"""Celery with Redis as broker, pool prefork; results are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, ClassVar

import redis

from benchmarks import databases
from benchmarks.celery_app import app, mark
from benchmarks.peers.base import CHILDREN, PYTHON, Peer
from benchmarks.settings import redis_url

MARKER = "djtasks-bench"  # a key that says: what is in this database is ours


class CeleryRedis(Peer):
    """Fire and forget: a job leaves nothing behind, and is lost if its process dies (`acks_late` is off)."""

    results: ClassVar[bool] = False

    def prepare(self) -> None:
        databases.create()
        flush()

    def worker_command(self) -> list[str]:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        return [
            *(PYTHON, "-m", "celery", "--app", "benchmarks.celery_app", "worker"),
            *("--pool", "prefork", "--concurrency", str(CHILDREN), *quiet),
        ]

    def send(self, number: int, seconds: float = 0.0) -> Any:
        return mark.delay(number, seconds)

    def send_many(self, numbers: Sequence[int], seconds: float = 0.0) -> None:
        # A group does the same, and builds a signature for each job besides.
        with app.producer_or_acquire() as producer:
            for number in numbers:
                mark.apply_async((number, seconds), producer=producer)

    def durability(self) -> str:
        return durability_of_redis()

    def clean_up(self) -> None:
        with closing(redis.Redis.from_url(redis_url())) as client:
            if is_ours(client):
                client.flushdb()
        databases.drop()


def durability_of_redis() -> str:
    """The server's setting that decides what a crash of it costs."""
    with closing(redis.Redis.from_url(redis_url())) as client:
        return f"Redis: appendonly={client.config_get('appendonly').get('appendonly', 'unknown')}"


def is_ours(client: redis.Redis) -> bool:
    """Whether the database holds what a run of ours has left."""
    return bool(client.exists(MARKER))


def flush() -> None:
    """Empty the database of the benchmarks. Raises RuntimeError if it holds keys of somebody else."""
    with closing(redis.Redis.from_url(redis_url())) as client:
        if client.dbsize() and not is_ours(client):
            raise RuntimeError(f"{redis_url()} holds keys of somebody else; the benchmarks want it empty")
        client.flushdb()
        client.set(MARKER, "1")


PEER = CeleryRedis
