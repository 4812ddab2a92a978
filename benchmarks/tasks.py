"""The job as a task of djtasks."""

from benchmarks import work
from djtasks import shared_task


@shared_task
def mark(number: int) -> int:
    """Note the start of job `number`."""
    return work.mark(number)
