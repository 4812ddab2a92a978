"""Tasks that only some workers of the tests know."""

from djtasks import shared_task


@shared_task
def only_here(x):
    return 2 * x
