"""`manage.py demo` as a user runs it, in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo_project.shop import processes
from demo_project.shop.processes import Child, ChildDied, free_port, stopping
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
NOT_OURS = ("DJANGO_SETTINGS_MODULE", "DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "EMAIL_URL")


@pytest.fixture
def demo(tmp_path):
    """Start `manage.py demo` on a database and a folder of its own; whatever it left is ended afterwards."""
    started = []
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}/demo.sqlite3", "MEDIA_ROOT": str(tmp_path / "media")}
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_OURS}

    def start(*arguments, command="demo", **environment):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), command, *arguments],
            cwd=tmp_path,
            env={**inherited, **settings, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


def processes_of(folder):
    """The pids of all processes whose environment names the folder; the tests' own is not among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"MEDIA_ROOT={folder}/media".encode() in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def worker_of(process):
    """The pid of the child that is `runworker`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if b"runworker" in Path(f"/proc/{pid}/cmdline").read_bytes())


def read_until(process, text, seconds=60):
    """Read what the process prints up to the line with `text`; returns all of it."""
    lines, deadline = [], time.monotonic() + seconds
    while not lines or text not in lines[-1]:
        line = process.stdout.readline()
        assert line, "".join(lines)
        assert time.monotonic() < deadline, "".join(lines)
        lines.append(line)
    return "".join(lines)


@pytest.mark.timeout(150)
def test_once_does_all_the_work_and_leaves_no_process(demo, tmp_path):
    process = demo("--once")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert len(re.findall(r"│ yes", output)) == 7, output
    assert "12,272,577,818,052" in output
    assert "OutOfStock: The teapot is sold out" in output
    assert not processes_of(tmp_path)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_it_serves_until_it_is_stopped_and_leaves_no_process(demo, tmp_path, number):
    process = demo()
    output = read_until(process, "Ctrl-C stops")
    assert re.search(r"http://127\.0\.0\.1:\d+/admin/djtasks/job/", output)
    assert re.search(r"Login: +demo, password \w{10}", output)
    process.send_signal(number)
    code = process.wait(30)
    assert code == {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    wait_until(lambda: not processes_of(tmp_path), what="the end of all processes")


@pytest.mark.timeout(150)
def test_a_child_that_dies_is_noticed_and_its_output_shown(demo, tmp_path):
    process = demo(DJTASKS_BROKER_URL="amqp://localhost")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "amqp" in output
    assert not processes_of(tmp_path)


@pytest.mark.timeout(150)
def test_the_end_of_the_worker_ends_the_demo(demo, tmp_path):
    process = demo()
    read_until(process, "Ctrl-C stops")
    os.kill(worker_of(process), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The worker ended with code -9" in output
    assert "succeeded in" in output, "the end of its log"
    wait_until(lambda: not processes_of(tmp_path), what="the end of all processes")


@pytest.mark.timeout(150)
def test_results_that_come_too_late_are_named_and_the_exit_code_is_1(demo, tmp_path):
    process = demo("--once", "--timeout", "0")
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1, output
    assert re.search(r"Heavy sum: it had not ended in time: [A-Z]+", output), output
    assert not processes_of(tmp_path)


def test_it_refuses_to_make_a_login_without_debug(demo):
    process = demo(DEBUG="false", SECRET_KEY="x")
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, "under DEBUG only" in output) == (1, True), output


def test_a_missing_secret_key_is_said_in_one_line(demo):
    process = demo(command="check")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "set SECRET_KEY" in output
    assert output.count("\n") == 1, output


@pytest.mark.parametrize("missing", ["django", "environ", "PIL", "rich"])
def test_a_missing_package_is_said_in_one_line(demo, tmp_path, missing):
    (tmp_path / "stand-ins").mkdir()
    text = f"raise ModuleNotFoundError({missing!r}, name={missing!r})"
    (tmp_path / f"stand-ins/{missing}.py").write_text(text)
    process = demo(PYTHONPATH=str(tmp_path / "stand-ins"))
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert output == f'The demo needs the package {missing}: pip install "djtasks[demo]"\n'


def test_help_teaches(demo):
    output, _ = demo("--help").communicate(timeout=30)
    assert all(word in output for word in ("--once", "--port", "Ctrl-C", "DATABASE_URL", "exit code"))


def test_the_next_free_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        assert free_port(first) > first


def test_a_child_that_ended_is_told_with_the_end_of_its_log(tmp_path):
    child = Child("site", [sys.executable, "-c", "print('no port'); raise SystemExit(3)"], os.environ, tmp_path / "log")
    with stopping([child]):
        child.process.wait(20)
        with pytest.raises(ChildDied, match=r"(?s)The site ended with code 3.*no port"):
            child.check()


def fail_beside(child):
    with stopping([child]):
        wait_until(lambda: "up" in child.tail())
        raise ZeroDivisionError


def test_a_child_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
    command = [sys.executable, "-c", f"{stubborn}; time.sleep(60)"]
    child = Child("worker", command, os.environ, tmp_path / "log")
    with pytest.raises(ZeroDivisionError):
        fail_beside(child)
    assert child.process.returncode == -signal.SIGKILL
