"""Old and new code side by side on one queue, as in a rolling deploy: nothing is lost, whoever claims it first."""

import json
import os
import subprocess
import sys

import pytest

from djtasks import states
from djtasks.models import Job
from djtasks.why import why
from tests.settings import SUFFIX
from tests.waiting import wait_until
from tests.worker.test_another_project import WAITER, Project, what_is_shared

OLD = """
from djtasks import shared_task


@shared_task
def export(number):
    return ["old", number]


@shared_task
def dropped(number):
    return ["old", number]
"""
NEW = """
from djtasks import shared_task


@shared_task
def export(number, format="csv"):
    return ["new", number]


@shared_task
def added(number):
    return ["new", number]
"""
SENDER = """
import json, sys
import django

django.setup()
from djtasks import send_task

name, count = json.loads(sys.argv[1])
print(json.dumps([send_task(name, (number,)).id for number in range(count)]))
"""


@pytest.fixture
def versions(database, settings, tmp_path):
    """The project before the deploy and after it, and a way to start and stop their workers."""
    name = f"shop_{SUFFIX}"
    shared, djtasks = what_is_shared(database, settings.DJTASKS)
    made = []
    for version, code in (("old", OLD), ("new", NEW)):
        project = Project(tmp_path / version, name, "unused", shared, djtasks)
        (project.folder / name / "tasks.py").write_text(code)
        made.append(project)
    running = {}

    def start(project):
        running[project] = project.start_worker(f"{project.folder.name}_{SUFFIX}")

    def stop(project):
        process = running.pop(project)
        process.terminate()
        process.wait(20)
        print(project.log.read_text())

    yield *made, name, start, stop
    for project in list(running):
        stop(project)


def preflight(project):
    """The exit code and what it found."""
    done = subprocess.run(
        [sys.executable, "-m", "django", "djtasks", "preflight", "--json"],
        cwd=project.folder,
        env={**os.environ, **project.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "redis"], indirect=True)
def test_what_only_one_version_knows_waits_for_it_and_all_else_is_run_by_both(versions):
    old, new, name, start, stop = versions
    start(old)
    added = new.run(SENDER, [f"{name}.tasks.added", 3])
    export = new.run(SENDER, [f"{name}.tasks.export", 5])
    assert [each[1] for each in old.run(WAITER, export)] == list(range(5))
    wait_until(lambda: "added" in old.log.read_text(), what="the old worker's word on the new task")
    # It may hold it for a moment, until it has found that it does not know it.
    wait_until(lambda: "unknown_task" in [each.kind for each in why(added[0])])
    start(new)
    dropped = old.run(SENDER, [f"{name}.tasks.dropped", 3])
    assert old.run(WAITER, added) == [["new", number] for number in range(3)]
    assert new.run(WAITER, dropped) == [["old", number] for number in range(3)]
    stop(old)
    assert new.run(WAITER, new.run(SENDER, [f"{name}.tasks.export", 5])) == [["new", number] for number in range(5)]
    assert set(Job.objects.values_list("state", flat=True)) == {states.SUCCESS}
    assert set(Job.objects.values_list("losses", flat=True)) == {0}


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_preflight_with_the_new_code_tells_what_the_old_must_still_run(versions):
    old, new, name, _start, _stop = versions
    old.run(SENDER, [f"{name}.tasks.export", 2])
    assert preflight(new)[0] == preflight(old)[0] == 0
    ids = old.run(SENDER, [f"{name}.tasks.dropped", 2])
    assert preflight(old)[0] == 0
    code, found = preflight(new)
    assert code == 1
    assert [(each["task"], each["count"]) for each in found["findings"]] == [(f"{name}.tasks.dropped", 2)]
    assert set(found["findings"][0]["samples"]) == set(ids)
