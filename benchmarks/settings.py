"""The Django site of the benchmarks. One process measures one peer, so there is one database.

The session puts into the environment which one: `DJTASKS_BENCH_DATABASE` is its kind,
`DJTASKS_BENCH_FILES` the folder of all files, and `tests.servers` knows where the servers are.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pymysql

from tests import servers

if find_spec("MySQLdb") is None:  # what Django recommends, and quicker; it needs a compiler
    pymysql.install_as_MySQLdb()

NAME = "djtasks_bench"
REDIS_DATABASE = 13  # neither the one of the tests, nor 0, which people use
KIND = os.environ.get("DJTASKS_BENCH_DATABASE", "sqlite")
FILES = Path(os.environ.get("DJTASKS_BENCH_FILES", "."))


def redis_url() -> str:
    """The benchmarks' own database on the Redis server."""
    return os.environ[servers.variable("redis")].rpartition("/")[0] + f"/{REDIS_DATABASE}"


def _sqlite() -> dict[str, object]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(FILES / "bench.sqlite3"),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def _on_server(engine: str) -> dict[str, object]:
    server = servers.described(KIND, os.environ[servers.variable(KIND)])
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": NAME,
        "USER": server.user,
        "PASSWORD": server.password,
        "HOST": server.host,
        "PORT": server.port,
        "CONN_MAX_AGE": 600,
    }


ENGINES = {"postgresql": "postgresql", "mariadb": "mysql"}
DATABASES = {"default": _sqlite() if KIND == "sqlite" else _on_server(ENGINES[KIND])}
if os.environ.get("DJTASKS_BENCH_BROKER") == "redis":
    DJTASKS = {"BROKER_URL": redis_url(), "TASK_IGNORE_RESULT": "DJTASKS_BENCH_IGNORE" in os.environ}
SECRET_KEY = "only for benchmarks"
USE_TZ = True
INSTALLED_APPS = ["djtasks", "benchmarks", *(["django_celery_results"] if find_spec("django_celery_results") else [])]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None
