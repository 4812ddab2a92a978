"""Redis and Valkey servers of a test's own: with options, TLS, Sentinel or as a cluster; to be killed and paused.

All listen on 127.0.0.1 in a temporary folder and end with the test process, however it ends (`own_servers`). Their kind
is "valkey", from the wheel, or "redis", the installed program; a test that needs a program that is missing is skipped,
and fails where CI=true.
"""

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import quote, urlencode

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from tests import own_servers, servers
from tests.own_servers import Account, NotInstalled, OwnProcess, StartError
from tests.waiting import wait_until

Options = Mapping[str, str | int]  # lines of redis.conf: name and value, the latter quoted as there
DATABASE = 15  # as in servers.REDIS_URL
ANSWER_TIMEOUT = 5.0  # seconds until a client gives a server up
SLOTS = 16_384  # of every cluster


class RedisProcess:
    """A server that has started and answers. `close()` ends it for good; as a context manager it closes itself.

    After `stop()` and `kill()` its folder stays, and `restart()` brings it back with its files and its port.
    """

    def __init__(
        self,
        *,
        kind: str | None = None,
        options: Options | None = None,
        files: Mapping[str, str | bytes] | None = None,
        tls: "Certificates | None" = None,
        user: str = "",
        password: str = "",
        database: int = DATABASE,
        sentinel: bool = False,
    ) -> None:
        """Start a server of `kind`, "redis" for one with `tls` and "valkey" for any other if it is not said.

        `options` are lines of its configuration, where paths are relative to its folder; `files` are put there by name.
        `user` and `password` are for `url` and `client()`; `requirepass` alone among the options is enough.
        With `tls` it takes no connection without; a Valkey from the wheel has none. Raises `StartError`.
        """
        self.kind = kind or ("redis" if tls else "valkey")
        self.tls = tls
        self.user = user
        self.password = password or str((options or {}).get("requirepass", ""))
        self.database = database
        self._options = options or {}
        self._files = {**(files or {}), **(tls.server_files() if tls else {})}
        self._sentinel = sentinel
        self._clients: list[redis.Redis] = []
        self.process: OwnProcess = servers.on_a_free_port(self._start)

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The port of TCP, with TLS or without."""
        return self.process.port

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def folder(self) -> Path:
        return self.process.folder

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def unix_socket(self) -> Path:
        """The path of the socket that the option `unixsocket` asks for."""
        return self.folder / str(self._options["unixsocket"])

    @property
    def bus_port(self) -> int:
        """The port at which other nodes of its cluster talk to it."""
        return int(self._options["cluster-port"])

    @property
    def url(self) -> str:
        """redis:// with user and password; with TLS rediss:// with the authority, and our certificate if wanted."""
        address = f"{self._account}{self.host}:{self.port}/{self.database}"
        if self.tls is None:
            return f"redis://{address}"
        query = {"ssl_ca_certs": self.tls.authority}
        if self._options.get("tls-auth-clients", "no") != "no":
            query |= {"ssl_certfile": self.tls.client, "ssl_keyfile": self.tls.client_key}
        return f"rediss://{address}?{urlencode(query)}"

    @property
    def unix_url(self) -> str:
        """unix:// of the socket that the option `unixsocket` asks for."""
        return f"unix://{self._account}{self.unix_socket}?db={self.database}"

    @property
    def _account(self) -> str:
        return f"{quote(self.user)}:{quote(self.password, safe='')}@" if self.user or self.password else ""

    def client(self, **options: Any) -> redis.Redis:
        """Return a new client, which tries once and waits ANSWER_TIMEOUT. It is closed with the server."""
        usual = {
            "socket_timeout": ANSWER_TIMEOUT,
            "socket_connect_timeout": ANSWER_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        client = redis.Redis.from_url(self.url, **(usual | options))
        self._clients.append(client)
        return client

    def role(self) -> str:
        """Return "master" or "slave"; "" if it does not answer, as when a sentinel gives it another role."""
        with suppress(redis.RedisError), self.client() as client:
            return str(client.info("replication")["role"])
        return ""

    def running(self) -> bool:
        """Whether the process lives, paused or not; may be late by half a second if it ended by itself."""
        return self.process.running()

    def stop(self) -> None:
        """End it in order and return when it is gone."""
        self.process.signal(own_servers.STOP_SIGNALS[self.kind])

    def kill(self) -> None:
        """End it with SIGKILL and return when it is gone."""
        self.process.signal(signal.SIGKILL)

    def pause(self) -> None:
        """Stop it with SIGSTOP: connections stay, connects succeed, nothing is answered."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again after `pause()`."""
        self.process.signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again in its folder and on its port, after `stop()` if it still runs; return when it answers."""
        if self.process.running():
            self.stop()
        self.process.start_again()
        self._await_answer(self.process)

    def close(self) -> None:
        """End it, remove its folder, and close its clients. Safe twice."""
        for client in self._clients:
            client.close()
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> OwnProcess:
        try:
            self.process = own_servers.launch(self.kind, command=self._command)
        except NotInstalled as error:
            skip_or_fail(f"{error}. {servers.REMEDIES[self.kind]}")
        try:
            self._await_answer(self.process)
        except BaseException:
            self.close()
            raise
        return self.process

    def _command(self, program: Path, folder: Path, runner: Account, port: int) -> list[str | Path]:
        for name, content in self._files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        configuration = folder / "redis.conf"
        options = {**_usual_options(folder, port, self.tls, self._sentinel), **self._options}
        configuration.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        runner.take(folder)
        return [program, configuration, *(["--sentinel"] if self._sentinel else [])]

    def _await_answer(self, process: OwnProcess) -> None:
        """Return when it has read its data and answers, to our password if it wants one."""
        client = self.client()

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                raise
            except (redis.ConnectionError, redis.TimeoutError):
                pass
            if not process.running():
                raise StartError(f"{self.kind} ended; its log ends: {process.last_words()}")
            return False

        wait_until(answers, servers.START_TIMEOUT, what=f"an answer of {self.kind} on port {process.port}")


def _usual_options(folder: Path, port: int, tls: "Certificates | None", sentinel: bool) -> dict[str, str | int]:
    """Return what a server is told if the test says nothing else: it writes no file."""
    options: dict[str, str | int] = {"bind": "127.0.0.1", "port": 0 if tls else port, "dir": str(folder)}
    if tls:
        options |= {
            "tls-port": port,
            "tls-ca-cert-file": "authority.pem",
            "tls-cert-file": "server.pem",
            "tls-key-file": "server.key",
            "tls-auth-clients": "no",
        }
    return options if sentinel else options | {"save": '""', "appendonly": "no"}


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI=true, because something is missing on this machine."""
    if servers.missing_is_failure():
        pytest.fail(reason)
    pytest.skip(reason)


# TLS


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of an authority of the tests' own, and of a server and a client that it vouches for."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def server_files(self) -> dict[str, bytes]:
        """Return what the server needs, by the names of `_usual_options`."""
        files = {"authority.pem": self.authority, "server.pem": self.server, "server.key": self.server_key}
        return {name: path.read_bytes() for name, path in files.items()}


def make_certificates(folder: Path) -> Certificates:
    """Make certificates for 127.0.0.1 and localhost with the program openssl; they are good for two days."""
    if shutil.which("openssl") is None:
        skip_or_fail("no openssl is installed. `apt-get install openssl`")
    (folder / "openssl.cnf").write_text(OPENSSL_CONFIGURATION)
    _openssl(folder, f"req -x509 {NEW_KEY} -keyout authority.key -out authority.pem -extensions authority -days 2")
    for name in ("server", "client"):
        _openssl(folder, f"req {NEW_KEY} -keyout {name}.key -out {name}.csr")
        by_authority = "-CA authority.pem -CAkey authority.key -CAcreateserial -extfile openssl.cnf -extensions leaf"
        _openssl(folder, f"x509 -req -in {name}.csr -out {name}.pem -days 2 {by_authority}")
    paths = (folder / name for name in ("authority.pem", "server.pem", "server.key", "client.pem", "client.key"))
    return Certificates(*paths)


def _openssl(folder: Path, arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments.split()], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {arguments}: {done.stderr}"


NEW_KEY = "-config openssl.cnf -newkey rsa:2048 -nodes"
# As strict as Python 3.13 is in its default context.
OPENSSL_CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
CN = djtasks-tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1, DNS:localhost
"""


# Sentinel


@dataclass(slots=True)
class SentinelService:
    """A master, its replica and three sentinels that watch both. The names are those of the start."""

    name: str
    sentinels: list[RedisProcess]
    master: RedisProcess
    replica: RedisProcess
    _last: tuple[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.master.address

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each sentinel."""
        return [sentinel.address for sentinel in self.sentinels]

    def master_address(self) -> tuple[str, int] | None:
        """Return host and port of the master that most of the sentinels name, or None if there is none."""
        named = Counter(filter(None, map(self._named_by, self.sentinels)))
        address, votes = named.most_common(1)[0] if named else (None, 0)
        return address if votes > len(self.sentinels) // 2 else None

    def wait_for_failover(self, seconds: float = 30.0) -> tuple[str, int]:
        """Wait for another master than at the start or the last time, which says so itself. Return its address."""
        self._last = wait_until(self._other_master, seconds, what="the failover")
        return self._last

    def at(self, address: tuple[str, int]) -> RedisProcess:
        """Return the master or the replica by its address."""
        return {server.address: server for server in (self.master, self.replica)}[address]

    def _other_master(self) -> tuple[str, int] | None:
        address = self.master_address()
        if address is None or address == self._last:
            return None
        return address if self.at(address).role() == "master" else None

    def _named_by(self, sentinel: RedisProcess) -> tuple[str, int] | None:
        with suppress(redis.RedisError), sentinel.client(decode_responses=True) as client:
            answer = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.name)
            return (answer[0], int(answer[1])) if answer else None
        return None


