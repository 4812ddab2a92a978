"""The tables: jobs and what belongs to them."""

from djtasks.models.failure_kind import FailureKind
from djtasks.models.job import Job, Outbox
from djtasks.models.job_group import JobGroup
from djtasks.models.limit import Limit, Ticket
from djtasks.models.metric import Metric, Task
from djtasks.models.periodic_task import PeriodicTask
from djtasks.models.worker import Queue, Worker

__all__ = [
    "FailureKind",
    "Job",
    "JobGroup",
    "Limit",
    "Metric",
    "Outbox",
    "PeriodicTask",
    "Queue",
    "Task",
    "Ticket",
    "Worker",
]
