"""Why a job does not run: one answer for the command, the admin and programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djtasks import registry, states, steps, stranded
from djtasks.brokers import get_broker
from djtasks.brokers.base import Whereabouts
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.follow_ups import later_jobs, options_of
from djtasks.message import Delivery, Message
from djtasks.models import Job, JobGroup, Outbox, Queue, Worker
from djtasks.models.job import message_of
from djtasks.moments import distance, exactly
from djtasks.restraint import name_of, queue_of

MOST_COUNTED: Final = 10_000  # jobs before another, of which brokers count no more
MOST_WALKED: Final = 100_000  # jobs among which a chain is sought of which the id is a later step
AT_A_TIME: Final = 500
STILL_FOR: Final = 5.0  # seconds; a job that has just gone from one place to another is not missing
_BIG: Final = ("args", "kwargs", "result", "traceback", "attempts", "meta", "headers")


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: `kind` is a word for programs, `text` a sentence for people."""

    kind: str
    text: str


def why(job_id: str) -> list[Reason]:
    """Why the job does not run, the most important reason first; or that it does, or how it ended. Never []."""
    row = Job.objects.defer(*_BIG).filter(pk=job_id).first()
    if row is not None and row.state in states.SETTLED:
        return [_ended(row)]
    try:
        where = get_broker().locate(job_id)
    except BrokerUnavailable as error:
        return [Reason("broker_unreachable", str(error)), *_without_broker(job_id, row)]
    if where is not None and not where.delivery.worker and (row is None or row.state not in states.RUNNING):
        return _waiting(where)
    if row is not None and row.state in states.RUNNING:
        return [_running(row.worker, row.started_at if row.state == states.STARTED else None)]
    if where is not None:
        return [_running(where.delivery.worker, None)]
    return _without_broker(job_id, row) or _unknown(job_id)


# What has ended, and what runs


def _ended(row: Job) -> Reason:
    when = _at(row.finished_at) if row.finished_at else ""
    if row.state == states.REPLACED:
        others = ", ".join(Job.objects.all().standing_for([row.pk])) or _("jobs that have no row yet")
        return Reason("replaced", _("It has run, and ends as these do: %(others)s.") % {"others": others})
    if row.state == states.REVOKED:
        text = _("It was cancelled, or had expired (%(why)s), %(when)s.")
        return Reason("revoked", text % {"why": row.exception_message or "revoked", "when": when})
    if row.token == 0 and row.parent_id and row.state == states.FAILURE:
        text = _("It never ran: it ended as %(state)s with the job before it, %(parent)s, %(when)s.")
        return Reason("ended_before", text % {"state": row.state, "parent": row.parent_id, "when": when})
    error = f" ({row.exception})" if row.exception else ""
    return Reason(
        "finished", _("It has finished: %(state)s, %(when)s.") % {"state": f"{row.state}{error}", "when": when}
    )


def _running(owner: str, since: datetime | None) -> Reason:
    worker = Worker.objects.filter(pk=owner.partition(".")[0]).first()
    name = f"{worker.hostname} ({owner})" if worker else owner
    if worker is None or not worker.is_live or datetime.now(UTC) - worker.beat_at > _patience():
        text = _("The worker %(worker)s has it, which gives no sign of life: others take it over soon, if they live.")
        return Reason("worker_silent", text % {"worker": name})
    if since is None:
        return Reason("claimed", _("The worker %(worker)s has claimed it, and begins soon.") % {"worker": name})
    return Reason("running", _("It runs on %(worker)s since %(since)s.") % {"worker": name, "since": _at(since)})


def _patience() -> timedelta:
    """For how long a worker may be silent before others take its jobs."""
    return timedelta(seconds=settings.WORKER_LOST_AFTER)


# What waits where the broker has it


def _waiting(where: Whereabouts) -> list[Reason]:
    delivery = where.delivery
    queue = delivery.message.queue
    serving = [each for each in Worker.objects.live().defer(None) if each.serves(queue)]
    held_up = [*_served_by_nobody(queue, serving), *_paused(where), *_known_to_nobody(delivery, serving)]
    for_when = [*_for_a_limit(delivery)] or [*_for_a_time(where)]
    reasons = [*_to_end(delivery), *for_when, *held_up, *_for_a_header(delivery), *_lost(delivery)]
    if where.before is not None and not held_up:
        reasons.append(_in_turn(where.before, queue, serving))
    return reasons or [Reason("waiting", _("It waits in the queue '%(queue)s'.") % {"queue": queue})]


def _to_end(delivery: Delivery) -> Iterator[Reason]:
    expires = delivery.message.expires_at
    if delivery.revoked:
        yield Reason("revoked", _("It was cancelled: whoever claims it next ends it without a run."))
    elif expires is not None and expires <= datetime.now(UTC):
        yield Reason("expired", _("It expired %(when)s, and ends without a run.") % {"when": _at(expires)})


