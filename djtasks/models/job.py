"""The job: one row from its enqueue to its end, and what belongs to it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Self

from django.db import connections, models, transaction
from django.utils.translation import gettext_lazy as _

from djtasks import encoding, states, steps
from djtasks.exceptions import MalformedMessage
from djtasks.message import Delivery, Message, Outcome, microseconds
from djtasks.models import recording, statements, words
from djtasks.models.attempts import attempts_after, with_attempt
from djtasks.models.fields import UTCDateTimeField, utc_now
from djtasks.models.job_group import JobGroup
from djtasks.models.managers import AppManager, HistoryManager

BEGUN_AT_ONCE: Final = 200  # rows a statement
NOT_KEPT: Final = "null"  # in the place of arguments: the task has store_arguments=False, and the job has ended


class JobQuerySet(models.QuerySet["Job"]):
    """Jobs by where they stand."""

    def ready(self) -> Self:
        """May be claimed now, in the order in which they will be."""
        return self.filter(state=states.PENDING).order_by("rank", "order_key", "id")

    def scheduled(self) -> Self:
        """Wait for their time, the next first."""
        return self.filter(words.LATER).order_by("run_at")

    def due(self, now: datetime | None = None) -> Self:
        """Their time has come, but nobody has promoted them yet."""
        return self.scheduled().filter(run_at__lte=now or datetime.now(UTC))

    def waiting(self) -> Self:
        """Not claimed by anybody: ready or scheduled."""
        return self.filter(state__in=states.WAITING)

    def running(self) -> Self:
        """Claimed by a worker, begun or not."""
        return self.filter(words.AT_WORK)

    def owners(self) -> set[str]:
        """Whose the claimed ones are."""
        return set(self.running().order_by().values_list("worker", flat=True).distinct())

    def finished(self) -> Self:
        """Ended, in whichever way."""
        return self.filter(state__in=states.FINISHED)

    def settled(self) -> Self:
        """Their runs are over for good: ended, or replaced by jobs that give their results."""
        return self.filter(state__in=states.SETTLED)

    def expired(self, seconds: float) -> Self:
        """Ended longer than `seconds` ago, and not of a group that has not: its body may not have read them yet."""
        cutoff = datetime.now(UTC) - timedelta(seconds=seconds)
        needed = JobGroup.objects.filter(models.Q(remaining__gt=0) | models.Q(finished_at__gte=cutoff)).values("id")
        return self.finished().filter(finished_at__lt=cutoff).exclude(group_id__in=needed)

    def tombstones(self) -> Self:
        """What remembers, of ids that were revoked before they came, that they were: it has no task."""
        return self.filter(task="", state=states.REVOKED)

    def prune(self, seconds: float, limit: int) -> int:
        """Delete up to `limit` expired jobs, but for those that somebody has locked. Returns how many."""
        skips = connections[self.db].features.has_select_for_update_skip_locked
        with transaction.atomic(using=self.db):
            locked = self.expired(seconds).order_by("finished_at").select_for_update(skip_locked=skips)
            ids = list(locked.values_list("pk", flat=True)[:limit])
            return int(self.filter(pk__in=ids).delete()[0]) if ids else 0

    def of_schedule(self, name: str) -> Self:
        """Sent by the schedule of that name, the newest first."""
        return self.filter(periodic_task=name).order_by("-pk")

    def held(self, delivery: Delivery) -> Self:
        """The row of `delivery`, if its worker still holds it with that token: the fence of each write."""
        return self.running().filter(pk=delivery.id, worker=delivery.worker, token=delivery.token)

    def forget(self, worker: str, deliveries: Sequence[Delivery]) -> None:
        """Delete the rows of these, if `worker` still holds them."""
        for at in range(0, len(deliveries), BEGUN_AT_ONCE):
            held = models.Q()
            for each in deliveries[at : at + BEGUN_AT_ONCE]:
                held |= models.Q(pk=each.id, token=each.token)
            self.running().filter(held, worker=worker).delete()

    def record(self, worker: str, outcomes: Sequence[Outcome]) -> set[str]:
        """Record how jobs ended, if `worker` still holds them. Returns the ids that it held."""
        return statements.record(connections[self.db], worker, outcomes, time.monotonic()) if outcomes else set()

    def store(self, outcomes: Sequence[Outcome]) -> set[str]:
        """`record`, where the queue is not this table: rows are made if need be. Returns the ids that were written.

        Takes retries, too, and STARTED of jobs that have begun. What has ended stays as it is, and so does what a later
        try or claim has written.
        """
        return recording.store(self, outcomes) if outcomes else set()

    def take(self, messages: Sequence[Message], worker: str) -> list[Delivery]:
        """Insert the rows of new jobs that `worker` runs next, as claimed by it: no detour through their queue.

        For messages that are due at once and do not expire. Returns those whose ids were free.
        """
        if not messages:
            return []
        deliveries = [Delivery(each, worker, 1) for each in messages]
        if statements.enqueue(connections[self.db], messages, worker) == len(messages):
            return deliveries
        mine = self.filter(pk__in=[each.id for each in messages], state=states.RECEIVED, worker=worker, token=1)
        taken = set(mine.values_list("pk", flat=True))
        return [each for each in deliveries if each.id in taken]

    def hand_over(self, outcome: Outcome, worker: str) -> set[str]:
        """`record` of a step and `take` of the one that follows, in one statement. Returns the ids that were written.

        None if the step is not held any more, or the vendor has no such statement: then nothing has happened.
        """
        return statements.hand_over(connections[self.db], worker, outcome, time.monotonic()) or set()

    def clear_arguments(self, ids: Sequence[str]) -> None:
        """Forget what these jobs were called with."""
        if ids:
            self.filter(pk__in=ids).update(args=NOT_KEPT, kwargs=NOT_KEPT)

    def record_retry(self, outcome: Outcome, now: datetime) -> bool:
        """Put the next try in the place of this one, if still held: message, state and lease in one step."""
        failure = outcome.failure
        return bool(
            self.held(outcome.delivery).update(
                **row_of(outcome.next or outcome.delivery.message, now),
                attempts=attempts_after(outcome, now),
                exception=failure.kind if failure else "",
                exception_message=failure.message if failure else None,
                exception_args=failure.arguments if failure else None,
                traceback=failure.traceback if failure else None,
            )
        )

    def begin(self, deliveries: Sequence[Delivery], now: datetime) -> None:
        """Show that jobs of one worker have begun, where they are still held and nobody has said so."""
        for at in range(0, len(deliveries), BEGUN_AT_ONCE):
            held = models.Q()
            for each in deliveries[at : at + BEGUN_AT_ONCE]:
                held |= models.Q(pk=each.id, token=each.token)
            begun = self.filter(held, state=states.RECEIVED, worker=deliveries[0].worker)
            begun.update(state=states.STARTED, started_at=now)

    def report(self, delivery: Delivery, state: str | None, meta: str) -> None:
        """Store what the running task says of itself, if it is still held."""
        self.held(delivery).update(custom_state=state, meta=meta)

    def standing_for(self, ids: Sequence[str]) -> list[str]:
        """The unended jobs on whose way the results of those of `ids` are that were replaced, as far as rows tell."""
        replaced = self.filter(pk__in=ids, state=states.REPLACED).values_list("pk", "root_id")
        unended = self.exclude(state__in=states.SETTLED)
        return [
            found
            for pk, root_id in replaced
            for found, options in unended.filter(root_id=root_id or pk).telling_of(pk).values_list("pk", "options")
            if steps.mentions(options, pk)
        ]

    def telling_of(self, job_id: str) -> Self:
        """Those in whose options a job may stand: where steps are compressed, that is to be seen."""
        return self.filter(models.Q(options__contains=job_id) | models.Q(options__contains=steps.MARK))

    def end_replaced(self, outcomes: Sequence[Outcome]) -> None:
        """Let replaced jobs end as the jobs do that stand for them."""
        for outcome in outcomes:
            failure = outcome.failure
            self.filter(pk__in=outcome.stands_for, state=states.REPLACED).update(
                state=outcome.state,
                unique_key=None,
                result=outcome.result,
                finished_at=utc_now(),
                exception=failure.kind if failure else "",
                exception_message=failure.message if failure else None,
                exception_args=failure.arguments if failure else None,
                traceback=failure.traceback if failure else None,
                children=recording.children_of(outcome),
            )

    def add_children(self, messages: Sequence[Message]) -> None:
        """Let the rows of their parents keep the ids of these messages, which have no rows yet."""
        for message in messages:
            parent = self.filter(pk=message.parent_id)
            for known in parent.values_list("children", flat=True):
                sent = [*json.loads(known or "[]"), (message.id, message.group_id)]
                parent.update(children=json.dumps(sent[: recording.MOST_CHILDREN]))

    def reopen_replaced(self, ids: Sequence[str]) -> None:
        """Let replaced jobs that have ended wait once more for those that stand for them."""
        self.finished().filter(pk__in=ids).update(
            state=states.REPLACED,
            result=None,
            finished_at=None,
            exception="",
            exception_message=None,
            exception_args=None,
            traceback=None,
        )

    def recorded(self, outcomes: Sequence[Outcome]) -> set[str]:
        """Which of these outcomes stand in their rows already: the answer to a COMMIT may get lost."""
        rows = self.filter(pk__in=[outcome.delivery.id for outcome in outcomes])
        found = {row[0]: row[1:] for row in rows.values_list("id", "token", "state", "worker", "retries")}
        return {outcome.delivery.id for outcome in outcomes if _stands(outcome, found.get(outcome.delivery.id))}


def _stands(outcome: Outcome, row: tuple[int, str, str, int] | None) -> bool:
    if row is None:
        return outcome.forget
    token, state, worker, retries = row
    if outcome.next is not None:
        return token == outcome.delivery.token and retries == outcome.next.retries
    return (token, state, worker) == (outcome.delivery.token, outcome.state, outcome.delivery.worker)


def row_of(message: Message, now: datetime) -> dict[str, Any]:
    """The columns of a job that waits, once more, with `message` under its id; `now` is the broker's time.

    It becomes due at the message's time, at once if it has none.
    """
    run_at = message.eta if message.countdown is None else now + timedelta(seconds=message.countdown)
    run_at = run_at or now
    later = states.RETRY if message.retries else states.SCHEDULED
    columns = {
        "state": later if run_at > now else states.PENDING,
        "order_key": microseconds(now),
        "worker": "",
        "started_at": None,
        "acked_early": False,
        "custom_state": None,
        "args": message.args,
        "kwargs": message.kwargs,
        "queue": message.queue,
        "priority": message.priority,
        "rank": -message.priority,
        "run_at": run_at,
        "retries": message.retries,
        "losses": 0,
        "headers": message.headers,
        "options": message.options,
        "expires_at": message.expires_at,
    }
    if not message.prioritized:  # what its row got from its queue stays
        columns.update(priority=models.F("priority"), rank=-models.F("priority"))
    if message.expires_in is not None:
        columns["expires_at"] = now + timedelta(seconds=message.expires_in)
    return columns


class Job(models.Model):
    """One queued execution of a task, and what became of it."""

    id = models.CharField(_("id"), max_length=64, primary_key=True)
    task = models.CharField(_("task"), max_length=255)
    queue = models.CharField(_("queue"), max_length=128)
    priority = models.SmallIntegerField(_("priority"), default=0, db_default=0)
    rank = models.SmallIntegerField(default=0, db_default=0, editable=False)  # −priority: the index ascends
    order_key = models.BigIntegerField(default=0, db_default=0, editable=False)  # µs at which it became ready
    state = models.CharField(_("state"), max_length=16, default=states.PENDING)
    custom_state = models.CharField(max_length=64, null=True, editable=False)  # noqa: DJ001 - null: none was set
    args = models.TextField(_("arguments"), default="[]")
    kwargs = models.TextField(_("keyword arguments"), default="{}")
    run_at = UTCDateTimeField(_("due at"), null=True)
    expires_at = UTCDateTimeField(_("expires at"), null=True)
    created_at = UTCDateTimeField(_("enqueued at"), default=utc_now)
    started_at = UTCDateTimeField(_("started at"), null=True)
    finished_at = UTCDateTimeField(_("finished at"), null=True)
    seconds = models.FloatField(_("run time"), null=True)
    token = models.IntegerField(_("claims"), default=0, db_default=0)
    losses = models.SmallIntegerField(_("losses"), default=0, db_default=0)
    refusals = models.SmallIntegerField(_("refusals"), default=0, db_default=0)
    retries = models.IntegerField(_("retries"), default=0, db_default=0)
    worker = models.CharField(_("worker"), max_length=64, default="", db_default="", blank=True)
    acked_early = models.BooleanField(default=False, db_default=False, editable=False)
    revoked = models.BooleanField(_("cancelled"), default=False, db_default=False)
    result = models.TextField(_("result"), null=True)  # noqa: DJ001 - null: no result; "null" is one
    exception = models.CharField(_("exception"), max_length=255, default="", db_default="", blank=True)
    exception_message = models.TextField(_("message"), null=True)  # noqa: DJ001 - no default for TEXT on MySQL
    exception_args = models.TextField(null=True, editable=False)  # noqa: DJ001
    traceback = models.TextField(_("traceback"), null=True)  # noqa: DJ001
    attempts = models.TextField(_("earlier attempts"), null=True)  # noqa: DJ001
    children = models.TextField(null=True, editable=False)  # noqa: DJ001 - JSON, where what waits has no row of its own
    meta = models.TextField(_("progress"), null=True)  # noqa: DJ001
    parent_id = models.CharField(_("parent"), max_length=64, null=True)  # noqa: DJ001
    root_id = models.CharField(_("root"), max_length=64, null=True)  # noqa: DJ001
    group_id = models.CharField(_("group"), max_length=64, null=True)  # noqa: DJ001
    periodic_task = models.CharField(_("schedule"), max_length=200, null=True)  # noqa: DJ001
    unique_key = models.CharField(max_length=128, null=True, editable=False)  # noqa: DJ001
    enqueued_by = models.CharField(_("enqueued by"), max_length=255, default="", db_default="", blank=True)
    headers = models.TextField(_("headers"), default="{}")
    options = models.TextField(_("options"), default="{}")
    version = models.SmallIntegerField(default=1, db_default=1, editable=False)

    objects = HistoryManager.from_queryset(JobQuerySet)()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        default_permissions = ("view", "delete")
        permissions = (
            ("retry_job", _("Can retry jobs")),
            ("revoke_job", _("Can cancel jobs")),
            ("send_task", _("Can send tasks")),
            ("view_job_arguments", _("Can view the arguments and results of jobs")),
        )
        # The others differ by vendor (partial where there are partial ones); the migration creates them.
        indexes = (models.Index(fields=["task", "id"], name="djtasks_job_task"),)

    def __str__(self) -> str:
        return f"{self.task}[{self.id}]"

    @property
    def is_finished(self) -> bool:
        return self.state in states.FINISHED

    @property
    def shown_state(self) -> str:
        """The word for people: what the task said of itself while it runs, else the state."""
        return self.custom_state if self.custom_state and self.state in states.RUNNING else self.state

    @property
    def keeps_arguments(self) -> bool:
        """Whether the row has the arguments; of some tasks they go at the end."""
        return self.args != NOT_KEPT

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """args and kwargs as values; model instances stand as references; none if they are not kept.

        Raises MalformedMessage.
        """
        if not self.keeps_arguments:
            return [], {}
        return encoding.decode_arguments(self.args, self.kwargs, fetch=False)

    def progress(self) -> Any:
        """What `update_state(meta=…)` last said, or None."""
        return encoding.decode(self.meta, fetch=False) if self.meta else None

    def earlier_attempts(self) -> list[dict[str, Any]]:
        """Attempts before the current one, oldest first: token, worker, start, seconds, ending, error."""
        try:
            return list(json.loads(self.attempts or "[]"))
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedMessage(f"attempts of job {self.id}: {error}") from error

    def all_attempts(self) -> list[dict[str, Any]]:
        """`earlier_attempts` and, once it has begun or ended, the current one."""
        if not self.started_at or self.state in states.WAITING:
            return self.earlier_attempts()
        return [*self.earlier_attempts(), self.current_attempt()]

    def begin_again(self, now: datetime) -> None:
        """Make the finished job wait once more, counters at 0, its last attempt kept; `now` is the database's time."""
        self.attempts = with_attempt(self.attempts, self.current_attempt())
        self.retries = self.losses = self.refusals = 0
        self.state, self.revoked, self.rank = states.PENDING, False, -self.priority
        self.run_at = self.expires_at = self.started_at = self.finished_at = self.seconds = None
        self.order_key = microseconds(now)
        self.worker, self.exception, self.acked_early = "", "", False
        self.result = self.exception_message = self.exception_args = self.traceback = None
        self.custom_state = self.meta = self.children = self.unique_key = None
        self.save()

    def current_attempt(self) -> dict[str, Any]:
        """The run that the row's own columns tell of."""
        return {
            "token": self.token,
            "worker": self.worker,
            "start": self.started_at.isoformat() if self.started_at else None,
            "seconds": self.seconds,
            "ending": self.state,
            "error": f"{self.exception}: {self.exception_message}" if self.exception else None,
        }


def message_of(job: Job) -> Message:
    """The message as it stands in the row."""
    return Message(
        id=job.id,
        task=job.task,
        args=job.args,
        kwargs=job.kwargs,
        queue=job.queue,
        priority=job.priority,
        prioritized=True,
        eta=job.run_at,
        expires_at=job.expires_at,
        retries=job.retries,
        parent_id=job.parent_id,
        root_id=job.root_id,
        group_id=job.group_id,
        unique_key=job.unique_key,
        schedule=job.periodic_task,
        sender=job.enqueued_by,
        headers=job.headers,
        options=job.options,
        version=job.version,
    )


class Outbox(models.Model):
    """A message written with the caller's transaction, until the broker has it."""

    id = models.CharField(max_length=64, primary_key=True)
    message = models.TextField()
    created_at = UTCDateTimeField(default=utc_now, db_index=True)

    objects: ClassVar[AppManager[Self]] = AppManager()

    class Meta:
        verbose_name = _("unsent message")
        verbose_name_plural = _("unsent messages")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.id
