"""What there is to say of a task: who knows it, what it takes, how it is declared."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from djtasks import registry
from djtasks.admin.presentation import NOTHING
from djtasks.conf import settings
from djtasks.models import Job, Limit, Worker
from djtasks.models.worker import tasks_in
from djtasks.task import Task

LONGEST_VALUE: Final = 200  # characters
# The option, and the setting that holds where it is not given.
OPTIONS: Final[Mapping[str, str]] = {
    "queue": "TASK_DEFAULT_QUEUE",
    "priority": "TASK_DEFAULT_PRIORITY",
    "max_retries": "",
    "default_retry_delay": "",
    "autoretry_for": "",
    "dont_autoretry_for": "",
    "retry_backoff": "",
    "retry_backoff_max": "",
    "retry_jitter": "",
    "time_limit": "TASK_TIME_LIMIT",
    "soft_time_limit": "TASK_SOFT_TIME_LIMIT",
    "expires": "",
    "acks_late": "TASK_ACKS_LATE",
    "ignore_result": "TASK_IGNORE_RESULT",
    "track_started": "TASK_TRACK_STARTED",
    "rate_limit": "TASK_DEFAULT_RATE_LIMIT",
    "rate_limit_key": "",
    "max_concurrency": "",
    "max_concurrency_key": "",
    "unique": "",
    "schedule": "",
    "typing": "",
    "pydantic": "",
    "throws": "",
    "store_arguments": "",
    "sensitive_arguments": "",
}


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a task, as text; `is_own` if the task itself says so."""

    name: str
    value: str
    is_own: bool


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Who knows a task: this process, and how many of so many live workers."""

    here: bool
    workers: int
    of: int

    @property
    def text(self) -> str:
        """That in words."""
        if not self.of:
            return _("here; no worker lives") if self.here else _("not here; no worker lives")
        words = ngettext("%(known)d of %(all)d worker", "%(known)d of %(all)d workers", self.of)
        workers = words % {"known": self.workers, "all": self.of}
        return (_("here, %(workers)s") if self.here else _("not here, %(workers)s")) % {"workers": workers}

    @property
    def is_lacking(self) -> bool:
        """Whether workers live, and none of them could run it."""
        return bool(self.of) and not self.workers


class Known:
    """Which tasks this process and the live workers know."""

    def __init__(self) -> None:
        live = Worker.objects.live().order_by().values("tasks").annotate(count=Count("pk"))
        self.workers = 0
        self._by_task: Counter[str] = Counter()
        for row in live:
            self.workers += row["count"]
            for name in tasks_in(row["tasks"]):
                self._by_task[name] += row["count"]

    def names(self) -> set[str]:
        """All of them."""
        return {*registry.names(), *self._by_task}

    def of(self, name: str) -> Knowledge:
        return Knowledge(registry.find(name) is not None, self._by_task[name], self.workers)

    @property
    def elsewhere(self) -> int:
        """How many tasks only workers know."""
        return len(self._by_task.keys() - set(registry.names()))


def is_known(name: str, known: Known) -> bool:
    """Whether anybody has heard of a task of that name."""
    if name in known.names():
        return True
    return Limit.objects.filter(pk=name, is_task=True).exists() or Job.objects.filter(task=name).exists()


def signature_of(task: Any) -> str:
    """How it is called: '(path: str, pages: int = 1)'."""
    signature: inspect.Signature = task.parameters
    parameters = [each.replace(annotation=_words(each.annotation)) for each in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=_words(signature.return_annotation)))


class _Words:
    """An annotation that is a text: shown without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _words(annotation: Any) -> Any:
    return _Words(annotation) if isinstance(annotation, str) else annotation


def docstring_of(task: Any) -> str:
    """What its author says of it."""
    text = task.__doc__
    return inspect.cleandoc(text) if text and text != Task.__doc__ else ""


def options_of(task: Any) -> list[Option]:
    """Its options, those first that it sets itself."""
    found = [_option(task, name, setting) for name, setting in OPTIONS.items()]
    return sorted(found, key=lambda option: not option.is_own)


def _option(task: Any, name: str, setting: str) -> Option:
    value, usual = getattr(task, name, None), getattr(Task, name, None)
    is_own = value != usual
    if value is None and setting:
        value = getattr(settings, setting)
    return Option(name, _as_text(value), is_own)


def _as_text(value: Any) -> str:
    if value is None or value == () or value == {}:
        return NOTHING
    if isinstance(value, bool):
        return str(_WORDS[value])
    if isinstance(value, (type, str, int, float, timedelta, datetime)) or callable(value):
        text = value.__qualname__ if hasattr(value, "__qualname__") else str(value)
    elif isinstance(value, Iterable) and isinstance(value, Collection):
        text = ", ".join(_as_text(each) for each in value)
    else:
        text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


_WORDS: Final[Mapping[bool, Any]] = {True: gettext_lazy("yes"), False: gettext_lazy("no")}
