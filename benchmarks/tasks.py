"""The job as a task of djtasks."""

from benchmarks import work
from djtasks import shared_task


@shared_task
def mark(number: int) -> int:
    """Note the start of job `number`."""
    return work.mark(number)


@shared_task
def noop(number: int) -> int:
    return number


@shared_task
def count(results: list[int]) -> int:
    """The body of a chord."""
    return len(results)


@shared_task
def increment(number: int) -> int:
    """A step of a chain."""
    return number + 1
