"""An hour in the demo shop for the pictures of `docs.screenshots`: what has ended, what runs, and what waits."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from django.contrib.auth.models import User
from django.db.models import Value
from django.db.models.functions import Replace

from demo_project.shop import tasks
from djtasks import AsyncResult, encoding, states, statistics
from djtasks.message import first_id
from djtasks.models import Job, Metric, PeriodicTask, Queue, Worker
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures
from tests.waiting import wait_until

LOGIN: Final = "ann"  # and the password
HOUR: Final = 3600  # seconds
ADMIN: Final = "/admin/djtasks/"
PATIENCE: Final = 120  # seconds
# Task, queue, how many in the hour, the median of its run times (seconds), and how many in a thousand fail.
TRAFFIC: Final = (
    ("charge_card", "payments", 1400, 0.6, 12),
    ("export_orders", "default", 90, 22.0, 20),
    ("make_thumbnails", "pictures", 2600, 0.9, 2),
    ("reserve_item", "default", 700, 0.04, 35),
    ("sum_primes", "reports", 40, 48.0, 0),
)
TRACEBACK: Final = """Traceback (most recent call last):
  File "/srv/shop/.venv/lib/python3.13/site-packages/djtasks/execution.py", line 214, in _call
    return self.task(*args, **kwargs)
  File "/srv/shop/shop/tasks.py", line 88, in reserve_item
    stock.take(item)
  File "/srv/shop/shop/stock.py", line 31, in take
    raise OutOfStock(f"{item} is sold out")
shop.stock.OutOfStock: a bottle of ink is sold out
"""


def make() -> None:
    """Fill an empty database with jobs that have ended, and with how deep the queues were meanwhile."""
    User.objects.create_superuser(LOGIN, password=LOGIN)
    chance, now = random.Random(20), utc_now()
    jobs = []
    for name, queue, count, median, failing in TRAFFIC:
        for number in range(count):
            end = now - timedelta(seconds=20 + HOUR * (number + chance.random()) / count)
            jobs.append(_ended(f"demo_project.shop.tasks.{name}", queue, end, median * chance.lognormvariate(0, 0.5)))
            if chance.randrange(1000) < failing:
                _let_fail(jobs[-1])
    for number, job in enumerate(jobs):
        job.id = f"{first_id(job.created_at)}-7{number % 4096:03x}-8000-{number:012x}"
    Job.objects.bulk_create(jobs, batch_size=500)
    _count(now)
    Queue.objects.create(name="mail", paused=True, paused_at=now - timedelta(minutes=9), paused_by=LOGIN)
    Queue.objects.create(name="payments", default_priority=5, aging=60)
    PeriodicTask.objects.create(
        name="Prices from the supplier", task="shop.tasks.fetch_prices", schedule="0 9 * * *", timezone="Asia/Seul"
    )


def _ended(task: str, queue: str, end: datetime, seconds: float) -> Job:
    args, kwargs = encoding.encode_arguments((Decimal("19.90"),) if "charge" in task else (), {})
    start = end - timedelta(seconds=seconds)
    return Job(
        task=task,
        queue=queue,
        state=states.SUCCESS,
        args=args,
        kwargs=kwargs,
        created_at=start - timedelta(seconds=0.3),
        started_at=start,
        finished_at=end,
        seconds=seconds,
        token=1,
        worker="shop-1.1",
        result='{"rows":20000}',
    )


def _let_fail(job: Job) -> None:
    job.state, job.result, job.traceback = states.FAILURE, None, TRACEBACK
    job.exception, job.exception_message = "shop.stock.OutOfStock", "a bottle of ink is sold out"


def _count(now: datetime) -> None:
    for minute in range(62, 0, -1):
        statistics.count(now - timedelta(minutes=minute))
    for start in Metric.objects.filter(task="", queue="", seconds=60).values_list("start_at", flat=True):
        moment = start.timestamp()
        depths = {
            "default": 40 + 38 * math.sin(moment / 700),
            "payments": 6 + 5 * math.sin(moment / 300),
            "pictures": 160 + 150 * math.cos(moment / 900),
        }
        looks = {("", queue): Figures(Counter(ready=round(depth))) for queue, depth in depths.items()}
        Metric.objects.add(start, 60, {("", ""): Figures(Counter(looks=1)), **looks})


def pages() -> dict[str, str]:
    """Send what waits and runs while pictures are taken. Returns the addresses of the pages, by name."""
    running = tasks.export_orders.delay(4_000_000)
    failed = tasks.reserve_item.delay("a bottle of ink")
    retried = tasks.charge_card.apply_async((Decimal("19.90"),), queue="payments")
    joined = tasks.export_in_parts.delay(8, 2_500)
    for number in range(12):
        tasks.make_thumbnails.apply_async((number,), queue="mail", priority=number % 3)
        tasks.export_orders.apply_async((1000 * number,), countdown=HOUR * (number + 1))
    tasks.sum_primes.apply_async((10_000,), queue="reports")  # which nobody serves
    wait_until(lambda: all(AsyncResult(each.id).ready() for each in (failed, retried, joined)), PATIENCE)
    here = Value(str(Path(tasks.__file__).parents[2]))
    Job.objects.filter(pk=failed.id).update(traceback=Replace("traceback", here, Value("/srv/shop")))
    worker = Worker.objects.live().get().pk
    one = f"{ADMIN}job/{{}}/change/"
    return {
        "dashboard": ADMIN,
        "dashboard-day": f"{ADMIN}?window=1d",
        "jobs": f"{ADMIN}job/",
        "jobs-failed": f"{ADMIN}job/?state=FAILURE&enqueued=1h",
        "job-running": one.format(running.id),
        "job-failed": one.format(failed.id),
        "job-retried": one.format(retried.id),
        "job-workflow": one.format(joined.id),
        "job-again": f"{ADMIN}job/{retried.id}/again/",
        "job-retry": f"{ADMIN}job/{failed.id}/retry/",
        "jobs-retry-all": f"{ADMIN}job/all_jobs/retry/?state=FAILURE",
        "queues": f"{ADMIN}queue/",
        "queue": f"{ADMIN}queue/mail/change/",
        "queue-scheduled": f"{ADMIN}queue/default/change/?scheduled=1",
        "queue-move": f"{ADMIN}queue/mail/move/",
        "queue-purge": f"{ADMIN}queue/mail/purge/",
        "queue-settings": f"{ADMIN}queue/payments/set/",
        "workers": f"{ADMIN}worker/",
        "worker": f"{ADMIN}worker/{worker}/change/",
        "worker-grow": f"{ADMIN}worker/{worker}/pool_grow/",
        "tasks": f"{ADMIN}task/",
        "task": f"{ADMIN}task/demo_project.shop.tasks.reserve_item/change/",
        "task-send": f"{ADMIN}task/demo_project.shop.tasks.charge_card/send/",
        "task-rate": f"{ADMIN}task/demo_project.shop.tasks.charge_card/rate/",
        "schedules": f"{ADMIN}periodictask/",
        "schedule": f"{ADMIN}periodictask/{PeriodicTask.objects.get(name__startswith='Export').pk}/change/",
        "schedule-add": f"{ADMIN}periodictask/add/",
        "limits": f"{ADMIN}limit/",
    }
