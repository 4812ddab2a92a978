"""What axe-core says of each page within Django's frame, in both themes, wide and narrow: nothing that is serious."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.admin.utils import quote

from djtasks import states, statistics
from djtasks.brokers import get_broker
from djtasks.message import Message, new_id
from djtasks.models import Job, Limit, PeriodicTask, Worker

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")

pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.django_db(transaction=True),
]
ROOT = "/staff/djtasks/"
SERIOUS = {"serious", "critical"}
TASK = "tests.tasks.add"
OPTIONS = {
    "preload": False,  # it would fetch Django's style sheets from wrong places
    "resultTypes": ["violations"],
    "rules": {"label-title-only": {"enabled": False}},  # Django's search field
}


def stock(make_job: Any) -> list[str]:
    """Something to be seen on each page. Returns their addresses."""
    failed = make_job(
        states.FAILURE, task=TASK, args="[1,2]", exception="OSError", exception_message="no", traceback="Traceback"
    )
    running = make_job(states.STARTED, meta='{"current":1,"total":4}', started_at=datetime.now(UTC), worker="w.1")
    replaced = make_job(states.REPLACED, task=TASK)
    Job.objects.create(
        id=new_id(), task=TASK, queue="default", root_id=replaced.pk, parent_id=replaced.pk, state=states.REVOKED
    )
    waits = (None, None, 60)
    get_broker().enqueue([Message(id=new_id(), task=TASK, queue="mail", args="[1]", countdown=wait) for wait in waits])
    get_broker().pause("mail")
    Worker.objects.create(pk="w", hostname="w", pid=1, queues="null", pool="prefork", concurrency=2, tasks="[]")
    Limit.objects.create(key=TASK, rate="10/m", is_task=True)
    schedule = PeriodicTask.objects.create(name="nightly", task="a.b", schedule="@daily")
    statistics.count()
    jobs = [f"job/{each.pk}/change/" for each in (failed, running, replaced)]
    return [
        "", "?window=1w", "job/", "job/?q=nothing", "job/?state=FAILURE", *jobs,
        f"job/{failed.pk}/again/", f"job/{failed.pk}/retry/",
        "job/all_jobs/retry/?state=FAILURE", "queue/", "queue/mail/change/", "queue/mail/change/?scheduled=1",
        "queue/mail/move/", "queue/mail/set/", "queue/mail/purge/",
        "queue/mail/resume/",
        "worker/", "worker/?status=lost", "worker/w/change/", "worker/w/pool_grow/", "worker/w/shutdown/",
        "task/", f"task/{TASK}/change/", f"task/{TASK}/send/", f"task/{TASK}/rate/", "periodictask/",
        f"periodictask/{schedule.pk}/change/", "periodictask/add/",
        "limit/", f"limit/{quote(TASK)}/change/",
    ]  # fmt: skip


@pytest.mark.timeout(300)  # 33 pages
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_bars_anybody(
    page: Any, failures: list[str], database: str, make_job: Any, theme: str, width: int
) -> None:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 844})
    found = []
    for address in stock(make_job):
        page.goto(ROOT + address)
        for each in axe.Axe().run(page, context="#content", options=OPTIONS).response["violations"]:
            if each["impact"] in SERIOUS:
                found += [f"{address}: {each['id']}: {node['html'][:200]}" for node in each["nodes"]]
    assert not found, "\n".join(found)
    assert failures == []
