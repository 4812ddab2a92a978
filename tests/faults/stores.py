"""What a run stands on: servers of its own behind proxies, and the environment of the processes that use them."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from tests import own_servers, servers
from tests.own_servers import Account
from tests.processes import worker_environment
from tests.proxy import Proxy
from tests.redis_servers import RedisProcess

ALIASES = {"sqlite": "default", "postgresql": "postgresql", "mariadb": "mariadb", "redis": "postgresql"}
SUFFIX = "faults"
SCHEMES = {"postgresql": "postgres://postgres@", "mariadb": "mysql://root@", "redis": "redis://"}
PATHS = {"postgresql": "/postgres", "mariadb": "/", "redis": "/15"}


class Database:
    """A PostgreSQL or MariaDB of our own, which loses no commit if its process is killed."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._own = servers.start(kind, command=_mariadb if kind == "mariadb" else None)
        self.port = self._own.server.port
        self.version = self._own.server.version
        (_make_mysql if kind == "mariadb" else _make_postgresql)(self.port)

    def restart(self, number: signal.Signals) -> None:
        """End it by a signal, and return when it lets us in again."""
        self._own.restart(number)

    def pause(self) -> None:
        self._own.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._own.process.signal(signal.SIGCONT)

    def close(self) -> None:
        self._own.stop()


class RedisServer:
    """A Redis of our own, which writes each change to its file before it answers."""

    kind = "redis"

    def __init__(self) -> None:
        self._own = RedisProcess(kind="redis", options={"appendonly": "yes", "appendfsync": "always"})
        self.port = self._own.port
        self.version = f"Redis {self._own.client().info('server')['redis_version']}"

    def restart(self, number: signal.Signals) -> None:
        self._own.process.signal(number)
        self._own.restart()

    def pause(self) -> None:
        self._own.pause()

    def resume(self) -> None:
        self._own.resume()

    def fill(self) -> None:
        """Let it refuse whatever takes memory."""
        self._own.client().config_set("maxmemory", "1")

    def make_room(self) -> None:
        self._own.client().config_set("maxmemory", "0")

    def close(self) -> None:
        self._own.close()


class Store:
    """The servers of a broker. Workers and producers reach each by a proxy of theirs, we directly."""

    def __init__(self, broker: str, folder: Path, **djtasks_settings: Any) -> None:
        self.broker = broker
        self.alias = ALIASES[broker]
        self.folder = folder
        self.file = folder / "faults.sqlite3"
        self._settings = djtasks_settings
        self._closing = ExitStack()
        self.servers: dict[str, Database | RedisServer] = {}
        self.worker_ways: dict[str, Proxy] = {}
        self.producer_ways: dict[str, Proxy] = {}
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        kinds = {"sqlite": [], "redis": ["postgresql", "redis"]}.get(self.broker, [self.broker])
        for kind in kinds:
            server = RedisServer() if kind == "redis" else Database(kind)
            self.servers[kind] = server
            self._closing.callback(server.close)
            for ways in (self.worker_ways, self.producer_ways):
                ways[kind] = way = Proxy("127.0.0.1", server.port)
                way.open()
                self._closing.callback(way.close)

    def environment(self, ways: dict[str, Proxy] | None = None) -> dict[str, str]:
        """The environment of a process that goes these ways; without them it goes straight."""
        ports = {kind: way.port for kind, way in (ways or {}).items()}
        urls = {
            kind: f"{SCHEMES[kind]}127.0.0.1:{ports.get(kind, server.port)}{PATHS[kind]}"
            for kind, server in self.servers.items()
        }
        chosen = {"IMPORTS": ["tests.faults.tasks"], "DATABASE": self.alias, "RESULT_EXPIRES": None, **self._settings}
        if "redis" in urls:
            chosen["BROKER_URL"] = urls["redis"]
        own = {servers.variable(kind): url for kind, url in urls.items() if kind != "redis"}
        foreign = {servers.variable(kind) for kind in servers.KINDS}
        inherited = {name: value for name, value in worker_environment(chosen).items() if name not in foreign}
        return inherited | own | {"DJTASKS_TEST_SUFFIX": SUFFIX, "DJTASKS_TEST_SQLITE": str(self.file)}

    def use(self) -> None:
        """Let this process go straight to the servers; before Django's settings are read."""
        environment = self.environment()
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)

    def described(self) -> str:
        return " + ".join(server.version for server in reversed(self.servers.values())) or "SQLite"

    def close(self) -> None:
        self._closing.close()


def _mariadb(program: Path, folder: Path, runner: Account, port: int) -> list[str | Path]:
    # The tests' usual one keeps up to a second of commits in its own memory.
    return [*own_servers.COMMANDS["mariadb"](program, folder, runner, port), "--innodb-flush-log-at-trx-commit=2"]


def _make_postgresql(port: int) -> None:
    with psycopg.connect(f"postgres://postgres@127.0.0.1:{port}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE djtasks_{SUFFIX}")


def _make_mysql(port: int) -> None:
    with (
        closing(pymysql.connect(host="127.0.0.1", port=port, user="root")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"CREATE DATABASE djtasks_{SUFFIX}")
