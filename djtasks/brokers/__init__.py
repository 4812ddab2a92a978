"""Where jobs wait. `get_broker()` gives the one that BROKER_URL names."""

from __future__ import annotations

from functools import cache
from typing import Final
from urllib.parse import urlsplit

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from djtasks.brokers.base import Broker
from djtasks.conf import settings
from djtasks.exceptions import ImproperlyConfigured

__all__ = ["BROKERS", "Broker", "broker_for", "get_broker"]

BROKERS: Final = {
    "database": "djtasks.brokers.database.broker.DatabaseBroker",
}


@cache
def get_broker() -> Broker:
    """The process's broker. Raises ImproperlyConfigured for a BROKER_URL that none fits."""
    return broker_for(settings.BROKER_URL)


def broker_for(url: str) -> Broker:
    """The broker that `url` names, not connected yet. Raises ImproperlyConfigured."""
    scheme = urlsplit(str(url)).scheme
    if scheme not in BROKERS:
        known = ", ".join(f"{name}://" for name in BROKERS)
        raise ImproperlyConfigured(
            f"DJTASKS['BROKER_URL'] begins with {scheme + '://' if scheme else repr(str(url))}, "
            f"which no broker of djtasks serves. There are: {known}."
        )
    broker: Broker = import_string(BROKERS[scheme])(url)
    return broker


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == "DJTASKS":
        get_broker.cache_clear()


setting_changed.connect(_forget, dispatch_uid="djtasks.brokers")
