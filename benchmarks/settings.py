"""The Django site of the benchmarks. One process measures one peer, so there is one database.

The session puts into the environment which one: `DJTASKS_BENCH_DATABASE` is its kind, `DJTASKS_BENCH_FILES` the folder
of all files, `DJTASKS_BENCH_APP` the peer's own app, and the URL of each server stands where `tests.servers` looks for
it. A worker imports this: so nothing is imported that only other peers need, or its memory would tell of that.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "djtasks_bench"
REDIS_DATABASE = 13  # neither the one of the tests, nor 0, which people use
KIND = os.environ.get("DJTASKS_BENCH_DATABASE", "sqlite")
FILES = Path(os.environ.get("DJTASKS_BENCH_FILES", "."))


def redis_url() -> str:
    """The benchmarks' own database on the Redis server."""
    return os.environ["DJTASKS_TEST_REDIS_URL"].rpartition("/")[0] + f"/{REDIS_DATABASE}"


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
    if engine == "mysql" and find_spec("MySQLdb") is None:  # what Django recommends, and quicker; it needs a compiler
        import_module("pymysql").install_as_MySQLdb()
    server = urlsplit(os.environ[f"DJTASKS_TEST_{KIND.upper()}_URL"])
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": NAME,
        "USER": unquote(server.username or ""),
        "PASSWORD": unquote(server.password or ""),
        "HOST": server.hostname or "127.0.0.1",
        "PORT": server.port or PORTS[engine],
        "CONN_MAX_AGE": 600,
    }


PORTS = {"postgresql": 5432, "mysql": 3306}
ENGINES = {"postgresql": "postgresql", "mariadb": "mysql"}
DATABASES = {"default": _sqlite() if KIND == "sqlite" else _on_server(ENGINES[KIND])}
if os.environ.get("DJTASKS_BENCH_BROKER") == "redis":
    DJTASKS = {"BROKER_URL": redis_url(), "TASK_IGNORE_RESULT": "DJTASKS_BENCH_IGNORE" in os.environ}
SECRET_KEY = "only for benchmarks"
USE_TZ = True
INSTALLED_APPS = ["benchmarks", *os.environ.get("DJTASKS_BENCH_APP", "djtasks").split()]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None
