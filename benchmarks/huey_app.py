"""The job as a task of huey, and the settings that suit it best."""

from huey import RedisHuey

from benchmarks import work
from benchmarks.settings import redis_url

huey = RedisHuey("djtasks-bench", url=redis_url())


@huey.task()
def mark(number: int, seconds: float = 0.0) -> int:
    """Note the start of job `number`."""
    return work.mark(number, seconds)
