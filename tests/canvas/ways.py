"""The ways in which a canvas is run: at once, and by way of each broker with the code that workers run."""

from djtasks.brokers import get_broker
from djtasks.models import Job, JobGroup, Outbox
from djtasks.testing import run_jobs


def run_here(sig, *args, **options):
    """At once, in this process."""
    return sig.apply(args, **options)


def run_queued(sig, *args, **options):
    """By the broker and the database."""
    result = sig.apply_async(args, **options)
    run_jobs()
    return result


def nothing_is_left():
    """No job waits, no group is open, no message is unsent."""
    unended = Job.objects.exclude(state__in=("SUCCESS", "FAILURE", "REVOKED", "IGNORED")).count()
    open_groups = JobGroup.objects.filter(remaining__gt=0).count()
    waiting = sum(size.ready + size.scheduled for size in get_broker().sizes().values())
    return (unended, open_groups, Outbox.objects.count(), waiting) == (0, 0, 0, 0)
