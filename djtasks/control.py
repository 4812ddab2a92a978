"""What an operator asks of brokers, jobs, queues and schedules: revoke, retry; pause, purge, move, set; run now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from django.db import connections, transaction

from djtasks import periodic, publish, reopening
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.message import LONGEST_DELAY, checked_priority, checked_queue
from djtasks.models import Job, PeriodicTask, Queue, statements
from djtasks.models.fields import utc_now

SHORTEST_AGING: Final = 0.1  # seconds a step


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
    once more. Raises BrokerUnavailable.
    """
    with transaction.atomic(using=settings.DATABASE):
        chosen = reopening.that_failed(_as_ids(ids))
        reopening.reopen(chosen)
        return publish.again(chosen)


def pause(queue: str) -> None:
    """Give out nothing more from `queue` until `resume`; what runs goes on. Raises ValueError, BrokerUnavailable."""
    get_broker().pause(checked_queue(queue))


def resume(queue: str) -> None:
    """End a pause. Raises ValueError, BrokerUnavailable."""
    get_broker().resume(checked_queue(queue))


def purge(queue: str) -> int:
    """Remove all that waits in `queue`, as if it had never been sent. Returns how many. Raises BrokerUnavailable.

    What waits for such a job (a chord, a `get()`) waits for ever; `revoke` tells it.
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
    return moved


def set_queue(queue: str, **options: Any) -> None:
    """Set `default_priority` (−100 to 100) and `aging` (seconds) of `queue`; None for none.

    `default_priority` is of jobs for which nobody chose one. Aging: for each so many seconds that a job has waited, it
    counts as one priority higher. Raises TypeError, ValueError, BrokerUnavailable.
    """
    checked_queue(queue)
    for name, value in options.items():
        if name not in _QUEUE_OPTIONS:
            raise TypeError(f"A queue has no option {name!r}. There are: {', '.join(_QUEUE_OPTIONS)}.")
        if value is not None:
            _QUEUE_OPTIONS[name](value)
    Queue.objects.update_or_create(name=queue, defaults={**options, "changed_at": utc_now()})
    get_broker().set_default_priorities(Queue.objects.default_priorities())


def _check_aging(seconds: object) -> None:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not SHORTEST_AGING <= seconds <= LONGEST_DELAY:  # type: ignore[operator]
        raise ValueError(f"aging must be a number of seconds from {SHORTEST_AGING} to 100 years, not {seconds!r}.")


_QUEUE_OPTIONS: Final[Mapping[str, Callable[[Any], object]]] = {
    "default_priority": checked_priority,
    "aging": _check_aging,
}


def _as_ids(ids: str | Iterable[str]) -> list[str]:
    """One id, or a handle on a job, or several, as texts."""
    return [str(each) for each in ids] if isinstance(ids, Iterable) and not isinstance(ids, str) else [str(ids)]
