"""TASK_ROUTES: which queue and priority a job gets when its call does not say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured

Route = Mapping[str, Any]
ROUTE_KEYS = frozenset({"queue", "priority", "routing_key", "exchange"})  # the last two are Celery's and mean nothing
Router = Callable[..., Route | str | None]


def route(name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any) -> Route:
    """What the routes say of this call, {} if nothing: the first router that answers decides."""
    for router in _routers():
        found = router(name, args or (), kwargs or {}, options, task=task)
        if found:
            return {"queue": found} if isinstance(found, str) else found
    return {}


def check() -> None:
    """Raise ImproperlyConfigured or ImportError for TASK_ROUTES that cannot be used."""
    _routers()


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
        given = import_string(given)
    if isinstance(given, Mapping):
        return _map_router(given.items())
    if isinstance(given, (list, tuple)):  # of (pattern, route), where the order counts
        return _map_router(given)
    if callable(given):
        router: Router = given
        return router
    raise ImproperlyConfigured(
        f"TASK_ROUTES takes a dict of patterns, a function, its dotted path, or a list of these, not {given!r}."
    )


def _map_router(entries: Iterable[tuple[str | re.Pattern[str], Route | str]]) -> Router:
    """The first entry that fits the name wins; an exact name before patterns."""
    routes = list(entries)
    for pattern, target in routes:
        _check_route(pattern, target)
    exact = {pattern: target for pattern, target in routes if isinstance(pattern, str)}

    def by_name(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Route | str | None:
        if name in exact:
            return exact[name]
        return next((target for pattern, target in routes if _fits(pattern, name)), None)

    return by_name


def _check_route(pattern: object, target: Any) -> None:
    if isinstance(target, str) or (isinstance(target, Mapping) and target and not target.keys() - ROUTE_KEYS):
        return
    raise ImproperlyConfigured(
        f"TASK_ROUTES[{pattern!r}] must be a queue's name, or a dict with {' and '.join(sorted(ROUTE_KEYS))}, "
        f"not {target!r}."
    )


def _fits(pattern: str | re.Pattern[str], name: str) -> bool:
    """A glob fits the whole name, a regex its beginning, as in Celery."""
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.match(name) is not None
