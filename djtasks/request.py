"""The running job: what `Task.request` and `current_task` tell of it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from djtasks import encoding
from djtasks.masking import masked_call
from djtasks.steps import LaterSteps

if TYPE_CHECKING:
    from djtasks.message import Message
    from djtasks.task import Task


@dataclass(eq=False, kw_only=True)
class Request:
    """What a task may know of the job that it runs; empty outside of one. Names are Celery's."""

    id: str | None = None
    task: str | None = None
    args: list[Any] | tuple[Any, ...] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    retries: int = 0
    is_eager: bool = False
    eta: datetime | None = None
    expires: datetime | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    hostname: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool = False
    shadow: str | None = None
    delivery_info: dict[str, Any] = field(default_factory=dict)
    replaced_task_nesting: int = 0
    called_directly: bool = True
    message: Message | None = None
    attempts: str = "[]"  # earlier ones, as JSON
    begun_at: datetime | None = None  # of a task of Django's, which is told so
    options: dict[str, Any] = field(default_factory=dict)
    report: Callable[[str | None, Any], None] | None = None  # where `update_state` goes
    added: list[Any] = field(default_factory=list)  # canvases in normal form that `add_to_chord` was given
    sent: list[tuple[str, str | None]] = field(
        default_factory=list
    )  # ids of jobs that it has sent, each with its group
    entered: bool = False  # whether the task's own `__call__`, if it has one, has reached `Task.__call__`

    @property
    def group_index(self) -> int | None:
        """The job's place in its group."""
        return self.options.get("index")

    @property
    def chord(self) -> str | None:
        """The id of the group with a body that the job is a member of."""
        return self.group if self.options.get("keeps") else None

    @property
    def callbacks(self) -> list[Any]:
        """The signatures that are sent once it has succeeded."""
        return list(self.options.get("link") or ())

    @property
    def errbacks(self) -> list[Any]:
        """The signatures that are sent once it has failed."""
        return list(self.options.get("link_error") or ())

    @property
    def chain(self) -> list[Any]:
        """The signatures that follow it."""
        return [encoding.decode(text, fetch=False) for text in LaterSteps.of(self.options).texts()]

    @property
    def task_name(self) -> str | None:
        return self.task

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """Celery's pair: (hard, soft), in seconds."""
        return self.time_limit, self.soft_time_limit

    @property
    def correlation_id(self) -> str | None:
        return self.id

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, or `default`."""
        return getattr(self, name, default)

    def __repr__(self) -> str:
        """For logs: sensitive arguments are masked."""
        now = running.get()
        args, kwargs = masked_call(now.task if now and now.request is self else None, self.args, self.kwargs)
        return f"<Request: {self.task}[{self.id}] args={args!r} kwargs={kwargs!r} retries={self.retries}>"


def request_of(message: Message, **more: Any) -> Request:
    """What is known of a job by its message."""
    known = {
        "id": message.id,
        "task": message.task,
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "group": message.group_id,
        "retries": message.retries,
        "eta": message.eta,
        "expires": message.expires_at,
        "called_directly": False,
        "message": message,
    }
    return Request(**{**known, **more})


@dataclass(frozen=True, slots=True)
class Running:
    """What runs in this thread (or asyncio task): a task, as a job or called directly.

    `job` is the request of the job in which all of it happens; None outside of one.
    """

    task: Task[Any, Any]
    request: Request
    job: Request | None = None


running: ContextVar[Running | None] = ContextVar("djtasks_running", default=None)


def current_job() -> Request | None:
    """The request of the job that runs here, however deep in direct calls of tasks; None outside of one."""
    now = running.get()
    return now.job if now else None


class _CurrentTask:
    """Stands for the task that is running; false, and without attributes, outside of one."""

    def _get_current_object(self) -> Task[Any, Any] | None:
        now = running.get()
        return now.task if now else None

    def __bool__(self) -> bool:
        return running.get() is not None

    def __getattr__(self, name: str) -> Any:
        task = self._get_current_object()
        if task is None:
            raise AttributeError(f"No task is running here, so current_task has no {name!r}.")
        return getattr(task, name)

    def __repr__(self) -> str:
        return f"<current_task: {self._get_current_object()!r}>"


current_task = _CurrentTask()
