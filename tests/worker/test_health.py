"""Whether a worker is well, as a probe sees it; and its pidfile."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from djtasks.worker import health
from djtasks.worker.slots import Slots
from tests import tasks
from tests.processes import ROOT, worker_environment
from tests.redis_servers import RedisProcess
from tests.waiting import wait_until

LOST_AFTER = 2.0  # seconds, as `start_worker` sets it


@pytest.fixture(scope="module")
def own_redis():
    """A server of these tests' own, to be stopped. (Of the module, so that its folder is not that of a worker.)"""
    with RedisProcess() as server:
        yield server


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Workers of other tests are not seen."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(health.tempfile, "tempdir", None)


def probe(*arguments):
    """The exit code and the text of `djtasks health`."""
    out = StringIO()
    try:
        call_command("djtasks", "health", *arguments, stdout=out)
    except CommandError as error:
        return 1, str(error)
    except SystemExit as leaving:
        return leaving.code, out.getvalue()
    return 0, out.getvalue()


def well(*arguments):
    """The answer of a probe once it says that all is well: a worker has just begun."""
    return wait_until(lambda: (answer := probe(*arguments))[0] == 0 and answer, what="a healthy worker")[1]


@pytest.mark.every_broker
def test_a_worker_that_works_is_well_and_one_that_has_stopped_is_none(start_worker):
    assert probe() == (1, "No worker of this site and this user runs on this machine.")
    worker = start_worker("-c", "2", "-n", "one@%h")
    text = well()
    assert f"one@{os.uname().nodename} (process {worker.pid}) is well" in text
    assert worker.stop() == 0
    assert probe()[0] == 1
    assert list(health.folder().iterdir()) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_workers_of_another_site_are_nobodys_business_here(start_worker, settings):
    start_worker("-c", "1")
    well()
    settings.DJTASKS = {
        **settings.DJTASKS,
        "BROKER_URL": "redis://elsewhere/1",
        "TEST_BROKER_URL": "redis://elsewhere/1",
    }
    assert probe() == (1, "No worker of this site and this user runs on this machine.")
    assert [each.problem for each in health.living()] == [""]


@pytest.mark.every_broker
def test_the_solo_pool_is_seen_too(start_worker):
    start_worker("-P", "solo")
    wait_until(lambda: probe()[0] == 0, what="a healthy worker")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_beat_alone_is_seen_too(start_worker):
    start_worker("-n", "clock", command="runbeat")
    assert "busy" not in well("--worker", "clock")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_one_worker_is_asked_for_by_its_name(start_worker):
    start_worker("-c", "1", "-n", "one@%h")
    start_worker("-c", "1", "-n", "two")
    assert "two" not in well("--worker", "one@%h")
    assert "two" in well("--worker", "two")
    code, text = probe("--worker", "three")
    assert code == 1
    assert text.startswith("No worker named three of this site and this user runs on this machine. These run: ")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_programs_are_told_as_json(start_worker):
    code, text = probe("--json")
    assert (code, json.loads(text)["healthy"]) == (1, False)
    worker = start_worker("-c", "3", "-n", "one")
    told = json.loads(well("--json"))
    (one,) = told["workers"]
    assert (told["healthy"], told["problem"]) == (True, "")
    assert (one["worker"], one["pid"], one["places"], one["busy"]) == ("one", worker.pid, 3, 0)
    assert 0 <= one["beat_age"] < LOST_AFTER
    assert 0 <= one["claim_age"] < LOST_AFTER + 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_probe_needs_neither_django_nor_tasks(start_worker):
    start_worker("-c", "1", "-n", "one")
    code = "import sys; from djtasks.worker import health; print(health.main(['one'])); print('django' in sys.modules)"
    plain = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert plain.stdout.splitlines()[-2:] == ["0", "False"]
    finished = subprocess.run([sys.executable, "-m", "djtasks.worker.health", "no such"], cwd=ROOT, capture_output=True)
    assert (finished.returncode, b"No worker named no such" in finished.stderr) == (1, True)


