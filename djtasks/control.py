"""What an operator asks of jobs, queues, schedules, limits and workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from django.db import connections, transaction
from django.db.models import Q

from djtasks import periodic, publish, registry, reopening, restraint
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.message import LONGEST_DELAY, checked_priority, checked_queue, new_id
from djtasks.models import Job, Limit, PeriodicTask, Queue, Worker, statements
from djtasks.models.fields import utc_now
from djtasks.models.job import NOT_KEPT, JobQuerySet
from djtasks.rates import NONE, checked_rate

BATCH: Final = 500  # jobs that are retried in one transaction
SHORTEST_AGING: Final = 0.1  # seconds a step
MOST_CHILDREN: Final = 1_000  # by which a worker grows or shrinks at a time
LONGEST_NAME: Final = 150  # characters of who has paused a queue


def revoke(ids: str | Iterable[str], terminate: bool = False, signal: str | int = "SIGTERM") -> int:
    """Cancel jobs: what waits ends as REVOKED without a run, what runs is not repeated. Returns how many had not ended.

    With `terminate` what runs is ended by `signal`, to its process and all that it has started, and is REVOKED too.
    Raises BrokerUnavailable, ValueError for a signal that there is not.
    """
    return publish.revoke(_as_ids(ids), signal if terminate else None)


def retry(ids: str | Iterable[str]) -> int:
    """Run finished jobs once more, under the same ids; earlier attempts are kept. Returns how many were finished.

    A step of a chain goes on with what follows it; in place of one that never ran, the step is run that failed before
    it. A member of an unfinished group counts once more when it ends; the body of a chord waits for members that run
    once more. What has lost its arguments at its end (store_arguments=False) stays as it is. Raises BrokerUnavailable.
    """
    with transaction.atomic(using=settings.DATABASE):
        chosen = reopening.that_failed(_as_ids(ids))
        lost = set(Job.objects.filter(pk__in=chosen, args=NOT_KEPT).values_list("pk", flat=True))
        chosen = [each for each in chosen if each not in lost]
        reopening.reopen(chosen)
        return publish.again(chosen)


def retry_all(jobs: JobQuerySet, limit: int | None = None) -> Iterator[int]:
    """`retry` of all those of `jobs` that have ended by now, a portion a transaction, as it is asked for more.

    The oldest at first, at most `limit`; none twice, though one may have failed again meanwhile. Gives how many of each
    portion were finished. Raises BrokerUnavailable: those before stay as they are.
    """
    left = math.inf if limit is None else limit
    ended = jobs.finished().filter(finished_at__lte=utc_now()).exclude(task="").order_by("pk")
    last = ""
    while left > 0:
        ids = list(ended.filter(pk__gt=last).values_list("pk", flat=True)[: int(min(BATCH, left))])
        if not ids:
            return
        yield retry(ids)
        last, left = ids[-1], left - len(ids)


def pause(queue: str, by: str = "") -> None:
    """Give out nothing more from `queue` until `resume`; what runs goes on. `by`: who says so, for people.

    Raises ValueError, BrokerUnavailable.
    """
    get_broker().pause(checked_queue(queue))
    now = utc_now()
    values = {"paused_at": now, "paused_by": by[:LONGEST_NAME], "changed_at": now}
    Queue.objects.update_or_create(name=queue, defaults=values)


def resume(queue: str) -> None:
    """End a pause. Raises ValueError, BrokerUnavailable."""
    get_broker().resume(checked_queue(queue))
    Queue.objects.filter(name=queue).update(paused_at=None, paused_by="")


def purge(queue: str) -> int:
    """Remove all that waits in `queue`, as if it had never been sent. Returns how many. Raises BrokerUnavailable.

    A chord that waits for such a job fails after an hour, a `get()` waits until its timeout; `revoke` tells both.
    """
    broker = get_broker()
    purged = broker.purge(queue)
    if not broker.transactional:  # or what has a row would come back should the broker lose its memory
        Job.objects.waiting().filter(queue=queue).delete()
    return purged


def run_schedule(name: str) -> str:
    """Send one job of the schedule of that name at once, even if it is disabled; its ticks stay. Returns the id.

    It counts as the schedule's last job, but not as one of its runs. Raises PeriodicTask.DoesNotExist, and what
    `apply_async` does for a message that cannot be made.
    """
    alias = settings.DATABASE
    row = PeriodicTask.objects.get(name=name)
    now = statements.now(connections[alias])
    message = periodic.message_of(row, now)
    with transaction.atomic(using=alias):
        PeriodicTask.objects.filter(pk=row.pk).update(last_run_at=now, last_job=message.id)
        publish.publish([message], using=alias, on_commit="outbox")
    return message.id


def move(source: str, target: str, *, task: str | None = None, limit: int | None = None) -> int:
    """Move what waits in the queue `source` to `target`: all, those of `task`, at most `limit`. Returns how many.

    Each keeps its priority and its place in the order. Raises ValueError, BrokerUnavailable.
    """
    if checked_queue(source) == checked_queue(target):
        raise ValueError(f"The jobs are in the queue {target!r} already.")
    broker = get_broker()
    moved = 0
    for ids in broker.move(source, target, task=task, limit=limit):
        moved += len(ids)
        if not broker.transactional:  # what has a row, too
            Job.objects.waiting().filter(pk__in=ids).update(queue=target)
    if moved and source in Queue.objects.limits():
        restraint.recall(broker, (), {source})  # what has left waits for its limits no more
    return moved


def run_now(ids: str | Iterable[str]) -> int:
    """Let jobs run as soon as a worker is free that wait for their time, or for their next try. Returns how many did.

    What waits for a limit stays in its line. Raises BrokerUnavailable.
    """
    broker, chosen = get_broker(), _as_ids(ids)
    limited = broker.waits(chosen)
    made = broker.hasten([each for each in chosen if each not in limited])
    if not broker.transactional:  # what has a row, too
        Job.objects.waiting().filter(pk__in=made).update(run_at=utc_now())
    return len(made)


def set_queue(queue: str, **options: Any) -> None:
    """Set how a queue is treated: `default_priority`, `aging`, `rate_limit`, `max_concurrency`; None for none.

    `default_priority` (−100 to 100) is of jobs for which nobody chose one. Aging: for each so many seconds that a job
    has waited, it counts as one priority higher. The limits hold over all workers for the jobs in it whose tasks have
    none of that kind, together: how often they begin ("10/m"), how many run at a time. Raises TypeError, ValueError,
    BrokerUnavailable.
    """
    checked_queue(queue)
    for name, value in options.items():
        if name not in _QUEUE_OPTIONS:
            raise TypeError(f"A queue has no option {name!r}. There are: {', '.join(_QUEUE_OPTIONS)}.")
        if value is not None:
            _QUEUE_OPTIONS[name](value)
    if "rate_limit" in options:
        rate = checked_rate(options["rate_limit"])
        options["rate_limit"] = "" if rate == NONE else rate
    Queue.objects.update_or_create(name=queue, defaults={**options, "changed_at": utc_now()})
    get_broker().set_default_priorities(Queue.objects.default_priorities())
    if options.keys() & {"rate_limit", "max_concurrency"}:
        restraint.recall(get_broker(), (), {queue})


def set_rate(task: str, rate: str | float | None) -> None:
    """Let jobs of `task` begin at most so often ("10/m"), over all workers, whatever the code says; within seconds.

    "none" is no limit; None lets the code decide again. Raises ValueError for what is no rate, for a task that
    nobody knows, and for one whose jobs come in batches; BrokerUnavailable.
    """
    text = checked_rate(rate)
    check_task(task)
    found = registry.find(task)
    if found is not None and found.batch is not None:
        raise ValueError(f"{task} takes its jobs in batches; rates count single jobs.")
    Limit.objects.update_or_create(pk=task, defaults={"rate": text, "is_task": True})
    restraint.recall(get_broker(), {task})


def check_task(task: str) -> None:
    """Raise ValueError for a task that nobody knows: no code here, no worker and no job."""
    known = registry.find(task) is not None or Limit.objects.filter(pk=task, is_task=True).exists()
    if known or Job.objects.filter(task=task).exists():
        return
    close = get_close_matches(
        task, [*registry.names(), *Limit.objects.filter(is_task=True).values_list("pk", flat=True)], n=1
    )
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"No task {task!r} is known here.{hint}")


# Of workers. `destination`: one or several, by name ("worker@host") or boot id; None: all that live. Each of these
# returns how many were told, and what they do shows in their rows within seconds. Orders go by the database, whatever
# the broker.


def shutdown(destination: str | Iterable[str] | None = None) -> int:
    """Stop workers warmly: what runs is finished, what waits goes back to its queue."""
    return _order(destination, "shutdown")


def pool_restart(destination: str | Iterable[str] | None = None) -> int:
    """Replace the children of workers, each once what it runs has ended; the code stays what it was at the start."""
    return _order(destination, "pool_restart")


def pool_grow(n: int = 1, destination: str | Iterable[str] | None = None) -> int:
    """Let workers have `n` more child processes; with `--autoscale`, `n` more at most. Raises ValueError."""
    return _order(destination, "pool_grow", count=_checked_count(n))


def pool_shrink(n: int = 1, destination: str | Iterable[str] | None = None) -> int:
    """Let workers have `n` fewer child processes, but one at least; idle ones go first. Raises ValueError."""
    return _order(destination, "pool_shrink", count=_checked_count(n))


def add_consumer(queue: str, destination: str | Iterable[str] | None = None) -> int:
    """Let workers serve `queue`, too, until they end. Raises ValueError."""
    return _order(destination, "add_consumer", queue=checked_queue(queue))


def cancel_consumer(queue: str, destination: str | Iterable[str] | None = None) -> int:
    """Let workers take nothing more from `queue`, until they end; what they have claimed is run. Raises ValueError."""
    return _order(destination, "cancel_consumer", queue=checked_queue(queue))


def _order(destination: str | Iterable[str] | None, order: str, **details: Any) -> int:
    workers = Worker.objects.live().exclude(pool="solo") if order.startswith("pool_") else Worker.objects.live()
    if destination is not None:
        names = _as_ids(destination)
        workers = workers.filter(Q(pk__in=names) | Q(hostname__in=names))
    command = {"order": order, "id": new_id(), **details}
    return sum(Worker.objects.all().tell(pk, command) for pk in workers.values_list("pk", flat=True))


def _checked_count(n: int) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_CHILDREN:
        raise ValueError(f"n must be a whole number from 1 to {MOST_CHILDREN}, not {n!r:.100}.")
    return n


def _check_aging(seconds: object) -> None:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not SHORTEST_AGING <= seconds <= LONGEST_DELAY:  # type: ignore[operator]
        raise ValueError(f"aging must be a number of seconds from {SHORTEST_AGING} to 100 years, not {seconds!r}.")


_QUEUE_OPTIONS: Final[Mapping[str, Callable[[Any], object]]] = {
    "default_priority": checked_priority,
    "aging": _check_aging,
    "rate_limit": checked_rate,
    "max_concurrency": restraint.check_places,
}


def _as_ids(ids: str | Iterable[str]) -> list[str]:
    """One id, or a handle on a job, or several, as texts."""
    return [str(each) for each in ids] if isinstance(ids, Iterable) and not isinstance(ids, str) else [str(ids)]
