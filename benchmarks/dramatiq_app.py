"""The job as an actor of dramatiq, and the settings that suit it best."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks import work
from benchmarks.settings import redis_url

broker = RedisBroker(url=redis_url())
dramatiq.set_broker(broker)


@dramatiq.actor
def mark(number: int, seconds: float = 0.0) -> None:
    """Note the start of job `number`. Results are ignored, its default."""
    work.mark(number, seconds)
