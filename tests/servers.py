"""Real servers for the tests: finds one of each kind, or starts one of the tests' own.

`find(kind)` gives, in this order, (1) what `DJTASKS_TEST_<KIND>_URL` names, (2) what answers on the standard port of
127.0.0.1 to the usual account without a password, (3) a server of our own. Each is proven by a login. "redis" is the
program Redis and nothing that speaks like it; "valkey" is never what answers on the standard port.
"""

import functools
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.own_servers import Command, OwnProcess, StartError, launch

Started = TypeVar("Started")

KINDS = ("postgresql", "mariadb", "redis", "valkey")
START_TIMEOUT = 60.0  # seconds; a fresh PostgreSQL takes about one on an idle machine
LOGIN_TIMEOUT = 5  # seconds; whole ones, as the drivers want them
ATTEMPTS = 3  # someone else may take a free port before the server does


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that let us in. `origin` says where it came from, `version` is its own word."""

    kind: str
    url: str  # PostgreSQL: database postgres; MariaDB: no database; Redis: a numbered database
    host: str
    port: int
    user: str
    password: str
    origin: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no server of `kind`: why, and what the reader can do about it."""

    kind: str
    reason: str
    remedy: str


class OtherProgram(StartError):
    """Another program than the one that was asked for let us in."""


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server of our own. It stops at `stop()`, at the end of this process at the latest."""

    server: Server
    process: OwnProcess

    def stop(self) -> None:
        """Stop it and return when it is gone. Safe twice."""
        self.process.stop()

    def restart(self, number: signal.Signals) -> None:
        """End it with a signal, start it with its data and its port, return when it lets us in. Raises `StartError`."""
        self.process.signal(number)
        self.process.start_again()
        _await_login(self.server, self.process)


@functools.cache
def find(kind: str) -> Server | Missing:
    """Return a server of `kind`, one of KINDS; the same one for the life of this process.

    One that had to be started is put in the environment, so that child processes use it too.
    """
    named = os.environ.get(variable(kind))
    if named:
        return _named(kind, named)
    if kind != "valkey":
        with suppress(*LOGIN_ERRORS, OtherProgram):
            return _proven(_standard(kind))
    try:
        server = start(kind).server
    except StartError as error:
        return Missing(kind, str(error), REMEDIES[kind])
    os.environ[variable(kind)] = server.url
    return server


def start(kind: str, *, version: str | None = None, command: Command | None = None) -> OwnServer:
    """Start a server of our own, whatever else runs, and return when it lets us in.

    `version` is one of `own_servers.POSTGRESQL_VERSIONS`, the newest by default; `command` as for
    `own_servers.launch`. Raises `StartError`.
    """
    return on_a_free_port(lambda: _start(kind, version, command))


def on_a_free_port(start: Callable[[], Started]) -> Started:
    """Return what `start` returns. Call it again, ATTEMPTS times in all, if somebody else took its port meanwhile."""
    for _ in range(ATTEMPTS - 1):
        try:
            return start()
        except StartError as error:
            if "in use" not in str(error):
                raise
    return start()


def variable(kind: str) -> str:
    """Return the name of the environment variable that may hold the URL of a server of `kind`."""
    return f"DJTASKS_TEST_{kind.upper()}_URL"


def summary_lines(kinds: Iterable[str] = KINDS) -> list[str]:
    """Return a line for each kind: which server the tests use and where it comes from, or what is missing and its cure.

    Looks for those that no test has asked for, and may start them.
    """
    return [_summary(find(kind)) for kind in kinds]


def missing_is_failure() -> bool:
    """Whether a run without one of the servers has failed: so it is where CI=true, as nobody reads a warning there."""
    return os.environ.get("CI", "").lower() in ("true", "1")


def _summary(found: Server | Missing) -> str:
    if isinstance(found, Missing):
        return f"{found.kind}: MISSING, so its tests did not run: {_one_line(found.reason)}. {found.remedy}"
    return f"{found.kind}: {found.version} at {found.host}:{found.port}, {found.origin}"


def _start(kind: str, version: str | None, command: Command | None) -> OwnServer:
    process = launch(kind, version=version, command=command)
    server = replace(_local(kind, process.port), origin=f"started by the tests from {process.program}")
    return OwnServer(_await_login(server, process), process)


def _await_login(server: Server, process: OwnProcess) -> Server:
    """Return the server as soon as it lets us in. Raises `StartError` with its last words; then it is gone for good."""
    deadline = time.monotonic() + START_TIMEOUT
    reason = "it ended at once"
    while process.running() and time.monotonic() < deadline:
        try:
            return _proven(server)
        except LOGIN_ERRORS as error:
            reason = str(error)
            time.sleep(0.05)
        except OtherProgram:
            process.stop()
            raise
    last_words = process.last_words()
    process.stop()
    raise StartError(f"{reason}; its log ends: {last_words}")


def _named(kind: str, url: str) -> Server | Missing:
    """Return the server that the environment names. Never another one: who names a server wants that one."""
    try:
        return _proven(described(kind, url))
    except (*LOGIN_ERRORS, OtherProgram, ValueError) as error:
        return Missing(kind, f"{variable(kind)} names no server that lets us in ({error})", "Correct it.")


def described(kind: str, url: str) -> Server:
    """Return the server that `url` describes, without asking whether it answers. Raises ValueError for a bad port."""
    parts, usual = urlsplit(url), _standard(kind)
    return Server(
        kind=kind,
        url=url,
        host=parts.hostname or usual.host,
        port=parts.port or usual.port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        origin=f"named by {variable(kind)}",
    )


def _standard(kind: str) -> Server:
    return _local(kind, STANDARD_PORTS[kind])


def _local(kind: str, port: int) -> Server:
    """Return the server that may be at `port` of this machine, with the usual account."""
    url, user = URLS[kind].format(port=port), USERS[kind]
    origin = "which answers on the standard port"
    return Server(kind=kind, url=url, host="127.0.0.1", port=port, user=user, password="", origin=origin)


# Logging in


def _proven(server: Server) -> Server:
    """Log in, and return the server with its version. Raises one of LOGIN_ERRORS."""
    return replace(server, version=LOGINS[server.kind](server))


def _postgresql_version(server: Server) -> str:
    with psycopg.connect(server.url, connect_timeout=LOGIN_TIMEOUT) as connection:
        return f"PostgreSQL {connection.info.parameter_status('server_version')}"


def _mariadb_version(server: Server) -> str:
    connection = pymysql.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        connect_timeout=LOGIN_TIMEOUT,
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        row = cursor.fetchone()
    return str(row[0]) if row else ""


def _redis_version(server: Server) -> str:
    client = redis.Redis.from_url(
        server.url,
        socket_connect_timeout=LOGIN_TIMEOUT,
        socket_timeout=LOGIN_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
    with closing(client):
        info = client.info("server")
    version = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    if not version.lower().startswith(server.kind):
        raise OtherProgram(f"it is {version}")
    return version


def _one_line(text: str) -> str:
    return " ".join(text.split())


STANDARD_PORTS = {"postgresql": 5432, "mariadb": 3306, "redis": 6379, "valkey": 6379}
USERS = {"postgresql": "postgres", "mariadb": "root", "redis": "", "valkey": ""}
# 15 is the last database that Redis has by default: a developer's own data are seldom there.
REDIS_URL = "redis://127.0.0.1:{port}/15"
URLS = {
    "postgresql": "postgres://postgres@127.0.0.1:{port}/postgres",
    "mariadb": "mysql://root@127.0.0.1:{port}/",
    "redis": REDIS_URL,
    "valkey": REDIS_URL,
}
LOGINS: dict[str, Callable[[Server], str]] = {
    "postgresql": _postgresql_version,
    "mariadb": _mariadb_version,
    "redis": _redis_version,
    "valkey": _redis_version,
}
LOGIN_ERRORS = (psycopg.Error, pymysql.Error, redis.RedisError, OSError)
REMEDIES = {
    "postgresql": f"Name one in {variable('postgresql')}.",
    "mariadb": f"`apt-get install mariadb-server` or `brew install mariadb`, or name one in {variable('mariadb')}.",
    "redis": f"`apt-get install redis-server` or `brew install redis`, or name one in {variable('redis')}.",
    "valkey": f"Name one in {variable('valkey')}.",
}