@contextmanager
def sentinel_service(
    *,
    kind: str = "valkey",
    name: str = "djtasks",
    options: Options | None = None,
    sentinel_options: Options | None = None,
    sentinel_account: tuple[str, str] = ("", ""),
    tls: Certificates | None = None,
) -> Iterator[SentinelService]:
    """Give a master with a replica and three sentinels, two of which call it down after a second of silence.

    `options` are of the master and the replica: with `requirepass` these and the sentinels use the password.
    `sentinel_account` is the user and the password that the sentinels want, if their options say so. With `tls` all of
    them take no connection without, and want a certificate of who connects.
    """
    password = str((options or {}).get("requirepass", ""))
    secured: dict[str, str | int] = {"tls-replication": "yes", "tls-auth-clients": "yes"} if tls else {}
    replication = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1} | secured
    data_options = replication | ({"masterauth": password} if password else {}) | dict(options or {})
    with ExitStack() as stack:
        master = stack.enter_context(RedisProcess(kind=kind, options=data_options, tls=tls))
        follow = {"replicaof": f"127.0.0.1 {master.port}"}
        replica = stack.enter_context(RedisProcess(kind=kind, options=data_options | follow, tls=tls))
        _await_info(replica, "replication", master_link_status="up")
        watch = secured | _watch(name, master) | dict(sentinel_options or {})
        user, own_password = sentinel_account
        sentinels = [
            stack.enter_context(
                RedisProcess(
                    kind=kind, options=watch, tls=tls, user=user, password=own_password, database=0, sentinel=True
                )
            )
            for _ in range(3)
        ]
        for sentinel in sentinels:
            sentinel.client().execute_command("SENTINEL DEBUG", *SENTINEL_PERIODS)
        for sentinel in sentinels:
            _await_acquaintance(sentinel, name)
        yield SentinelService(name, sentinels, master, replica)


