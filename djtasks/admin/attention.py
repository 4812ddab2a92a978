"""What needs somebody's attention, the worst first, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djtasks.admin.charts import number, ready_text
from djtasks.admin.schedule_list import BY_STATUS
from djtasks.admin.schedule_runs import wakefulness
from djtasks.brokers import get_broker
from djtasks.brokers.base import QueueSize
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import PeriodicTask, Queue, Worker
from djtasks.models.fields import utc_now
from djtasks.moments import distance
from djtasks.queues import Standing
from djtasks.trends import Trends

RECENTLY: Final = timedelta(hours=1)
MOST_NAMED: Final = 5  # of one kind; the others are counted
LONGEST_PROBLEM: Final = 120  # characters

Url = Callable[..., str]  # (model, page, *args) → its address, '' for who may not see it


@dataclass(frozen=True, slots=True)
class Notice:
    """`text` says what is wrong, `advice` what to do; `url` leads to the page where it can be seen or done."""

    kind: str
    text: str
    advice: str
    url: str = ""
    is_error: bool = True


def of_broker(error: str) -> Iterator[Notice]:
    """A broker that cannot be reached, or is set so that it may lose jobs."""
    if error:
        advice = _("Nothing can be queued or run until it answers. Is the server up, and BROKER_URL right?")
        yield Notice("broker", error, advice)
        return
    try:
        errors, warnings = get_broker().check()
    except BrokerUnavailable as unavailable:
        errors, warnings = [str(unavailable)], []
    advice = _("Change it in the server's configuration (redis.conf) and at once by CONFIG SET.")
    for text in errors:
        yield Notice("policy", text, advice)
    for text in warnings:
        yield Notice("policy", text, advice, is_error=False)


def of_queues(standing: Sequence[Standing], url: Callable[[str], str], has_workers: bool) -> Iterator[Notice]:
    """Queues in which jobs wait that nobody takes; `url` gives the address of the page of one."""
    unserved = [each for each in standing if each.is_unserved and has_workers]
    for each in unserved[:MOST_NAMED]:
        advice = _("Start one: manage.py runworker -Q %(queue)s. Or move the jobs to a queue that is served.")
        waiting = each.size.ready + each.size.scheduled
        text = ngettext(
            "No live worker serves the queue %(queue)s, in which %(count)s job waits.",
            "No live worker serves the queue %(queue)s, in which %(count)s jobs wait.",
            waiting,
        )
        count = number(waiting)
        is_more = each.size.more_ready or each.size.more_scheduled
        words = {"queue": each.name, "count": f"{count}+" if is_more else count}
        yield Notice("unserved", text % words, advice % words, url(each.name))
    yield from _more("unserved", len(unserved), url(""))
    paused = [each for each in standing if each.size.paused and each.size.ready]
    for each in paused[:MOST_NAMED]:
        text = ngettext(
            "The queue %(queue)s is paused, and %(count)s job waits in it.",
            "The queue %(queue)s is paused, and %(count)s jobs wait in it.",
            each.size.ready,
        )
        words = {"queue": each.name, "count": ready_text(each.size)}
        advice = _("Resume it once what it was paused for is over.")
        yield Notice("paused", text % words, advice, url(each.name), is_error=False)
    yield from _more("paused", len(paused), url(""))


def of_workers(url: Url, live: int, waiting: QueueSize) -> Iterator[Notice]:
    """Nobody works, or somebody was lost lately."""
    if not live:
        text = _("No worker lives.")
        if waiting.ready:
            text = ngettext(
                "No worker lives, and %(count)s job waits.", "No worker lives, and %(count)s jobs wait.", waiting.ready
            ) % {"count": ready_text(waiting)}
        advice = _("Start one: manage.py runworker.")
        yield Notice("no_worker", text, advice, url(Worker, "changelist"), is_error=bool(waiting.ready))
    found = Worker.objects.filter(lost_at__gte=utc_now() - RECENTLY).order_by("-lost_at")
    lost = list(found.defer("tasks")[: MOST_NAMED + 1])
    for worker in lost[:MOST_NAMED]:
        text = _("The worker %(name)s (process %(pid)d) was lost %(when)s.")
        words = {"name": worker.hostname, "pid": worker.pid, "when": distance(worker.lost_at or worker.beat_at)}
        advice = _("Others run its jobs again. Look into its log and the machine's: was it killed, or out of memory?")
        yield Notice("lost", text % words, advice, url(Worker, "change", worker.pk), is_error=False)
    yield from _more("lost", len(lost), url(Worker, "changelist"))


def of_schedules(url: Url) -> Iterator[Notice]:
    """Schedules that cannot run, and nobody who sends what is due."""
    rows = PeriodicTask.objects.filter(BY_STATUS["broken"]).order_by("name")
    broken = list(rows[: MOST_NAMED + 1])
    for row in broken[:MOST_NAMED]:
        problem = Truncator(row.problem or "").chars(LONGEST_PROBLEM)
        text = _("The schedule %(name)s cannot run: %(problem)s") % {"name": row.name, "problem": problem}
        advice = _("Mend it where it stands, in the code or here; or disable it.")
        yield Notice("broken_schedule", text, advice, url(PeriodicTask, "change", row.pk))
    yield from _more("broken_schedule", len(broken), url(PeriodicTask, "changelist"))
    if not wakefulness().awake and PeriodicTask.objects.filter(BY_STATUS["live"]).exists():
        text = _("Nobody sends what is due: no beat is awake.")
        advice = _("Start manage.py runworker, which has beat on board, or manage.py runbeat.")
        yield Notice("no_beat", text, advice, url(PeriodicTask, "changelist"))


def of_statistics(trends: Trends, url: Url) -> Iterator[Notice]:
    """What nobody has counted, or is too much to be read."""
    if trends.gap is not None:
        text = _("What has ended since %(when)s has not been counted, so these figures lack it.")
        advice = _("The schedule djtasks.count does that each minute: is it enabled, and is its queue served?")
        words = {"when": distance(trends.gap[0])}
        yield Notice("uncounted", text % words, advice, url(PeriodicTask, "changelist"), is_error=False)
    if trends.is_cut:
        text = _("There are too many tasks and queues to show all of this time; its oldest part is left out.")
        yield Notice("cut", text, _("Choose a shorter time."), is_error=False)


def queue_pages(url: Url, address: Callable[[str], str] | None) -> Callable[[str], str]:
    """The address of the page of a queue, of the list of all for ''; '' for who may not see them."""
    return lambda name: (address(name) if address and name else "") or url(Queue, "changelist")


def _more(kind: str, found: int, url: str) -> Iterator[Notice]:
    if found > MOST_NAMED:
        yield Notice(kind, _("And more of these."), "", url, is_error=False)
