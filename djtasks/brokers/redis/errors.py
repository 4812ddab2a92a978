"""What redis-py's errors mean to us: whether the next try may go better, whether waiting helps at all, and in words."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from redis import exceptions
from redis.sentinel import MasterNotFoundError

TRANSIENT: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,  # of a master that has become a replica
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.MovedError,
    exceptions.AskError,
    exceptions.MasterDownError,
    exceptions.RedisClusterException,  # no node answers, or none has our slot
    OSError,
)
_FINAL: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_ELSEWHERE: Final = (exceptions.MovedError, exceptions.AskError)
_LACKS_REPLICAS: Final = "NOREPLICAS"
_UNKNOWN: Final = "unknown command"
_MEANINGS: Final = {
    "OOM ": "Redis is out of memory, so it takes no new jobs; those it has are kept and run. Raise maxmemory.",
    "MISCONF": "Redis cannot write to its disk, so it takes nothing.",
    _LACKS_REPLICAS: "Redis takes nothing while it has fewer replicas than min-replicas-to-write.",
}


def may_pass(error: BaseException) -> bool:
    """Whether the next try may go better."""
    return (isinstance(error, TRANSIENT) or _LACKS_REPLICAS in str(error)) and not isinstance(error, _FINAL)


def is_refusal(error: BaseException, url: str) -> bool:
    """Whether waiting does not help: we may not do it, or `url` is of another kind than the server."""
    text = str(error)  # of a command inside a script: Redis before and from 7.0 on
    may_not = isinstance(error, _FINAL) or "can't run this command" in text or "ACL failure in script" in text
    return may_not or bool(_misled(error, url))


def explained(error: BaseException, url: str) -> str:
    """The error in words, and what to do."""
    text = str(error)
    if isinstance(error, MasterNotFoundError):
        trust = " Is what they show a certificate that ?ssl_ca_certs= vouches for?" if url.startswith("rediss") else ""
        return f"No sentinel answers that knows the master. Do they run, and is ?service= its name?{trust}"
    marked = f"OOM {text}" if isinstance(error, exceptions.OutOfMemoryError) else text
    meaning = next((meaning for mark, meaning in _MEANINGS.items() if mark in marked), "") or _misled(error, url)
    if not meaning and isinstance(error, _ELSEWHERE):
        meaning = "The slots of our keys are moving to another node."
    if not meaning and isinstance(error, exceptions.ReadOnlyError):
        meaning = "Redis is a replica, which takes nothing. Does BROKER_URL lead to the master?"
    if not meaning and is_refusal(error, url):
        meaning = "Redis refuses us; see the user, the password and the ACL (docs/brokers.md)."
    if not meaning and isinstance(error, (exceptions.ConnectionError, OSError)):
        meaning = "Redis does not answer. Does it run, and is BROKER_URL right?"
        text = text or type(error).__name__
    return f"{meaning} ({text})" if meaning else f"Redis does not answer as it should: {text or type(error).__name__}"


def _misled(error: BaseException, url: str) -> str:
    """What BROKER_URL should be, if the server is of another kind than it says; '' if it is of that kind."""
    scheme, text = urlsplit(url).scheme, str(error)
    if isinstance(error, _ELSEWHERE) and not scheme.endswith("+cluster"):
        return "Redis is a node of a cluster: let BROKER_URL begin with redis+cluster:// and name some of its nodes."
    if "Cluster mode is not enabled" in text:
        return "Redis is no node of a cluster: let BROKER_URL begin with redis://."
    if _UNKNOWN in text and "'SENTINEL'" in text:
        return "Redis is no sentinel: let BROKER_URL name the sentinels, or begin with redis://."
    if _UNKNOWN in text and not scheme.endswith("+sentinel"):
        return "Is this a sentinel? Then BROKER_URL begins with redis+sentinel:// and ends with ?service=<its master>."
    return ""
