"""The job as a task of Celery, and the settings that suit it best."""

import os

from celery import Celery

from benchmarks import work
from benchmarks.settings import redis_url

RESULTS = os.environ.get("DJTASKS_BENCH_RESULTS")  # a result backend; nothing: results are ignored
if RESULTS == "redis":
    RESULTS = redis_url()

app = Celery("benchmarks")
app.conf.update(
    broker_url=redis_url(),
    result_backend=RESULTS,
    task_ignore_result=not RESULTS,
    broker_connection_retry_on_startup=True,
    # Without it, each job opens a database connection of its own for its result.
    CELERY_DB_REUSE_MAX=1_000_000,
)


@app.task(name="benchmarks.mark")
def mark(number: int, seconds: float = 0.0) -> int:
    """Note the start of job `number`."""
    return work.mark(number, seconds)


@app.task(name="benchmarks.noop")
def noop(number: int) -> int:
    return number


@app.task(name="benchmarks.count")
def count(results: list[int]) -> int:
    """The body of a chord."""
    return len(results)


@app.task(name="benchmarks.increment")
def increment(number: int) -> int:
    """A step of a chain."""
    return number + 1
