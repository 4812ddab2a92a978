"""TASK_ROUTES: the options that a job gets when neither its call nor its task says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured
from djtasks.message import checked_priority, checked_queue

Route = Mapping[str, Any]
Router = Callable[..., Route | str | None]
Pattern = str | re.Pattern[str]
OPTIONS: Final = ("queue", "priority", "expires", "time_limit", "soft_time_limit")  # what a route may set
# Celery's words for a message broker's exchanges and transport: taken, and of no effect here.
WITHOUT_EFFECT: Final = frozenset(
    {
        "exchange",
        "exchange_type",
        "routing_key",
        "delivery_mode",
        "serializer",
        "compression",
        "immediate",
        "mandatory",
    }
)


def route(name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any) -> Route:
    """What the routes say of this call, {} if nothing: the first router that answers decides.

    Raises ImproperlyConfigured for routes, or an answer, that cannot be used.
    """
    for router in _routers():
        found = router(name, args or (), kwargs or {}, options, task=task)
        if found:
            return _expanded(found, f"The router {_name_of(router)} gave, for {name},")
    return {}


def check() -> None:
    """Raise ImproperlyConfigured for TASK_ROUTES that cannot be used."""
    _routers()


def queues() -> set[str]:
    """The queues that routes name; what functions will answer is known only at the call."""
    return {queue for router in _routers() if isinstance(router, MapRouter) for queue in router.queues}


class MapRouter:
    """Routes by the task's name: an exact name goes before patterns, of which the first that fits counts."""

    def __init__(self, entries: Iterable[tuple[Pattern, Route | str]]) -> None:
        entries = list(entries)
        for pattern, _target in entries:
            if not isinstance(pattern, (str, re.Pattern)):
                raise ImproperlyConfigured(f"TASK_ROUTES takes names, globs or regexes of tasks, not {pattern!r:.100}.")
        routes = [
            (pattern, _expanded(target, f"TASK_ROUTES[{_shown(pattern)}] is", checks_values=True))
            for pattern, target in entries
        ]
        self.queues = {target["queue"] for _, target in routes if target.get("queue")}
        self._exact = {pattern: target for pattern, target in routes if isinstance(pattern, str)}
        self._routes = routes

    def __call__(self, name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Route | None:
        if name in self._exact:
            return self._exact[name]
        return next((target for pattern, target in self._routes if _fits(pattern, name)), None)


@cache
def _routers() -> tuple[Router, ...]:
    given = settings.TASK_ROUTES
    several = given if isinstance(given, (list, tuple)) else [given]
    return tuple(_router(each) for each in several if each)


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == "DJTASKS":
        _routers.cache_clear()


setting_changed.connect(_forget, dispatch_uid="djtasks.routing")


def _router(given: Any) -> Router:
    if isinstance(given, str):
        given = _imported(given)
    if isinstance(given, Mapping):
        return MapRouter(given.items())
    if _is_pair(given):
        return MapRouter([given])
    if isinstance(given, (list, tuple)) and all(_is_pair(each) for each in given):  # where the order counts
        return MapRouter(given)
    if isinstance(given, type):
        given = given()
    if hasattr(given, "route_for_task"):  # Celery's older kind, a class with this method
        return lambda name, args, kwargs, options, task=None: given.route_for_task(name, args, kwargs)
    if callable(given):
        router: Router = given
        return router
    raise ImproperlyConfigured(
        f"TASK_ROUTES takes a dict of patterns, a function, its dotted path, or a list of these, not {given!r:.200}."
    )


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except (ImportError, TypeError, ValueError) as error:  # a path such as "./routes.py" is no name either
        raise ImproperlyConfigured(
            f"TASK_ROUTES names the router {path!r}, which cannot be imported: {error}. "
            "A queue stands in a dict: {pattern: queue}."
        ) from error


def _is_pair(given: Any) -> bool:
    """Whether it is (pattern, route)."""
    return (
        isinstance(given, (list, tuple))
        and len(given) == 2
        and isinstance(given[0], (str, re.Pattern))
        and isinstance(given[1], (str, Mapping))
    )


def _expanded(target: Any, whose: str, *, checks_values: bool = False) -> Route:
    """The route as a dict. `whose` begins the sentence of the error."""
    if isinstance(target, str):
        target = {"queue": target}
    if not isinstance(target, Mapping) or not target:
        raise ImproperlyConfigured(f"{whose} {target!r:.200}, which is neither a queue's name nor a dict of options.")
    for name in target.keys() - WITHOUT_EFFECT - {*OPTIONS}:
        close = get_close_matches(str(name), OPTIONS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(OPTIONS)}."
        raise ImproperlyConfigured(f"{whose} {target!r:.200}: a route cannot set {name!r}. {hint}")
    if checks_values:
        _check_values(target, whose)
    return target


def _check_values(target: Route, whose: str) -> None:
    try:
        if target.get("queue") is not None:
            checked_queue(target["queue"])
        if target.get("priority") is not None:
            checked_priority(target["priority"])
        for name in ("time_limit", "soft_time_limit"):
            if target.get(name) and not (isinstance(target[name], (int, float)) and target[name] > 0):
                raise ValueError(f"{name} must be a number of seconds above 0, not {target[name]!r:.100}")
        expires = target.get("expires")
        if expires is not None and not isinstance(expires, (int, float, timedelta, datetime)):
            raise ValueError(f"expires must be seconds, a timedelta or a time, not {expires!r:.100}")
    except ValueError as error:
        raise ImproperlyConfigured(f"{whose} {target!r:.200}: {error}") from error


def _fits(pattern: Pattern, name: str) -> bool:
    """A glob fits the whole name, a regex its beginning, as in Celery."""
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.match(name) is not None


def _shown(pattern: Pattern) -> str:
    return repr(pattern if isinstance(pattern, str) else pattern.pattern)


def _name_of(router: Any) -> str:
    return f"{getattr(router, '__module__', '')}.{getattr(router, '__qualname__', type(router).__qualname__)}"
