"""The worker that `runserver` runs beside it."""

import socket
import subprocess
import sys

import pytest

from djtasks.models import Worker
from djtasks.worker.beside_runserver import is_wanted
from tests import tasks
from tests.processes import ROOT, worker_environment
from tests.waiting import wait_until

SERVING = {"RUN_MAIN": "true"}


@pytest.mark.parametrize(
    ("argv", "environment", "debug", "setting", "wanted"),
    [
        (["manage.py", "runserver"], SERVING, True, None, True),
        (["manage.py", "runserver", "--noreload"], {}, True, None, True),
        (["manage.py", "runserver"], {}, True, None, False),  # the process that only watches the files
        (["manage.py", "runserver"], SERVING, False, None, False),
        (["manage.py", "runserver"], SERVING, False, True, True),
        (["manage.py", "runserver"], SERVING, True, False, False),
        (["manage.py", "migrate"], SERVING, True, None, False),
        (["manage.py"], SERVING, True, None, False),
    ],
)
def test_it_is_started_by_the_serving_process_under_debug(settings, argv, environment, debug, setting, wanted):
    settings.DEBUG = debug
    settings.DJTASKS = {"RUNSERVER_WORKER": setting}
    assert is_wanted(argv, environment) is wanted


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_runserver_runs_jobs_and_takes_the_worker_with_it(database, settings, tmp_path, pool):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chosen = {**settings.DJTASKS, "RUNSERVER_WORKER": True, "WORKER_POOL": pool}
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "django", "runserver", "--noreload", "--skip-checks", f"127.0.0.1:{port}"],
        env=worker_environment(chosen),
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        assert tasks.add.delay(1, 1).get(timeout=30) == 2
    finally:
        server.kill()
        server.wait(10)
    wait_until(lambda: Worker.objects.get().stopped_at is not None)
