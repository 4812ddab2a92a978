"""What may be done to a queue from the admin: pause, resume, purge, move, set; each with its permission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.contrib.admin.models import DELETION, LogEntry
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from djtasks import control
from djtasks.admin.action import Action, SubjectForm, Values, valid_queue
from djtasks.control import SHORTEST_AGING
from djtasks.message import LONGEST_DELAY, MAX_QUEUE_LENGTH, PRIORITIES
from djtasks.models import Queue
from djtasks.queues import Standing
from djtasks.rates import checked_rate
from djtasks.restraint import MOST_PLACES


class MoveForm(SubjectForm):
    """Where to, and what."""

    target = forms.CharField(label=gettext_lazy("To the queue"), max_length=MAX_QUEUE_LENGTH, strip=False)
    task = forms.CharField(label=gettext_lazy("Only jobs of the task"), required=False)
    limit = forms.IntegerField(
        label=gettext_lazy("At most"),
        min_value=1,
        required=False,
        help_text=gettext_lazy("So many jobs; what runs first is moved first."),
    )

    def clean_target(self) -> str:
        target: str = self.cleaned_data["target"]
        if target == self.subject.name:
            raise forms.ValidationError(_("The jobs are in this queue already."))
        return valid_queue(target)


class SetForm(SubjectForm):
    """How the queue is set; what is left empty is not."""

    default_priority = forms.IntegerField(
        label=gettext_lazy("Default priority"),
        min_value=PRIORITIES[0],
        max_value=PRIORITIES[-1],
        required=False,
        help_text=gettext_lazy("From -100 to 100, of jobs for which neither call, task nor route chose one."),
    )
    aging = forms.FloatField(
        label=gettext_lazy("Aging (seconds)"),
        min_value=SHORTEST_AGING,
        max_value=LONGEST_DELAY,
        required=False,
        help_text=gettext_lazy("So long a wait counts as one priority higher. Empty: jobs do not age."),
    )
    rate_limit = forms.CharField(
        label=gettext_lazy("Rate limit"),
        required=False,
        help_text=gettext_lazy(
            "So often its jobs begin, such as 10/s, 10/m or 10/h, over all workers. Tasks with a rate of their own "
            "keep that, and do not count here."
        ),
    )
    max_concurrency = forms.IntegerField(
        label=gettext_lazy("Concurrency limit"),
        min_value=1,
        max_value=MOST_PLACES,
        required=False,
        help_text=gettext_lazy(
            "So many of its jobs run at a time, over all workers. Tasks with a limit of their own keep that, and do "
            "not count here."
        ),
    )

    def __init__(self, data: Any, *, subject: Standing) -> None:
        super().__init__(data, subject=subject)
        self.initial = {name: getattr(subject, name) for name in self.fields}

    def clean_rate_limit(self) -> str | None:
        try:
            return checked_rate(self.cleaned_data["rate_limit"]) or None
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class PurgeForm(SubjectForm):
    """The name of the queue, typed: nothing brings back what is removed."""

    typed = forms.CharField(
        label=gettext_lazy("Type the name of the queue to confirm"),
        max_length=MAX_QUEUE_LENGTH,
        strip=False,
        widget=forms.TextInput({"autocomplete": "off"}),
    )

    def clean_typed(self) -> str:
        typed: str = self.cleaned_data["typed"]
        if typed != self.subject.name:
            raise forms.ValidationError(_("This is not the name of the queue."))
        return typed


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAction(Action):
    """One thing that can be done to a queue. `act` returns what to tell."""

    asks: bool = True  # before it is done

    def fits(self, queue: Standing) -> bool:
        """Whether there is anything to do."""
        if self.name in ("pause", "resume"):
            return queue.size.paused == (self.name == "resume")
        waits = bool(queue.size.ready or queue.size.scheduled)
        return waits or self.name == "set"

    def perform(self, request: HttpRequest, queue: str, values: Values) -> str:
        """Do it, and log it. Returns what to tell. Raises ValueError, BrokerUnavailable."""
        told: str = self.act(queue, {**values, "by": request.user.get_username()} if self.name == "pause" else values)
        log = LogEntry.objects.log_actions
        log(request.user.pk, [Queue(name=queue)], self.flag, f"{self.note} {told}")  # type: ignore[arg-type]
        return told


def _pause(queue: str, values: Values) -> str:
    control.pause(queue, values["by"])
    return _("The queue is paused. What runs goes on.")


def _resume(queue: str, values: Values) -> str:
    control.resume(queue)
    return _("The queue is not paused any more.")


def _purge(queue: str, values: Values) -> str:
    count = control.purge(queue)
    return ngettext("%d job was removed.", "%d jobs were removed.", count) % count


def _move(queue: str, values: Values) -> str:
    count = control.move(queue, values["target"], task=values["task"] or None, limit=values["limit"])
    text = ngettext("%(count)d job was moved to %(queue)s.", "%(count)d jobs were moved to %(queue)s.", count)
    return text % {"count": count, "queue": values["target"]}


def _set(queue: str, values: Values) -> str:
    control.set_queue(queue, **values)
    return _("The queue is set. Jobs that wait already keep their priority.")


PAUSE: Final = QueueAction(
    name="pause",
    label=gettext_lazy("Pause"),
    explanation=gettext_lazy("Nothing more is given out from this queue; what runs goes on."),
    note=gettext_lazy("Paused."),
    permission="pause_queue",
    act=_pause,
    asks=False,
)
RESUME: Final = QueueAction(
    name="resume",
    label=gettext_lazy("Resume"),
    explanation=gettext_lazy("Workers take jobs from this queue again."),
    note=gettext_lazy("Resumed."),
    permission="pause_queue",
    act=_resume,
    asks=False,
)
MOVE: Final = QueueAction(
    name="move",
    label=gettext_lazy("Move jobs"),
    explanation=gettext_lazy("What waits goes to another queue; each job keeps its priority and its place."),
    note=gettext_lazy("Moved."),
    permission="change_queue",
    act=_move,
    form=MoveForm,
)
SET: Final = QueueAction(
    name="set",
    label=gettext_lazy("Settings"),
    explanation=gettext_lazy("What is set here holds for all sites and workers on these queues."),
    note=gettext_lazy("Set."),
    permission="change_queue",
    act=_set,
    form=SetForm,
)
PURGE: Final = QueueAction(
    name="purge",
    label=gettext_lazy("Purge"),
    explanation=gettext_lazy(
        "All that waits in this queue, ready or scheduled, is removed as if it had never been sent. It leaves no "
        "result: a chord that waits for one fails after an hour. This cannot be undone."
    ),
    note=gettext_lazy("Purged."),
    permission="purge_queue",
    act=_purge,
    form=PurgeForm,
    flag=DELETION,
)
ALL: Final = (PAUSE, RESUME, MOVE, SET, PURGE)