def _for_a_limit(delivery: Delivery) -> Iterator[Reason]:
    wait = get_broker().waits([delivery.id]).get(delivery.id)
    if wait is None:
        return
    key = wait.limit.partition(":")[2]
    name = _quoted(key) if queue_of(key) is None else name_of(key)
    if wait.until is None:
        text = _("It waits for a place: of %(limit)s as many run as may at a time.")
        yield Reason("concurrency", text % {"limit": name})
    else:
        text = _("It waits for its slot by the rate of %(limit)s, at %(when)s.")
        yield Reason("rate", text % {"limit": name, "when": _at(wait.until)})


def _for_a_time(where: Whereabouts) -> Iterator[Reason]:
    if where.due_at is None:
        return
    when = _at(where.due_at)
    if where.due_at <= datetime.now(UTC):
        yield Reason("due", _("It is due since %(when)s; a worker makes it ready.") % {"when": when})
        return
    yield next(reason for tell in _WAITS if (reason := tell(where.delivery, when)) is not None)


def _for_who_knows_it(delivery: Delivery, when: str) -> Reason | None:
    if not delivery.refusals:
        return None
    text = ngettext(
        "A worker did not know the task %(task)s. It is offered again at %(when)s.",
        "%(count)d times a worker did not know the task %(task)s. It is offered again at %(when)s.",
        delivery.refusals,
    )
    words = {"count": delivery.refusals, "task": _quoted(delivery.message.task), "when": when}
    return Reason("unknown_task", text % words)


def _for_retry(delivery: Delivery, when: str) -> Reason | None:
    message = delivery.message
    if not message.retries:
        return None
    task = registry.find(message.task)
    most = options_of(message).get("max_retries", task.max_retries if task else None)
    if most is None:
        text = _("It waits for retry %(number)d, at %(when)s.")
    else:
        text = _("It waits for retry %(number)d of %(most)s, at %(when)s.")
    return Reason("retry", text % {"number": message.retries, "most": most, "when": when})


def _for_its_time(_delivery: Delivery, when: str) -> Reason:
    return Reason("scheduled", _("It is scheduled for %(when)s.") % {"when": when})


# What a job may wait for that has a time, beside limits; the first that applies is told.
_WAITS: Final[Sequence[Callable[[Delivery, str], Reason | None]]] = (_for_who_knows_it, _for_retry, _for_its_time)


def _served_by_nobody(queue: str, serving: Sequence[Worker]) -> Iterator[Reason]:
    if not serving:
        yield Reason("unserved", _("No live worker serves the queue '%(queue)s'.") % {"queue": queue})


def _paused(where: Whereabouts) -> Iterator[Reason]:
    if not where.is_paused:
        return
    queue = where.delivery.message.queue
    row = Queue.objects.filter(name=queue).first()
    by = _(" by %(name)s") % {"name": row.paused_by} if row and row.paused_by else ""
    since = _(" since %(when)s") % {"when": _at(row.paused_at)} if row and row.paused_at else ""
    text = _("The queue '%(queue)s' is paused%(by)s%(since)s.")
    yield Reason("paused", text % {"queue": queue, "by": by, "since": since})


def _known_to_nobody(delivery: Delivery, serving: Sequence[Worker]) -> Iterator[Reason]:
    task = delivery.message.task
    if delivery.malformed:
        yield Reason("malformed", _("Its message cannot be read; a worker that claims it lets it fail."))
    elif serving and not any(each.knows(task) for each in serving):
        text = _("No live worker of its queue knows the task %(task)s: do they run the code that declares it?")
        yield Reason("unknown_task", text % {"task": _quoted(task)})


def _for_a_header(delivery: Delivery) -> Iterator[Reason]:
    header = options_of(delivery.message).get("header")
    group = JobGroup.objects.unfinished().filter(pk=header[0]).first() if header else None
    if group is not None:
        yield from _for_group(group)


def _for_group(group: JobGroup) -> Iterator[Reason]:
    text = _("It waits for the group of %(size)d: %(left)d to go.")
    yield Reason("group", text % {"size": group.size, "left": group.remaining})
    if stranded.stranded(JobGroup.objects.filter(pk=group.pk), STILL_FOR, MOST_WALKED):
        text = _(
            "Of those that are to go none waits or runs: rows were deleted by hand, or a queue was purged. Once "
            "nothing of the group has happened for an hour, the task djtasks.end_stranded ends it, and this fails with "
            "ChordError. To have its result, send the workflow anew."
        )
        yield Reason("stranded", text)


