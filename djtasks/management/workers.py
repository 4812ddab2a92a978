"""What `manage.py djtasks` says of workers: who lives, what runs there, which tasks they know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from djtasks import registry
from djtasks.management.tables import time_and_age
from djtasks.models import Job, Worker

MOST_JOBS: Final = 1000

Head = Sequence[str]
Rows = Sequence[Sequence[object]]


def status() -> tuple[Head, Rows, list[dict[str, Any]]]:
    """The workers that live: head and lines of a table, and the same for programs."""
    head = ("worker", "process", "pool", "jobs at a time", "queues", "since", "last beat", "version")
    workers = list(Worker.objects.live().order_by("hostname", "pid"))
    rows = [
        (
            each.hostname, each.pid, each.pool, each.concurrency, _queues(each), time_and_age(each.started_at),
            time_and_age(each.beat_at), each.version,
        )
        for each in workers
    ]  # fmt: skip
    return head, rows, [_as_json(each) for each in workers]


def active() -> tuple[Head, Rows, list[dict[str, Any]]]:
    """What runs now."""
    head = ("id", "task", "queue", "state", "begun", "worker")
    names = dict(Worker.objects.live().values_list("pk", "hostname"))
    jobs = Job.objects.running().only("id", "task", "queue", "state", "started_at", "worker").order_by("started_at")
    found = [(each, names.get(each.worker.partition(".")[0], each.worker)) for each in jobs[:MOST_JOBS]]
    rows = [(job.pk, job.task, job.queue, job.state, time_and_age(job.started_at), name) for job, name in found]
    answers = [
        {
            "id": job.pk,
            "task": job.task,
            "queue": job.queue,
            "state": job.state,
            "started_at": job.started_at.isoformat() if job.started_at else None,
            "worker": name,
        }
        for job, name in found
    ]
    return head, rows, answers


def registered() -> tuple[Head, Rows, list[dict[str, Any]]]:
    """The tasks that are known here or to a worker that lives, and to which workers."""
    known: dict[str, list[str]] = {name: [] for name in registry.names()}
    for hostname, tasks in Worker.objects.live().order_by("hostname").values_list("hostname", "tasks"):
        for name in json.loads(tasks or "[]"):
            known.setdefault(name, []).append(hostname)
    here = set(registry.names())
    rows = [(name, "yes" if name in here else "no", ", ".join(known[name]) or "nobody") for name in sorted(known)]
    answers = [{"task": name, "here": name in here, "workers": known[name]} for name in sorted(known)]
    return ("task", "known here", "known to workers"), rows, answers


def stats() -> tuple[Head, Rows, list[dict[str, Any]]]:
    """What each worker that lives has done since its start."""
    workers = list(Worker.objects.live().order_by("hostname", "pid"))
    running = _running_by_worker()
    head = ("worker", "process", "processed", "failed", "running", "up for")
    rows = [
        (each.hostname, each.pid, each.processed, each.failed, running.get(each.pk, 0), _uptime(each))
        for each in workers
    ]
    return head, rows, [{**_as_json(each), "running": running.get(each.pk, 0)} for each in workers]


def _running_by_worker() -> Mapping[str, int]:
    found: dict[str, int] = {}
    for owner in Job.objects.running().values_list("worker", flat=True)[:MOST_JOBS]:
        worker = owner.partition(".")[0]
        found[worker] = found.get(worker, 0) + 1
    return found


def _uptime(worker: Worker) -> str:
    seconds = int((datetime.now(UTC) - worker.started_at).total_seconds())
    hours, rest = divmod(max(0, seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _queues(worker: Worker) -> str:
    if named := worker.named_queues():
        return ", ".join(named)
    excluded = worker.excluded_queues()
    return f"all but {', '.join(excluded)}" if excluded else "all"


def _as_json(worker: Worker) -> dict[str, Any]:
    return {
        "worker": worker.hostname,
        "id": worker.pk,
        "pid": worker.pid,
        "pool": worker.pool,
        "concurrency": worker.concurrency,
        "queues": worker.named_queues() or None,
        "excluded_queues": worker.excluded_queues(),
        "processed": worker.processed,
        "failed": worker.failed,
        "started_at": worker.started_at.isoformat(),
        "beat_at": worker.beat_at.isoformat(),
        "version": worker.version,
    }


Answer = Callable[[], tuple[Head, Rows, list[dict[str, Any]]]]
NOBODY: Final = "No worker lives. Start one: manage.py runworker"
QUESTIONS: Final[Mapping[str, tuple[Answer, str, str]]] = {
    "active": (active, "What runs now, the longest first.", "Nothing runs."),
    "registered": (registered, "The tasks that are known, and to whom.", "No task is known."),
    "stats": (stats, "What each worker has done since its start.", NOBODY),
}
