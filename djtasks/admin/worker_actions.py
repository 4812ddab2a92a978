"""What may be asked of a worker from the admin: to stop, to renew, grow and shrink, to serve other queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django import forms
from django.contrib.admin.models import LogEntry
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djtasks import control
from djtasks.admin.action import Action, SubjectForm, Values, valid_queue
from djtasks.control import MOST_CHILDREN
from djtasks.message import MAX_QUEUE_LENGTH
from djtasks.models import Worker


class CountForm(SubjectForm):
    """How many."""

    count = forms.IntegerField(label=gettext_lazy("Processes"), min_value=1, max_value=MOST_CHILDREN, initial=1)


class QueueForm(SubjectForm):
    """Which queue."""

    queue = forms.CharField(label=gettext_lazy("Queue"), max_length=MAX_QUEUE_LENGTH, strip=False)

    def clean_queue(self) -> str:
        queue = valid_queue(self.cleaned_data["queue"])
        self.check_served(queue)
        return queue

    def check_served(self, queue: str) -> None:
        """Raise ValidationError if there is nothing to change."""
        if self.subject.serves(queue):
            raise forms.ValidationError(_("It serves this queue already."))


class LeaveForm(QueueForm):
    """Which of those that it serves."""

    def check_served(self, queue: str) -> None:
        if not self.subject.serves(queue):
            raise forms.ValidationError(_("It does not serve this queue."))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAction(Action):
    """One thing that can be asked of a worker. `act` takes its boot id and returns how many were told.

    The note of it is told, too.
    """

    permission: str = "control_worker"
    of_children: bool = False  # which a worker of one process has not

    def fits(self, worker: Worker) -> bool:
        """Whether the worker can do it."""
        return worker.is_live and not (self.of_children and worker.pool == "solo")

    def perform(self, request: HttpRequest, worker: Worker, values: Values) -> bool:
        """Tell the worker, and log it. Returns whether it lives. Raises ValueError."""
        if not self.act(worker.pk, values):
            return False
        details = ", ".join(str(each) for each in values.values())
        note = f"{self.note} {details}".strip()
        LogEntry.objects.log_actions(request.user.pk, [worker], self.flag, note)  # type: ignore[arg-type]
        return True


SHUTDOWN: Final = WorkerAction(
    name="shutdown",
    label=gettext_lazy("Stop"),
    explanation=gettext_lazy(
        "It claims nothing more, finishes what runs, gives back what waits, and ends. Whatever has started it may "
        "start it anew."
    ),
    note=gettext_lazy("Asked to stop."),
    act=lambda worker, _values: control.shutdown(worker),
)
RESTART: Final = WorkerAction(
    name="pool_restart",
    label=gettext_lazy("Restart children"),
    explanation=gettext_lazy(
        "Each process that runs jobs is replaced once what it runs has ended. The code stays as it was when the worker "
        "started: for new code, start the worker anew."
    ),
    note=gettext_lazy("Asked to restart its children."),
    act=lambda worker, _values: control.pool_restart(worker),
    of_children=True,
)
GROW: Final = WorkerAction(
    name="pool_grow",
    label=gettext_lazy("Grow"),
    explanation=gettext_lazy(
        "It gets so many more processes, until it ends; where their number follows the work, so many more at most."
    ),
    note=gettext_lazy("Asked to grow."),
    act=lambda worker, values: control.pool_grow(values["count"], worker),
    form=CountForm,
    of_children=True,
)
SHRINK: Final = WorkerAction(
    name="pool_shrink",
    label=gettext_lazy("Shrink"),
    explanation=gettext_lazy(
        "So many processes go, idle ones first, each once what it runs has ended. One stays in any case."
    ),
    note=gettext_lazy("Asked to shrink."),
    act=lambda worker, values: control.pool_shrink(values["count"], worker),
    form=CountForm,
    of_children=True,
)
SERVE: Final = WorkerAction(
    name="add_consumer",
    label=gettext_lazy("Serve a queue"),
    explanation=gettext_lazy("It takes jobs from this queue, too, until it ends."),
    note=gettext_lazy("Asked to serve a queue."),
    act=lambda worker, values: control.add_consumer(values["queue"], worker),
    form=QueueForm,
)
LEAVE: Final = WorkerAction(
    name="cancel_consumer",
    label=gettext_lazy("Leave a queue"),
    explanation=gettext_lazy("It takes no more jobs from this queue, until it ends; what it has claimed is run."),
    note=gettext_lazy("Asked to leave a queue."),
    act=lambda worker, values: control.cancel_consumer(values["queue"], worker),
    form=LeaveForm,
)
ALL: Final = (SHUTDOWN, RESTART, GROW, SHRINK, SERVE, LEAVE)