def _lost(delivery: Delivery) -> Iterator[Reason]:
    if delivery.losses:
        text = ngettext("Its process died once.", "Its process died %(count)d times.", delivery.losses)
        rest = _("It ends as failed after %(most)d, and is claimed alone.")
        words = {"count": delivery.losses, "most": settings.TASK_MAX_LOSSES}
        yield Reason("losses", f"{text} {rest}" % words)


def _in_turn(before: int, queue: str, serving: Sequence[Worker]) -> Reason:
    ids = {each.pk for each in serving}
    owners = Job.objects.running().order_by().values_list("worker", flat=True)
    busy = sum(owner.partition(".")[0] in ids for owner in owners)
    words = {"queue": queue, "busy": busy, "all": sum(each.concurrency for each in serving)}
    workers = _("Its workers can run %(all)d jobs at a time, and run %(busy)d now.") % words
    if not before:
        return Reason("next", _("It is the next of the queue '%(queue)s'.") % words + f" {workers}")
    if before >= MOST_COUNTED:
        text = _("%(count)d jobs or more are before it in the queue '%(queue)s'.")
    else:
        text = ngettext(
            "%(count)d job is before it in the queue '%(queue)s'.",
            "%(count)d jobs are before it in the queue '%(queue)s'.",
            before,
        )
    return Reason("in_turn", text % {**words, "count": before} + f" {workers}")


# What the broker does not have


def _without_broker(job_id: str, row: Job | None) -> list[Reason]:
    reasons = []
    if (sent := _unsent(job_id)) is not None:
        text = _("It is in the outbox since %(when)s: the broker was not reachable, or full. A worker sends it.")
        reasons.append(Reason("outbox", text % {"when": _at(sent)}))
    elif row is not None and row.state in states.RUNNING:
        reasons.append(_running(row.worker, row.started_at if row.state == states.STARTED else None))
    elif row is not None:
        text = _("It waits by its row, and the broker does not know it. A worker sends it anew.")
        reasons.append(Reason("forgotten", text))
    if row is not None and row.state in states.WAITING and not Worker.objects.live().exists():
        reasons.append(Reason("no_worker", _("No worker lives.")))
    return reasons


def _unsent(job_id: str) -> datetime | None:
    """Since when the job's message stands in the outbox: by itself, or in a row of many."""
    own = Outbox.objects.filter(pk=job_id).values_list("created_at", flat=True).first()
    several = Outbox.objects.filter(message__contains=job_id)
    return own or several.values_list("created_at", flat=True).first()


def _unknown(job_id: str) -> list[Reason]:
    if (group := _group_before(job_id)) is not None:
        return [*_for_group(group)]
    if (step := _step_before(job_id)) is not None:
        text = _("It is a later step of a chain, and comes after %(step)s. Of that one:")
        return [Reason("chain", text % {"step": f"{_quoted(step.task)} {step.id}"}), *why(step.id)]
    text = _(
        "Nobody knows this id. Its transaction has not been committed, or was rolled back; or the id is wrong; "
        "or it ended and left no row (ignore_result, RESULT_EXPIRES); or its row was deleted, or its queue purged."
    )
    return [Reason("unknown", text)]


def _group_before(job_id: str) -> JobGroup | None:
    """The group after which the job comes, in one of the steps that follow."""
    named = Q(body__contains=job_id) | Q(body__contains=steps.FAR)
    groups = JobGroup.objects.unfinished().filter(named).order_by()
    return next((each for each in groups.iterator(chunk_size=AT_A_TIME) if _is_in(each.body or "[]", job_id)), None)


def _is_in(body: str, job_id: str) -> bool:
    return job_id in body or any(steps.mentions(each.options, job_id) for each in Message.several_from_json(body))


def _step_before(job_id: str) -> Message | None:
    """The job in whose chain this is a later step: by its row, else where the queue is."""
    unended = Job.objects.exclude(state__in=states.FINISHED).telling_of(job_id).order_by()
    rows = (message_of(row) for row in unended[:MOST_WALKED].iterator(chunk_size=AT_A_TIME))
    if (found := _with_step(rows, job_id)) is not None or get_broker().transactional:
        return found
    portions = islice(get_broker().walk(AT_A_TIME), MOST_WALKED // AT_A_TIME)
    return _with_step((each.message for portion in portions for each in portion), job_id)


def _with_step(messages: Iterator[Message], job_id: str) -> Message | None:
    mentioning = (each for each in messages if steps.mentions(each.options, job_id))
    return next((each for each in mentioning if job_id in _later_ids(each)), None)


def _later_ids(message: Message) -> list[str]:
    options: Mapping[str, Any] = options_of(message)
    return [each["options"]["task_id"] for each in later_jobs(options)]


def _at(moment: datetime) -> str:
    return f"{exactly(moment)} ({distance(moment)})"


def _quoted(text: str) -> str:
    return f"'{text}'"
