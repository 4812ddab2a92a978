"""What an operator asks of brokers, jobs and schedules: revoke, retry, pause, purge, run now."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connections, transaction

from djtasks import periodic, publish, reopening
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.models import Job, PeriodicTask, statements


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
    """Give out nothing more from `queue` until `resume`; what runs goes on. Raises BrokerUnavailable."""
    get_broker().pause(queue)


def resume(queue: str) -> None:
    """End a pause. Raises BrokerUnavailable."""
    get_broker().resume(queue)


def purge(queue: str) -> int:
    """Remove all that waits in `queue`. Returns how many. Raises BrokerUnavailable."""
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


def _as_ids(ids: str | Iterable[str]) -> list[str]:
    """One id, or a handle on a job, or several, as texts."""
    return [str(each) for each in ids] if isinstance(ids, Iterable) and not isinstance(ids, str) else [str(ids)]
