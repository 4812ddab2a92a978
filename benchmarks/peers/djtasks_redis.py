"""djtasks with the queues in Redis and the results in the session's database."""

from __future__ import annotations

from contextlib import closing

import redis

from benchmarks import databases
from benchmarks.peers.celery_redis import durability_of_redis, flush, is_ours
from benchmarks.peers.djtasks_database import Djtasks
from benchmarks.settings import redis_url
from djtasks.brokers import get_broker


class DjtasksRedis(Djtasks):
    """A job leaves Redis when its result is committed to the database."""

    def prepare(self) -> None:
        super().prepare()
        flush()
        get_broker().remember()  # or every claim would look for rows: nothing was forgotten, it is new

    def durability(self) -> str:
        return f"{databases.durability()}; {durability_of_redis()}"

    def clean_up(self) -> None:
        with closing(redis.Redis.from_url(redis_url())) as client:
            if is_ours(client):
                client.flushdb(asynchronous=True)  # some millions of keys take longer than a client waits
        super().clean_up()


PEER = DjtasksRedis