# Milliseconds. Usually they look each second, talk every two, and after a busy moment mistrust their clock for 30.
SENTINEL_PERIODS = ("publish-period", 200, "info-period", 200, "ping-period", 200, "tilt-period", 1000)


def _watch(name: str, master: RedisProcess) -> dict[str, str | int]:
    options: dict[str, str | int] = {
        "sentinel monitor": f"{name} 127.0.0.1 {master.port} 2",
        f"sentinel down-after-milliseconds {name}": 1000,
        f"sentinel failover-timeout {name}": 2000,
    }
    return options | ({f"sentinel auth-pass {name}": master.password} if master.password else {})


def _await_acquaintance(sentinel: RedisProcess, name: str) -> None:
    """Wait until a sentinel knows the replica and the two others."""
    client = sentinel.client(decode_responses=True, protocol=2)

    def known() -> bool:
        answer = client.execute_command("SENTINEL MASTER", name)
        state = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
        return (int(state["num-slaves"]), int(state["num-other-sentinels"])) == (1, 2)

    wait_until(known, what="the sentinels' acquaintance")


# Cluster


@dataclass(frozen=True, slots=True)
class Cluster:
    """Masters that share the slots."""

    nodes: list[RedisProcess]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each node."""
        return [node.address for node in self.nodes]

    def client(self, **options: Any) -> RedisCluster:
        """Return a new client of the whole cluster. The caller closes it."""
        return RedisCluster(host="127.0.0.1", port=self.nodes[0].port, **options)


@contextmanager
def cluster(*, kind: str = "valkey", options: Options | None = None, masters: int = 3) -> Iterator[Cluster]:
    """Give a cluster of masters without replicas, as soon as each of them says that it works."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(servers.on_a_free_port(lambda: cluster_node(kind, options))) for _ in range(masters)
        ]
        for number, node in enumerate(nodes):
            first, last = SLOTS * number // masters, SLOTS * (number + 1) // masters - 1
            client = node.client()
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            nodes[0].client().execute_command("CLUSTER MEET", *node.address, node.bus_port)
        for node in nodes:
            await_cluster(node, masters)
        yield Cluster(nodes)


def cluster_node(kind: str = "valkey", options: Options | None = None) -> RedisProcess:
    """Start a server that belongs to no cluster yet. The caller closes it."""
    usual = {"cluster-enabled": "yes", "cluster-node-timeout": 2000, "cluster-port": own_servers.free_port()}
    return RedisProcess(kind=kind, options={**usual, **(options or {})}, database=0)


def await_cluster(node: RedisProcess, masters: int) -> None:
    """Wait until the node says that all slots are served, by so many masters."""
    wanted = {"cluster_state": "ok", "cluster_slots_ok": str(SLOTS), "cluster_size": str(masters)}
    client = node.client(decode_responses=True)
    wait_until(lambda: wanted.items() <= client.cluster("info").items(), what=f"the cluster as {node.port} sees it")


def _await_info(server: RedisProcess, section: str, **wanted: object) -> None:
    client = server.client()
    wait_until(lambda: wanted.items() <= client.info(section).items(), what=f"{wanted} in INFO {section}")
