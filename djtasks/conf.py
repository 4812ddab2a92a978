"""The setting DJTASKS, merged with its defaults. The only reader of it.

Read when used (`settings.TASK_ACKS_LATE`), from one cached object that `override_settings` renews.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.signals import setting_changed

from djtasks.exceptions import ImproperlyConfigured

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "BROKER_URL": "database://",
        "BROKER_OPTIONS": {},
        "TEST_BROKER_URL": "database://",  # takes the place of BROKER_URL in a test run
        "BROKER_TIMEOUT": 5.0,  # seconds
        "DATABASE": "default",
        "RESULT_EXPIRES": timedelta(days=7),  # or seconds; None keeps rows for ever
        "ENQUEUE_ON_COMMIT": "outbox",
        "AUTODISCOVER_MODULES": ["tasks"],
        "IMPORTS": [],
        "TASK_DEFAULT_QUEUE": "default",
        "TASK_DEFAULT_PRIORITY": 0,
        "TASK_DEFAULT_RATE_LIMIT": None,
        "TASK_ROUTES": {},
        "TASK_ACKS_LATE": True,
        "TASK_MAX_LOSSES": 3,
        "TASK_IGNORE_RESULT": False,
        "TASK_TRACK_STARTED": True,
        "TASK_TIME_LIMIT": None,  # seconds
        "TASK_SOFT_TIME_LIMIT": None,  # seconds
        "TASK_SENSITIVE_ARGUMENTS": ["password", "token", "secret", "api_key"],
        "TASK_ALWAYS_EAGER": False,
        "TASK_EAGER_PROPAGATES": False,
        "TASK_ALLOW_ERROR_CB_ON_CHORD_HEADER": False,
        "MAX_MESSAGE_BYTES": 8 * 1024 * 1024,
        "UNKNOWN_TASK_GRACE": 300.0,  # seconds
        "ERROR_EMAILS": [],
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",  # what delivers for djtasks.mail
        "TRACE_ENQUEUE": False,
        "METRICS_TOKEN": None,  # of djtasks.monitoring.views.metrics
        "BEAT_SCHEDULE": {},
        "TIMEZONE": None,  # settings.TIME_ZONE
        "RUNSERVER_WORKER": None,  # under DEBUG
        "WORKER_POOL": None,
        "WORKER_CONCURRENCY": None,  # the CPUs this process may use
        "WORKER_PREFETCH_MULTIPLIER": "auto",
        "WORKER_MAX_TASKS_PER_CHILD": None,
        "WORKER_MAX_MEMORY_PER_CHILD": None,  # KiB
        "WORKER_HEARTBEAT": 2.0,  # seconds
        "WORKER_LOST_AFTER": 10.0,  # seconds
        "WORKER_SHUTDOWN_TIMEOUT": 25.0,  # seconds
    }
)


LONGEST_TIME: Final = 100 * 366 * 86400  # seconds: a century


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LONGEST_TIME


def _is_duration(value: object) -> bool:
    is_time = _is_number(value) or isinstance(value, timedelta)
    return is_time and 0 < (seconds(value) or 0) <= LONGEST_TIME  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_concurrency(value: object) -> bool:
    return value is None or _is_count(value) or (isinstance(value, str) and bool(value))


def _is_secret(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[!-~]{16,}", value) is not None  # what a header can carry


def _is_names(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Iterable) and all(isinstance(each, str) for each in value))


def _is_modules(value: object) -> bool:
    return _is_names(value) and all(part.isidentifier() for name in as_names(value) for part in name.split("."))  # type: ignore[arg-type]


def _is_addresses(value: object) -> bool:
    return isinstance(value, (list, tuple, set, str)) and all("@" in each for each in as_names(value))


def as_names(given: str | Iterable[str]) -> list[str]:
    """One name or an iterable of them, as a list."""
    return [given] if isinstance(given, str) else [str(each) for each in given]


Kind = tuple[str, Callable[[Any], bool]]
_TEXT: Kind = ("a text", lambda value: isinstance(value, str) and bool(value))
_BOOLEAN: Kind = ("True or False", lambda value: isinstance(value, bool))
_MAPPING: Kind = ("a dict", lambda value: isinstance(value, Mapping))
_NAMES: Kind = ("a text or a list of texts", _is_names)
_MODULES: Kind = ("a module's name, such as 'shop.jobs', or a list of them", _is_modules)
_DURATION: Kind = ("a number of seconds above 0, or a timedelta, of a century at most", _is_duration)
_SECONDS: Kind = ("a number of seconds above 0", lambda value: _is_number(value) and value > 0)
_SECRET: Kind = ("a text of 16 or more ASCII characters without spaces", _is_secret)
NEVER_SHOWN: Final = frozenset({"METRICS_TOKEN"})
_COUNT: Kind = ("a whole number above 0", _is_count)


def _or_none(kind: Kind) -> Kind:
    return f"{kind[0]}, or None", lambda value: value is None or kind[1](value)


EXPECTED: Mapping[str, Kind] = MappingProxyType(
    {
        "BROKER_URL": _TEXT,
        "TEST_BROKER_URL": _TEXT,
        "BROKER_OPTIONS": _MAPPING,
        "BROKER_TIMEOUT": _SECONDS,
        "DATABASE": _TEXT,
        "RESULT_EXPIRES": _or_none(_DURATION),
        "ENQUEUE_ON_COMMIT": ('"outbox", True or False', lambda value: value in ("outbox", True, False)),
        "AUTODISCOVER_MODULES": _MODULES,
        "IMPORTS": _MODULES,
        "TASK_DEFAULT_QUEUE": _TEXT,
        "TASK_DEFAULT_PRIORITY": (
            "a whole number from -100 to 100",
            lambda value: isinstance(value, int) and not isinstance(value, bool) and -100 <= value <= 100,
        ),
        "TASK_ACKS_LATE": _BOOLEAN,
        "TASK_MAX_LOSSES": _COUNT,
        "TASK_IGNORE_RESULT": _BOOLEAN,
        "TASK_TRACK_STARTED": _BOOLEAN,
        "TASK_TIME_LIMIT": _or_none(_SECONDS),
        "TASK_SOFT_TIME_LIMIT": _or_none(_SECONDS),
        "TASK_SENSITIVE_ARGUMENTS": _NAMES,
        "TASK_ALWAYS_EAGER": _BOOLEAN,
        "TASK_EAGER_PROPAGATES": _BOOLEAN,
        "MAX_MESSAGE_BYTES": _COUNT,
        "BEAT_SCHEDULE": _MAPPING,
        "TIMEZONE": _or_none(_TEXT),
        "UNKNOWN_TASK_GRACE": ("a number of seconds", lambda value: _is_number(value) and value >= 0),
        "ERROR_EMAILS": ("a list of mail addresses", _is_addresses),
        "EMAIL_BACKEND": _TEXT,
        "METRICS_TOKEN": _or_none(_SECRET),
        "RUNSERVER_WORKER": _or_none(_BOOLEAN),
        "WORKER_POOL": _or_none(_TEXT),
        "WORKER_CONCURRENCY": ('a whole number above 0, a text such as "2x8", or None', _is_concurrency),
        "WORKER_PREFETCH_MULTIPLIER": ('"auto" or a whole number', lambda v: v == "auto" or isinstance(v, int)),
        "WORKER_MAX_TASKS_PER_CHILD": _or_none(_COUNT),
        "WORKER_MAX_MEMORY_PER_CHILD": _or_none(_COUNT),
        "WORKER_HEARTBEAT": _SECONDS,
        "WORKER_LOST_AFTER": _SECONDS,
        "WORKER_SHUTDOWN_TIMEOUT": _SECONDS,
    }
)
BEATS_BEFORE_LOST = 3  # heartbeats that WORKER_LOST_AFTER must cover, so that one late beat costs nothing


class Settings:
    """One reading of DJTASKS: each key is an attribute."""

    def __init__(self, given: object) -> None:
        if not isinstance(given, Mapping):
            raise ImproperlyConfigured(f"DJTASKS must be a dict, not {type(given).__name__}.")
        self.unknown = sorted(str(key) for key in given if key not in DEFAULTS)
        self.__dict__.update(DEFAULTS)
        self.__dict__.update({key: value for key, value in given.items() if key in DEFAULTS})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"DJTASKS has no setting {name!r}.{nearest(name)}")

    def modules(self, name: str) -> list[str]:
        """The modules that this setting names; none if it cannot be right, which `problems` tells."""
        given = getattr(self, name)
        return as_names(given) if _is_modules(given) else []

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = [
            f"DJTASKS[{name!r}] must be {kind}{self._shown(name)}."
            for name, (kind, is_right) in EXPECTED.items()
            if not is_right(getattr(self, name))
        ]
        if not found and self.WORKER_LOST_AFTER < BEATS_BEFORE_LOST * self.WORKER_HEARTBEAT:
            found.append(
                f"DJTASKS['WORKER_LOST_AFTER'] ({self.WORKER_LOST_AFTER} s) must be at least {BEATS_BEFORE_LOST} times "
                f"WORKER_HEARTBEAT ({self.WORKER_HEARTBEAT} s), or workers that live are taken for dead."
            )
        return found

    def _shown(self, name: str) -> str:
        """What a wrong value is, for a sentence; nothing of one that nobody is to read."""
        return "" if name in NEVER_SHOWN else f", not {getattr(self, name)!r:.100}"

    @property
    def broker_url(self) -> str:
        """`BROKER_URL`, in a test run `TEST_BROKER_URL`: tests must not meet the site's own jobs."""
        return str(self.TEST_BROKER_URL if _is_test_run() else self.BROKER_URL)

    @property
    def metrics_token(self) -> str | None:
        """`METRICS_TOKEN`, None if it is not fit to be one, as "" of an empty variable: then it opens nothing."""
        return self.METRICS_TOKEN if _is_secret(self.METRICS_TOKEN) else None

    @property
    def result_expires(self) -> float | None:
        """`RESULT_EXPIRES` in seconds."""
        return seconds(self.RESULT_EXPIRES)


