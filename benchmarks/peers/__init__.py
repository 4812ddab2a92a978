"""The queues that are compared: one line each here, one small file each beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a peer is and what it needs. Known without importing it: each is imported in a process of its own."""

    module: str  # holds PEER, a subclass of `Peer`
    database: str  # of the Django site: sqlite, postgresql or mariadb
    redis: bool = False
    app: str = ""  # what it has in INSTALLED_APPS
    environment: Mapping[str, str]
    note: str  # its settings, for the reader of the table

    @property
    def servers(self) -> list[str]:
        """The kinds of servers it talks to, as `tests.servers` names them."""
        return [kind for kind, needed in ((self.database, self.database != "sqlite"), ("redis", self.redis)) if needed]


def _djtasks(database: str, note: str, *, redis: bool = False) -> Entry:
    return Entry(
        module=f"benchmarks.peers.djtasks_{'redis' if redis else 'database'}",
        database=database,
        redis=redis,
        app="djtasks",
        environment={"DJTASKS_BENCH_BROKER": "redis" if redis else ""},
        note=f"{note}; 2 children; every result stored; acknowledged after the run",
    )


def _celery(module: str, database: str, results: str, note: str) -> Entry:
    return Entry(
        module=f"benchmarks.peers.{module}",
        database=database,
        redis=True,
        app="django_celery_results" if results == "django-db" else "",
        environment={"DJTASKS_BENCH_RESULTS": results},
        note=f"Redis; prefork, 2 children; {note}; acknowledged before the run (its default)",
    )


PEERS: Final[dict[str, Entry]] = {
    "djtasks-sqlite": _djtasks("sqlite", "SQLite"),
    "djtasks-postgresql": _djtasks("postgresql", "PostgreSQL"),
    "djtasks-mariadb": _djtasks("mariadb", "MariaDB"),
    "djtasks-redis": _djtasks("postgresql", "queues in Redis, results in PostgreSQL", redis=True),
    "djtasks-ignored": Entry(
        module="benchmarks.peers.djtasks_ignored",
        database="postgresql",
        redis=True,
        app="djtasks",
        environment={"DJTASKS_BENCH_BROKER": "redis", "DJTASKS_BENCH_IGNORE": "1"},
        note="queues in Redis; 2 children; results ignored; acknowledged after the run",
    ),
    "celery-redis": _celery("celery_redis", "sqlite", "", "results ignored"),
    "celery-canvas": _celery("celery_canvas", "sqlite", "redis", "every result stored in Redis"),
    "celery-results": _celery(
        "celery_results", "postgresql", "django-db", "every result stored in PostgreSQL, CELERY_DB_REUSE_MAX set"
    ),
    "huey": Entry(
        module="benchmarks.peers.huey_redis",
        database="sqlite",
        redis=True,
        environment={},
        note="Redis; 2 processes; results in Redis; a job is gone from Redis before its run",
    ),
    "dramatiq": Entry(
        module="benchmarks.peers.dramatiq_redis",
        database="sqlite",
        redis=True,
        environment={"dramatiq_queue_prefetch": "100"},
        note="Redis; 2 processes of 1 thread, dramatiq_queue_prefetch=100; results ignored; acknowledged after the run",
    ),
    "procrastinate": Entry(
        module="benchmarks.peers.procrastinate_postgresql",
        database="postgresql",
        environment={},
        note="PostgreSQL; 2 workers of concurrency 1; rows of ended jobs stay, without results; "
        "acknowledged after the run",
    ),
}
BASELINE: Final = (
    "celery-redis",
    "celery-canvas",
    "celery-results",
)  # what ratios refer to: the first of these that has the figure
