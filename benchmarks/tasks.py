"""The job as a task of djtasks."""

from benchmarks import work
from djtasks import shared_task


@shared_task
def mark(number: int, seconds: float = 0.0) -> int:
    """Note the start of job `number`."""
    return work.mark(number, seconds)


@shared_task(rate_limit="10000/s")
def mark_rated(number: int) -> int:
    """With a rate that holds nothing back."""
    return work.mark(number)


@shared_task(max_concurrency=1000)
def mark_placed(number: int) -> int:
    """With more places than are needed."""
    return work.mark(number)


@shared_task(unique=True)
def mark_unique(number: int) -> int:
    """Each is the only one of its kind."""
    return work.mark(number)


LIMITED = {"plain": mark, "rated": mark_rated, "placed": mark_placed, "unique": mark_unique}


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
