"""The backend of Django's own tasks: `TASKS = {"default": {"BACKEND": "djtasks.backend.DjtasksBackend"}}`.

Of Django ≥ 6.0, or of the package django-tasks on 5.2. It only translates: such a task is a djtasks task as others are,
by the name of its function, and its jobs take the same way. What needs models stands in `adapter`, since `@task` may be
met before they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Final

from django.apps import apps
from django.core import checks

from djtasks import registry

_DJANGO: Final = "django.tasks" if find_spec("django.tasks") else "django_tasks"
tasks: Any = import_module(f"{_DJANGO}.base")
signals: Any = import_module(f"{_DJANGO}.signals")
exceptions: Any = import_module(f"{_DJANGO}.exceptions")
task_backends: Any = import_module(_DJANGO).task_backends
_backends: Any = import_module(f"{_DJANGO}.backends.base")
import_module(f"{_DJANGO}.checks")  # which asks backends; Django itself never imports it

UNSET: Final[Any] = object()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # Django's tells what people want to see
class DjtasksTask(tasks.Task):  # type: ignore[misc]
    """A task of Django's, with the options of `shared_task` that it has no words for.

    `@task(max_retries=5, autoretry_for=[OSError])` takes them where Django does: from 6.1 on, and in django-tasks.
    """

    acks_late: Any = UNSET
    autoretry_for: Any = UNSET
    default_retry_delay: Any = UNSET
    dont_autoretry_for: Any = UNSET
    expires: Any = UNSET
    max_concurrency: Any = UNSET
    max_concurrency_key: Any = UNSET
    max_retries: Any = UNSET
    rate_limit: Any = UNSET
    rate_limit_key: Any = UNSET
    retry_backoff: Any = UNSET
    retry_backoff_max: Any = UNSET
    retry_jitter: Any = UNSET
    sensitive_arguments: Any = UNSET
    soft_time_limit: Any = UNSET
    store_arguments: Any = UNSET
    throws: Any = UNSET
    time_limit: Any = UNSET
    unique: Any = UNSET


class DjtasksBackend(_backends.BaseTaskBackend):  # type: ignore[misc]
    """Queues Django's tasks as jobs of djtasks; `runworker` runs them."""

    task_class = DjtasksTask
    supports_defer: ClassVar[bool] = True
    supports_async_task: ClassVar[bool] = True
    supports_get_result: ClassVar[bool] = True
    supports_priority: ClassVar[bool] = True

    def validate_task(self, task: Any) -> None:
        """Raise InvalidTask for a task that cannot be run; one that can be is known to djtasks from here on."""
        super().validate_task(task)
        registry.once_ready(lambda: self._adapter().register(task))

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Queue a call of `task`, with the transaction that is open. Returns its TaskResult.

        Raises InvalidTask, TypeError for arguments that do not fit or are no JSON, BrokerUnavailable, MessageTooLarge.
        """
        self.validate_task(task)
        return self._adapter().enqueue(self, task, args, kwargs)

    def get_result(self, result_id: str) -> Any:
        """The TaskResult as it stands now. Raises TaskResultDoesNotExist; BrokerUnavailable."""
        return self._adapter().result_of(self, result_id)

    def check(self, **kwargs: Any) -> Iterator[checks.CheckMessage]:
        """The app is installed, and the settings of djtasks stand in one place."""
        yield from super().check(**kwargs)
        if not apps.is_installed("djtasks"):
            yield checks.Error(
                f"TASKS[{self.alias!r}] is djtasks, which INSTALLED_APPS does not name.",
                hint='Add "djtasks" to INSTALLED_APPS, then: manage.py migrate djtasks.',
                id="djtasks.E015",
            )
        if self.options:
            names = ", ".join(sorted(map(str, self.options)))
            yield checks.Error(
                f"TASKS[{self.alias!r}]['OPTIONS'] has {names}, but this backend has no options.",
                hint="What djtasks can be told stands in the setting DJTASKS.",
                id="djtasks.E012",
            )

    @staticmethod
    def _adapter() -> Any:
        return import_module("djtasks.adapter")
