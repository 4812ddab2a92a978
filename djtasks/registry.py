"""Which task has which name in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps

from djtasks.conf import settings
from djtasks.exceptions import DuplicateTask, ImproperlyConfigured, NotRegistered

if TYPE_CHECKING:
    from djtasks.task import Task

Declared = TypeVar("Declared", bound="Task[Any, Any] | type[Task[Any, Any]]")

_tasks: dict[str, Task[Any, Any]] = {}
_to_register: list[Callable[[], object]] = []  # what is declared before models are loaded


def register(task: Declared) -> Declared:
    """Make `task` (an instance or a class of Task) known by its name; returns it.

    The same function again (a reload, a task instance registered twice) takes the place of the
    first. Raises DuplicateTask if the name belongs to another function.
    """
    instance = task() if isinstance(task, type) else task
    known = _tasks.get(instance.name)
    if known is not None and known.origin != instance.origin:
        raise DuplicateTask(
            f"Two tasks are named {instance.name!r}: {known.origin} and {instance.origin}. "
            f"Give one of them another name: @shared_task(name=…)."
        )
    _tasks[instance.name] = instance
    return task


def get(name: str) -> Task[Any, Any]:
    """The task of that name. Raises NotRegistered."""
    try:
        return _tasks[name]
    except KeyError:
        raise NotRegistered(f"No task named {name!r} is registered here.") from None


def find(name: str) -> Task[Any, Any] | None:
    """The task of that name, or None."""
    return _tasks.get(name)


def names() -> list[str]:
    """The names of all registered tasks, in order."""
    return sorted(_tasks)


def all_tasks() -> Iterator[Task[Any, Any]]:
    """All registered tasks, in the order of their names."""
    return (_tasks[name] for name in names())


def unregister(name: str) -> None:
    """Forget the task of that name. Raises NotRegistered."""
    get(name)
    del _tasks[name]


def once_ready(register: Callable[[], object]) -> None:
    """Call `register` once models are loaded: now, if they are."""
    if apps.models_ready:
        register()
    else:
        _to_register.append(register)


def autodiscover() -> None:
    """Import the `AUTODISCOVER_MODULES` of all installed apps, and `IMPORTS`.

    Of a package, all modules are imported but those named `test…`, `conftest` or `_…`. An app
    without such a module is passed over; an error inside one is raised as it is. Raises ImproperlyConfigured for a
    module of `IMPORTS` that is not there.
    """
    while _to_register:
        _to_register.pop(0)()
    for config in apps.get_app_configs():
        for module in settings.modules("AUTODISCOVER_MODULES"):
            if _exists(f"{config.name}.{module}"):
                _import_with_submodules(f"{config.name}.{module}")
    for module in settings.modules("IMPORTS"):
        if not _exists(module):
            raise ImproperlyConfigured(f"DJTASKS['IMPORTS'] names the module {module!r}, which there is not.")
        import_module(module)


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError as error:
        # Above it there is no package; what a package on the way misses is an error inside it.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return False


def _import_with_submodules(name: str) -> None:
    module = import_module(name)
    for found in iter_modules(getattr(module, "__path__", ())):
        if not found.name.startswith(("test", "_")) and found.name != "conftest":
            _import_with_submodules(f"{name}.{found.name}")
