"""Where jobs wait. `get_broker()` gives the one that BROKER_URL names."""

from __future__ import annotations

from functools import cache
from typing import Final
from urllib.parse import urlsplit

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from djtasks.brokers.base import Broker, unreadable
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured

__all__ = ["BROKERS", "Broker", "broker_for", "get_broker"]

_REDIS: Final = "djtasks.brokers.redis.broker.RedisBroker"
BROKERS: Final = {
    "database": "djtasks.brokers.database.broker.DatabaseBroker",
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss+sentinel": _REDIS,
    "redis+cluster": _REDIS,
    "rediss+cluster": _REDIS,
}


# Of all brokers; each takes what concerns it.
OPTIONS: Final = {"prefix": str, "durable": bool, "replicas": int, "listen": bool}


def get_broker() -> Broker:
    """The process's broker. Raises ImproperlyConfigured for a BROKER_URL that none fits."""
    return _kept(settings.broker_url)


@cache
def _kept(url: str) -> Broker:
    return broker_for(url)


def broker_for(url: str) -> Broker:
    """The broker that `url` names, not connected yet. Raises ImproperlyConfigured."""
    try:
        scheme = urlsplit(str(url)).scheme
    except ValueError as error:
        raise unreadable(str(url), error) from error
    if scheme not in BROKERS:
        known = ", ".join(f"{name}://" for name in BROKERS)
        raise ImproperlyConfigured(
            f"DJTASKS['BROKER_URL'] begins with {scheme + '://' if scheme else repr(str(url))}, "
            f"which no broker of djtasks serves. There are: {known}."
        )
    _check_options()
    try:
        broker: Broker = import_string(BROKERS[scheme])(url)
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            f"{scheme}:// needs the package {error.name}: pip install 'djtasks[redis]'"
        ) from error
    return broker


def _check_options() -> None:
    for name, value in settings.BROKER_OPTIONS.items():
        if name not in OPTIONS:
            raise ImproperlyConfigured(
                f"BROKER_OPTIONS has {name!r}, which no broker of djtasks knows. There are: {', '.join(OPTIONS)}; "
                f"what concerns the connection to Redis stands in BROKER_URL, after the ?."
            )
        if not isinstance(value, OPTIONS[name]) or (isinstance(value, int) and value < 0):
            raise ImproperlyConfigured(f"BROKER_OPTIONS[{name!r}] must be a {OPTIONS[name].__name__}, not {value!r}.")


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == "DJTASKS":
        _kept.cache_clear()


setting_changed.connect(_forget, dispatch_uid="djtasks.brokers")