def test_the_command_imports_no_tasks(settings):
    code = (
        "import sys, django; sys.argv = ['manage.py', 'djtasks', 'health']; django.setup();"
        "from djtasks import registry; print(registry.find('tests.tasks.add'))"
    )
    environment = worker_environment(settings.DJTASKS)
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "None"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_worker_whose_database_does_not_answer_is_unwell_and_gets_well_again(start_worker, database):
    start_worker("-c", "1", "-n", "one")
    # A session of its own: that of this process may be one that the server ends when it idles in a transaction.
    with closing(connections[database].copy()) as session, session.cursor() as cursor:
        session.set_autocommit(False)
        cursor.execute("LOCK TABLE djtasks_worker IN ACCESS EXCLUSIVE MODE")
        wait_until(lambda: probe()[0] == 1, seconds=health.PATIENCE * LOST_AFTER + 10)
        assert "has not reached its broker and database for" in probe()[1]
    wait_until(lambda: probe()[0] == 0)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_worker_that_beats_and_cannot_claim_is_unwell(start_worker):
    worker = start_worker("-c", "1", "-n", "one")
    well()
    _keeper, child = worker.children()
    os.kill(child, signal.SIGSTOP)
    try:
        wait_until(lambda: probe()[0] == 1, seconds=health.PATIENCE * LOST_AFTER + 10)
        assert "has a process that waits for jobs and has not got to ask for any" in probe()[1]
    finally:
        os.kill(child, signal.SIGCONT)
    well()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_whose_redis_has_gone_is_unwell(start_worker, settings, own_redis):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_URL": own_redis.url, "TEST_BROKER_URL": own_redis.url}
    start_worker("-c", "1", "-n", "one", wait=False)
    wait_until(lambda: probe()[0] == 0)
    own_redis.close()
    wait_until(lambda: probe()[0] == 1, seconds=health.PATIENCE * LOST_AFTER + 10)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_that_is_busy_for_long_is_well(start_worker, tmp_path):
    start_worker("-c", "1", "-n", "one")
    path = tmp_path / "journal"
    result = tasks.hold_the_interpreter.delay(str(path), health.PATIENCE * LOST_AFTER + 2)
    wait_until(path.exists)
    while not result.ready():
        assert probe()[0] == 0
    assert probe()[0] == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_killed_worker_left_behind_is_not_taken_for_one(start_worker):
    worker = start_worker("-c", "1")
    worker.kill_all()
    assert probe()[0] == 1
    assert len(list(health.folder().iterdir())) == 1
    start_worker("-c", "1")
    assert len(list(health.folder().iterdir())) == 1
    assert probe()[0] == 0


def test_a_file_of_another_layout_is_left_alone():
    health.folder().mkdir(mode=0o700)
    (health.folder() / "1-x.slots").write_bytes(b"something else" * 2000)
    assert health.living() == []
    with (health.folder() / "1-x.slots").open("r+b") as file, pytest.raises(ValueError, match="layout"):
        Slots.look(file.fileno())


def test_a_folder_that_others_may_write_into_is_not_used():
    health.folder().mkdir(mode=0o700)
    health.folder().chmod(0o777)
    with health.shown() as descriptor:
        assert descriptor is None
    assert health.living() == []


# The pidfile


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_pidfile_is_there_while_the_worker_is(start_worker, tmp_path):
    path = tmp_path / "worker.pid"
    worker = start_worker("-c", "1", "--pidfile", str(path))
    assert (path.read_text(), path.stat().st_mode & 0o777) == (f"{worker.pid}\n", 0o644)
    assert worker.stop() == 0
    assert not path.exists()
    assert not list(tmp_path.glob(".worker.pid*"))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_second_worker_does_not_take_the_pidfile_of_one_that_runs(start_worker, tmp_path):
    path = tmp_path / "worker.pid"
    first = start_worker("-c", "1", "--pidfile", str(path))
    second = start_worker("-c", "1", "--pidfile", str(path), wait=False)
    assert second.process.wait(20) == 1
    assert f"belongs to a worker that runs, process {first.pid}" in second.output
    assert path.read_text() == f"{first.pid}\n"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_pidfile_that_was_left_behind_is_replaced_with_a_word(start_worker, tmp_path):
    path = tmp_path / "worker.pid"
    first = start_worker("-c", "1", "--pidfile", str(path))
    first.kill_all()
    assert path.read_text() == f"{first.pid}\n"
    second = start_worker("-c", "1", "--pidfile", str(path))
    assert path.read_text() == f"{second.pid}\n"
    assert "was left behind" in second.output
    path.unlink()
    path.write_text("somebody else's")
    assert second.stop() == 0
    assert path.read_text() == "somebody else's"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_pidfile_that_cannot_be_written_is_an_error_that_says_so(start_worker, tmp_path):
    worker = start_worker("-c", "1", "--pidfile", str(tmp_path / "no" / "such"), wait=False)
    assert worker.process.wait(20) == 1
    assert "cannot be written" in worker.output
