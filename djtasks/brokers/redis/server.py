"""The way to the server: what a URL names, one answer a question, errors in our words.

redis:// · rediss:// (TLS) · unix:// · redis+sentinel:// · redis+cluster://. The parts after `?` are
redis-py's own options (`ssl_ca_certs`, `db`, …).
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha1
from importlib import import_module, resources
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit, urlunsplit
from weakref import WeakKeyDictionary

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

import djtasks
from djtasks.brokers.base import unreadable
from djtasks.brokers.redis.errors import TRANSIENT, explained, is_refusal, may_pass
from djtasks.brokers.redis.keeping import NOTHING, Keeping
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable
from djtasks.masking import masked_url

_hiredis: Any = import_module("hiredis") if find_spec("hiredis") else None
_driver_info: Any = import_module("redis.driver_info") if find_spec("redis.driver_info") else None
_poll: Any = getattr(select, "poll", None)

TRIES: Final = 3  # that BROKER_TIMEOUT must allow where the server hangs: the first may meet a dead connection
SHARE_OF_WAIT: Final = 0.8  # of the time for a try, for the disk or replicas: the answer comes before we hang up
LONGEST_PAUSE: Final = 0.5  # seconds between two tries
DOUBT: Final = 3600  # seconds for which a server that came back may give out what was acknowledged

_OVER_TCP: Final = {"socket_keepalive": True}

Pool = Any  # redis-py's ConnectionPool, or Sentinel's
Connection = Any


@cache
def script(name: str) -> tuple[str, str]:
    """The Lua script `name` and its SHA-1, under which the server knows it."""
    text = resources.files("djtasks.brokers.redis").joinpath("scripts", f"{name}.lua").read_text("utf-8")
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


class Refused(BrokerUnavailable):
    """The server answers, but not to us, or not as it was asked to: waiting does not help."""


class _Local(threading.local):
    """How a thread waits."""

    patience: float | None = None  # seconds; None: BROKER_TIMEOUT
    meanwhile: contextlib.AbstractContextManager[None] | None = None


class Server:
    """Connections to what `url` names, those of this process. `tag` is the hash tag under which all keys stand."""

    def __init__(self, url: str, tag: str, greet: Callable[[Callable[..., Any]], None]) -> None:
        self.url = url
        self._tag = tag
        self._greet = greet
        self._connect = _way(url)
        self._lock = threading.Lock()
        self._pid = 0
        self._find: Callable[[], Pool]
        self._ready: list[tuple[Connection, Any]] = []  # that answered, and were not given back to the pool
        self._may_keep = "+" not in urlsplit(url).scheme  # elsewhere the pool is to see whether the server is the one
        self._local = _Local()
        self.reconnects = 0
        self._greeted: WeakKeyDictionary[Connection, object] = WeakKeyDictionary()

    def run(
        self,
        name: str,
        keys: Sequence[str],
        arguments: Sequence[Any],
        *,
        repeated: Callable[[], Sequence[Any]] | None = None,
        keeping: Keeping = NOTHING,
    ) -> Any:
        """Run a script whose repetition does no harm. Returns its answer.

        Tries again until `BROKER_TIMEOUT` has passed, then raises BrokerUnavailable. The answer comes once what it
        wrote is kept as `keeping` asks. `repeated` gives other arguments for what is not the first try.
        """

        def act(connection: Connection, is_repeated: bool) -> Any:
            chosen = repeated() if is_repeated and repeated is not None else arguments
            return self._eval(connection, name, keys, chosen, keeping)

        return self._try(act)

    def run_once(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script that must not be repeated unasked. Raises BrokerUnavailable at the first error."""
        return self._try(lambda connection, _: self._eval(connection, name, keys, arguments, NOTHING), tries=1)

    def ask(self, *command: Any) -> Any:
        """One command, as `run`."""
        return self._try(lambda connection, _: _answer(connection, *command))

    def facts(self, *sections: str) -> dict[str, str]:
        """What the server says of itself (INFO), by name."""
        return facts_of(self.ask("INFO", *sections))

    def command(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Sequence[Any]:
        """The command that runs a script, if the server has it."""
        return ("EVALSHA", script(name)[1], len(keys), *keys, *arguments)

    def connection(self) -> Connection:
        """A connection outside of the pool, for who wants to wait on it. Raises BrokerUnavailable."""
        try:
            connection = self._pool().make_connection()
            connection.connect()
            self._meet(connection)
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise self._named(error) from error
        return connection

    def _meet(self, connection: Connection) -> None:
        """Look who is there, once a connection, and again where redis-py has connected it anew."""
        socket = connection._sock
        if self._greeted.get(connection) is not socket:
            self._greet(lambda *command: _answer(connection, *command))
            self._greeted[connection] = socket
            self.reconnects += 1

    @contextlib.contextmanager
    def patience(
        self, seconds: float, meanwhile: contextlib.AbstractContextManager[None] | None = None
    ) -> Iterator[None]:
        """Within the block this thread waits so long for a server that does not answer, not `BROKER_TIMEOUT`.

        `meanwhile`: what it enters, again and again, while it waits; if it is not given, what it entered before.
        """
        local = self._local
        before = local.patience, local.meanwhile
        local.patience, local.meanwhile = seconds, meanwhile or local.meanwhile
        try:
            yield
        finally:
            local.patience, local.meanwhile = before

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """What is entered where this thread waits for the server."""
        return self._local.meanwhile or contextlib.nullcontext()

    def close(self) -> None:
        """Close the connections that nobody uses now."""
        with self._lock:
            if self._pid == os.getpid():
                self._pid = 0
                ready, self._ready = self._ready, []
                with contextlib.suppress(*TRANSIENT):
                    for connection, _socket in ready:
                        self._find().release(connection)
                    self._find().disconnect(inuse_connections=False)

    def _try(self, act: Callable[[Connection, bool], Any], tries: int | None = None) -> Any:
        meanwhile = self._local.meanwhile
        if meanwhile is None:  # who sends, where an empty block would be three calls more
            return self._persist(act, tries)
        with meanwhile:
            return self._persist(act, tries)

    def _persist(self, act: Callable[[Connection, bool], Any], tries: int | None) -> Any:
        patience = self._local.patience
        deadline = time.monotonic() + (settings.BROKER_TIMEOUT if patience is None else patience)
        tried = 0
        while True:
            try:
                return self._with_connection(act, tried > 0)
            except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
                tried += 1
                pause = random.uniform(0, min(0.02 * 2**tried, LONGEST_PAUSE))
                if not may_pass(error) or tried == tries or time.monotonic() + pause > deadline:
                    raise self._named(error) from error
                self._lost(error)
                time.sleep(pause)

    def _with_connection(self, act: Callable[[Connection, bool], Any], is_repeated: bool) -> Any:
        self._begin()
        connection, socket = self._kept()
        pool = None
        if connection is None:
            pool = self._find()
            connection = pool.get_connection()
        has_answered = False
        try:
            if socket is None or connection._sock is not socket:
                self._meet(connection)
                socket = connection._sock
            answer = act(connection, is_repeated)
            has_answered = True
            return answer
        except exceptions.ResponseError as error:
            if may_pass(error):
                connection.disconnect()  # the next one may lead to another master
            raise
        except BaseException:
            connection.disconnect()  # an answer may be under way that belongs to nobody
            raise
        finally:
            if has_answered and self._may_keep:
                self._ready.append((connection, socket))
            else:
                (pool or self._find()).release(connection)

    def _kept(self) -> tuple[Connection, Any]:
        """A connection that answered before, with its socket as it was met; None, None if there is none.

        It costs us no pool's formalities.
        """
        try:
            connection, socket = self._ready.pop()
        except IndexError:
            return None, None
        try:
            if connection._sock is not None and is_quiet(connection):  # else it was closed over there
                return connection, socket
        except (exceptions.RedisError, OSError):
            pass
        self._find().release(connection)
        return None, None

    def _eval(
        self, connection: Connection, name: str, keys: Sequence[str], arguments: Sequence[Any], keeping: Keeping
    ) -> Any:
        text, _digest = script(name)
        wait = [keeping.command(SHARE_OF_WAIT * settings.BROKER_TIMEOUT / TRIES)] if keeping else []
        connection.send_packed_command(_packed(connection, [self.command(name, keys, arguments), *wait]))
        try:
            answer = connection.read_response()
        except exceptions.NoScriptError:
            answer = None
            if wait:
                connection.read_response()
            connection.send_command("EVAL", text, len(keys), *keys, *arguments)
            answer = connection.read_response()
            if wait:
                connection.send_command(*wait[0])
        except exceptions.ResponseError:
            if wait:
                connection.read_response()
            raise
        if wait:
            keeping.check(connection.read_response())
        return answer

    def _pool(self) -> Pool:
        self._begin()
        return self._find()

    def _begin(self) -> None:
        """Connections are a process's own."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._find = self._connect(self._tag)
                    self._ready = []
                    self._pid = os.getpid()

    def _lost(self, error: BaseException) -> None:
        """After an error: in a cluster the keys may have moved."""
        refresh = getattr(self._find, "refresh", None) if self._pid == os.getpid() else None
        if refresh is not None:
            refresh()

    def _named(self, error: BaseException) -> BrokerUnavailable:
        kind = Refused if is_refusal(error, self.url) else BrokerUnavailable
        return kind(f"{masked_url(self.url)}: {explained(error, self.url)}")


def is_quiet(connection: Connection) -> bool:
    """Whether nothing has come since the last answer, not even the end. redis-py asks the system several times."""
    sock = connection._sock
    if _poll is None or isinstance(sock, ssl.SSLSocket):  # which may have more than the system knows of
        return not connection.can_read(timeout=0)
    poll = _poll()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)


def _packed(connection: Connection, commands: Iterable[Sequence[Any]]) -> Sequence[bytes]:
    """Commands as they travel; redis-py looks at the type of each argument first, which takes longer than the rest."""
    if _hiredis is None:
        packed: Sequence[bytes] = connection.pack_commands(commands)
        return packed
    return [_hiredis.pack_command(tuple(each)) for each in commands]


def facts_of(info: bytes) -> dict[str, str]:
    """The lines of an INFO, by name."""
    return dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)


def version_of(facts: Mapping[str, str]) -> tuple[int, ...]:
    """The version of Redis, or the one that a Valkey says it is like."""
    return tuple(int(part) for part in facts["redis_version"].split(".") if part.isdigit())


def _answer(connection: Connection, *command: Any) -> Any:
    connection.send_command(*command)
    return connection.read_response()


# What the URL names


def _way(url: str) -> Callable[[str], Callable[[], Pool]]:
    """A function that gives, for a hash tag, the pool of the server that has its keys. Raises ImproperlyConfigured."""
    parts = urlsplit(url)
    try:
        if parts.scheme.endswith("+sentinel"):
            return _sentinel_way(parts)
        if parts.scheme.endswith("+cluster"):
            return _cluster_way(parts)
        _check_options(redis.ConnectionPool.from_url(url))
        if parts.scheme != "unix" and not parts.path.strip("/").isdigit() and parts.path.strip("/"):
            raise ValueError(f"{parts.path.strip('/')!r} is no number of a database")
        over_tcp = {} if parts.scheme == "unix" else _OVER_TCP
        return lambda _tag: _fixed(redis.ConnectionPool.from_url(url, **_options(parts), **over_tcp))
    except (ValueError, TypeError) as error:
        raise unreadable(url, error) from error


def _check_options(pool: Pool) -> None:
    """Raise TypeError for an option that redis-py does not know; nothing is connected."""
    pool.connection_class(**pool.connection_kwargs)


def _fixed(pool: Pool) -> Callable[[], Pool]:
    return lambda: pool


def _options(parts: SplitResult) -> dict[str, Any]:
    timeout = settings.BROKER_TIMEOUT / TRIES
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),  # ours is `Server._try`
        "protocol": 2,
        **({} if "lib_name=" in parts.query else _identity()),
    }


@cache
def _identity() -> dict[str, Any]:
    """What CLIENT LIST shows of us. redis-py would read the files of its own package for it at each connection."""
    if _driver_info is None:
        return {"lib_name": f"redis-py(djtasks_v{djtasks.__version__})", "lib_version": redis.__version__}
    ours = _driver_info.DriverInfo(lib_version=redis.__version__)
    return {"driver_info": ours.add_upstream_driver("djtasks", djtasks.__version__)}


def _sentinel_way(parts: SplitResult) -> Callable[[str], Callable[[], Pool]]:
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    service = query.pop("service", None)
    if not service:
        raise ValueError("add ?service=<name of the master>")
    for_sentinels = {
        name: value for name in ("username", "password") if (value := query.pop(f"sentinel_{name}", None)) is not None
    }
    plain = urlunsplit(
        (parts.scheme.removesuffix("+sentinel"), _credentials(parts) + "sentinel", parts.path, urlencode(query), "")
    )
    hosts = _hosts(parts, 26379)
    _check_options(redis.ConnectionPool.from_url(plain))

    def connect(_tag: str) -> Callable[[], Pool]:
        own = redis.ConnectionPool.from_url(plain, **_options(parts), **_OVER_TCP).connection_kwargs
        own = {name: value for name, value in own.items() if name not in ("host", "port")}
        certificates = {name: value for name, value in own.items() if name.startswith("ssl_")}
        for_all = {**_options(parts), **certificates, "ssl": parts.scheme.startswith("rediss")}
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            hosts, sentinel_kwargs={**for_all, **for_sentinels}, **{**own, **for_all}
        )
        return _fixed(sentinel.master_for(service).connection_pool)

    return connect


def _cluster_way(parts: SplitResult) -> Callable[[str], Callable[[], Pool]]:
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has no numbered databases")
    hosts = _hosts(parts, 6379)
    plain = urlunsplit((parts.scheme.removesuffix("+cluster"), _credentials(parts) + "cluster", "", parts.query, ""))
    _check_options(redis.ConnectionPool.from_url(plain))

    def connect(tag: str) -> Callable[[], Pool]:
        pool = redis.ConnectionPool.from_url(plain, **_options(parts), **_OVER_TCP)
        own = {name: value for name, value in pool.connection_kwargs.items() if name not in ("host", "port", "db")}
        return _OneSlot(hosts, {**own, "ssl": parts.scheme.startswith("rediss")}, tag)

    return connect


class _OneSlot:
    """The pool of the cluster's node that has the slot of `tag`: all our keys are there."""

    def __init__(self, hosts: list[tuple[str, int]], options: dict[str, Any], tag: str) -> None:
        nodes = [ClusterNode(host, port) for host, port in hosts]  # type: ignore[no-untyped-call]
        cluster: Any = RedisCluster(startup_nodes=nodes, **options)
        self._cluster = cluster
        self._slot: int = cluster.keyslot(tag)

    def __call__(self) -> Pool:
        node = self._cluster.nodes_manager.get_node_from_slot(self._slot)
        return self._cluster.get_redis_connection(node).connection_pool

    def refresh(self) -> None:
        """Learn anew who has the slot; the next try shows whether that went well."""
        try:
            self._cluster.nodes_manager.initialize()
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError):
            return


def _credentials(parts: SplitResult) -> str:
    credentials, at, _hosts = parts.netloc.rpartition("@")
    return credentials + at


def _hosts(parts: SplitResult, usual_port: int) -> list[tuple[str, int]]:
    """The addresses of `h1:p1,h2:p2`; [::1]:p for IPv6."""
    hosts = []
    for each in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{each}")
        if not one.hostname:
            raise ValueError(f"{each!r} names no host")
        hosts.append((one.hostname, one.port or usual_port))
    return hosts
