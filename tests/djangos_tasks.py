"""Tasks that are declared as Django's own are."""

import time

from djtasks.backend import _DJANGO, import_module

task = import_module(_DJANGO).task


@task
def double(number):
    """Twice as much."""
    return 2 * number


@task()
async def double_async(number):
    return 2 * number


@task(takes_context=True)
def tell_context(context, path, tries=0):
    from_start = context.task_result
    with open(path, "a") as file:  # noqa: PTH123
        file.write(f"{context.attempt} {from_start.id} {from_start.status} {len(from_start.errors)}\n")
    if context.attempt < tries:
        raise OSError("once more")
    return context.attempt


@task(takes_context=True)
async def attempt_of(context):
    return context.attempt


@task
def fail():
    raise ValueError("This task fails")


@task
def leave():
    raise SystemExit("This task leaves")


@task(queue_name="mail", priority=7)
def mail(address):
    return address


@task
def rest(seconds):
    time.sleep(seconds)


@task
def answer_oddly():
    return object()
