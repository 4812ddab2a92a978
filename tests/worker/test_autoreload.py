"""`runworker --autoreload`: what developers change is what runs next."""

import os
import signal
import subprocess
import sys

import pytest

from djtasks import send_task
from djtasks.models import Worker
from tests.processes import ROOT, worker_environment
from tests.waiting import wait_until

CODE = """
from djtasks import shared_task

@shared_task(name="edited.answer")
def answer():
    return {answer}
"""


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "edited_by_somebody.py"
    path.write_text(CODE.format(answer=1))
    return path


@pytest.fixture
def start_watch(database, settings, module, tmp_path):
    """Start `runworker --autoreload` with more arguments. Gives the process and the path of what it prints."""
    started = []

    def start(*arguments):
        environment = worker_environment({**settings.DJTASKS, "IMPORTS": [module.stem], "WORKER_HEARTBEAT": 0.2})
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(module.parent)])
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # files are written within one second here, which pyc files miss
        log = tmp_path / "log"
        with log.open("w") as sink:
            command = [sys.executable, "-m", "django", "runworker", "--autoreload", "-c", "1", *arguments]
            process = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT)
        started.append(process)
        return process, log

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def answered():
    return send_task("edited.answer").get(timeout=30)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_changed_file_is_run_by_a_new_worker_even_after_one_that_was_broken(start_watch, module):
    process, log = start_watch()
    assert answered() == 1
    first = Worker.objects.live().get()
    module.write_text(CODE.format(answer=2))
    wait_until(lambda: Worker.objects.live().exclude(pk=first.pk).filter(beat__gt=0).exists(), what="another worker")
    assert answered() == 2
    first.refresh_from_db()
    assert first.stopped_at is not None
    assert f"{module} has changed" in log.read_text()
    module.write_text("no code")
    wait_until(lambda: "SyntaxError" in log.read_text(), what="the error")
    module.write_text(CODE.format(answer=3))
    assert answered() == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not Worker.objects.live().exists()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_that_has_nothing_more_to_do_ends_the_watch(start_watch):
    result = send_task("edited.answer")
    process, _log = start_watch("--burst")
    assert process.wait(30) == 0
    assert result.get() == 1
