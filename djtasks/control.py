"""What an operator asks of brokers and jobs: revoke, retry, pause, purge."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from djtasks import publish, reopening
from djtasks.brokers import get_broker
from djtasks.conf import settings
from djtasks.models import Job


def revoke(ids: str | Iterable[str]) -> int:
    """Cancel jobs: what waits ends as REVOKED without a run, what runs is not repeated. Returns how many had not ended.

    Raises BrokerUnavailable.
    """
    return publish.revoke(_as_ids(ids))


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


def _as_ids(ids: str | Iterable[str]) -> list[str]:
    """One id, or a handle on a job, or several, as texts."""
    return [str(each) for each in ids] if isinstance(ids, Iterable) and not isinstance(ids, str) else [str(ids)]
