"""What a server must be, so that it keeps what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from djtasks.brokers.redis.server import version_of

OLDEST: Final = (6, 2)  # has ZRANGE … BYSCORE and ZADD … LT
DURABLE: Final = (7, 2)  # has WAITAOF
NOT_DURABLE: Final = "BROKER_OPTIONS['durable'] needs Redis 7.2 or newer (WAITAOF) with appendonly yes."


def unmet(
    facts: Mapping[str, str], *, never_syncs: bool, replicas: int = 0, is_cluster: bool = False
) -> tuple[list[str], list[str]]:
    """Errors and warnings for a server of these `facts` (what INFO says).

    `never_syncs`: whether its appendfsync is no although `durable` is asked for. `replicas`: how many it must have.
    `is_cluster`: whether BROKER_URL says that it is a node of one.
    """
    version = version_of(facts)
    errors, warnings = [], []
    if version < OLDEST:
        errors.append(f"Redis {facts['redis_version']} is too old; djtasks needs 6.2, or Valkey 7.2, or newer.")
    if never_syncs:
        errors.append("BROKER_OPTIONS['durable'] needs appendfsync everysec or always, not no.")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        errors.append(
            f"Redis has maxmemory-policy {policy}: once its memory is full it deletes jobs and says nothing. "
            f"Set maxmemory-policy noeviction; caches want a server of their own."
        )
    if facts.get("aof_enabled") != "1":
        warnings.append(
            "Redis keeps no append-only file: what came since its last snapshot, if it makes any, is lost when it "
            "crashes. Set appendonly yes."
        )
    if facts.get("redis_mode") == "cluster" and not is_cluster:
        warnings.append(
            "Redis is a node of a cluster, and takes our keys as long as it has their slots. Let BROKER_URL begin with "
            "redis+cluster:// and name some of its nodes."
        )
    if int(facts.get("connected_slaves", replicas)) < replicas:
        warnings.append(
            f"BROKER_OPTIONS['replicas'] asks for {replicas}, and Redis has {facts['connected_slaves']}: until the "
            f"others follow it, it takes no job."
        )
    return errors, warnings


def is_durable(facts: Mapping[str, str]) -> bool:
    """Whether it can promise what `durable` asks for."""
    return version_of(facts) >= DURABLE and facts.get("aof_enabled") == "1"
