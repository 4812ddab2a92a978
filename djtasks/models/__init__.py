"""The tables: jobs and what belongs to them."""

from djtasks.models.job import Job, Outbox
from djtasks.models.job_group import JobGroup
from djtasks.models.periodic_task import PeriodicTask
from djtasks.models.worker import Limit, Metric, Queue, Worker

__all__ = ["Job", "JobGroup", "Limit", "Metric", "Outbox", "PeriodicTask", "Queue", "Worker"]