def _is_test_run() -> bool:
    """Whether Django's test environment is set up in this process, as `manage.py test` and pytest-django do."""
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


def nearest(name: str) -> str:
    """' Did you mean …?' for a name that is nearly one of ours, else ''."""
    close = get_close_matches(name.upper(), list(DEFAULTS), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def seconds(duration: float | timedelta | None) -> float | None:
    """A duration in seconds, whether it came as a number or a timedelta."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


@cache
def _current() -> Settings:
    return Settings(getattr(django_settings, "DJTASKS", {}))


def is_readable() -> bool:
    """Whether DJTASKS is a dict; if it is none, a check says so, and whoever reads a setting gets an error."""
    return isinstance(getattr(django_settings, "DJTASKS", {}), Mapping)


class _CurrentSettings:
    """What was read once is an attribute from then on: a call of `delay` asks a dozen times."""

    def __getattr__(self, name: str) -> Any:
        read = self.__dict__
        value = getattr(_current(), name)
        if name in DEFAULTS:
            read[name] = value
        return value


settings: Settings = _CurrentSettings()  # type: ignore[assignment]  # stands for whatever is current


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == "DJTASKS":
        _current.cache_clear()
        settings.__dict__ = {}  # another one: who is reading just now may still store what was


setting_changed.connect(_forget, dispatch_uid="djtasks.conf")
