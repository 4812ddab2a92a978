"""A job as Python: the call that sends it once more, and a test that runs it. Text to be copied."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.apps import apps
from django.db.models import Model

from djtasks import encoding, registry
from djtasks.exceptions import MalformedMessage
from djtasks.masking import masked_call
from djtasks.models import Job
from djtasks.task import Task

LONGEST: Final = 50_000  # characters of one text
LINE: Final = 100  # characters
DEEPEST: Final = 50  # levels


@dataclass(frozen=True, slots=True)
class Copies:
    """Python to be copied; '' for what is too long, or cannot be read."""

    call: str = ""
    test: str = ""


def copies(job: Job) -> Copies:
    """The job as a `delay(…)` call and as a test, its sensitive arguments masked."""
    task = registry.find(job.task)
    if not job.keeps_arguments:
        return Copies()
    try:
        args, kwargs = masked_call(task, *job.arguments())
        return Copies(_bounded(_call(job, task, args, kwargs)), _bounded(_test(job, task, args, kwargs)))
    except (MalformedMessage, RecursionError):
        return Copies()


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST else ""


def _call(job: Job, task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    source = _Source()
    name = source.name_of(task)
    if name:
        return source.with_imports(f"{name}.delay({source.arguments(args, kwargs)})\n")
    source.imports.add("from djtasks import send_task")
    called = source.arguments((job.task, list(args), dict(kwargs)), {})
    return source.with_imports(f"send_task({called})\n")


def _test(job: Job, task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A test that fails as long as the job would."""
    source = _Source()
    name = source.name_of(task)
    if task is None:
        return ""
    if not name:
        source.imports.add("from djtasks import registry")
        name = f"registry.get({job.task!r})"
    if task.is_async or encoding.converters(task.run):  # only a run as a worker's does what these need
        called = f"{name}.apply({source.arguments((tuple(args), dict(kwargs)), {'throw': True})})"
    else:
        called = f"{name}({source.arguments(args, kwargs)})"
    ended = f"ended as {job.state}" if job.is_finished else f"stands as {job.state}"
    error = f" with {job.exception}" if re.fullmatch(r"[\w.]+", job.exception) else ""
    function = re.sub(r"\W", "_", job.task.rpartition(".")[2]).lower().strip("_") or "job"
    source.imports.add("import pytest")
    return source.with_imports(
        f"@pytest.mark.django_db\ndef test_{function}() -> None:\n"
        f"    # Job {job.pk} {ended}{error}.\n"
        f"    {called.replace(chr(10), f'{chr(10)}    ')}\n"
    )


@dataclass(slots=True)
class _Source:
    """Values as the Python that makes them, and the imports that it takes."""

    imports: set[str] = field(default_factory=set)

    def name_of(self, task: Task[Any, Any] | None) -> str:
        """The name under which a task can be imported; '' if it cannot."""
        module, _dot, name = task.name.rpartition(".") if task is not None else ("", "", "")
        if task is None or not name.isidentifier() or getattr(sys.modules.get(module), name, None) is not task:
            return ""
        self.imports.add(f"from {module} import {name}")
        return name

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """A call's arguments; one a line where they would make a long one."""
        named = {name: value for name, value in kwargs.items() if name.isidentifier()}
        rest = {name: value for name, value in kwargs.items() if name not in named}
        pieces = [self.write(each) for each in args]
        pieces += [f"{name}={self.write(value)}" for name, value in named.items()]
        pieces += [f"**{self.write(rest)}"] if rest else []
        line = ", ".join(pieces)
        if len(line) <= LINE:
            return line
        return "\n" + "".join(f"    {each},\n" for each in pieces)

    def write(self, value: Any, depth: int = 0) -> str:
        if depth > DEEPEST:
            raise RecursionError
        if isinstance(value, dict):
            return (
                f"{{{', '.join(f'{self.write(k, depth + 1)}: {self.write(v, depth + 1)}' for k, v in value.items())}}}"
            )
        if isinstance(value, (list, tuple, set, frozenset)):
            return self.several(value, depth)
        if isinstance(value, encoding.ModelReference):
            return self.model(value)
        return self.scalar(value)

    def several(self, values: Any, depth: int) -> str:
        items = ", ".join(self.write(each, depth + 1) for each in values)
        if isinstance(values, list):
            return f"[{items}]"
        if isinstance(values, tuple):
            return f"({items},)" if len(values) == 1 else f"({items})"
        if isinstance(values, frozenset):
            return f"frozenset({{{items}}})" if values else "frozenset()"
        return f"{{{items}}}" if values else "set()"

    def scalar(self, value: Any) -> str:
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if isinstance(value, (datetime, date, time, timedelta)):
            self.imports.add("import datetime")
        elif isinstance(value, (Decimal, UUID)):
            self.imports.add(f"from {type(value).__module__} import {type(value).__name__}")
        return repr(value)

    def model(self, reference: encoding.ModelReference) -> str:
        try:
            model: type[Model] = apps.get_model(reference.label)
        except (LookupError, ValueError):
            return self.write(f"{reference.label} pk={reference.pk}")
        self.imports.add(f"from {model.__module__} import {model.__name__}")
        using = f".using({reference.alias!r})" if reference.alias not in (None, "default") else ""
        return f"{model.__name__}._base_manager{using}.get(pk={self.write(reference.pk)})"

    def with_imports(self, code: str) -> str:
        modules = sorted(each for each in self.imports if each.startswith("import "))
        names = sorted(self.imports.difference(modules))
        return "".join(f"{each}\n" for each in (*modules, *names)) + f"\n\n{code}"
