"""Two Django projects that share a broker and a database, and nothing else: each runs the tasks that it knows."""

import json
import os
import subprocess
import sys

import pytest
from django.db import connections

from djtasks import states
from djtasks.models import Job, Worker
from tests.processes import ROOT
from tests.settings import SUFFIX
from tests.waiting import wait_until

pytestmark = pytest.mark.every_broker

SETTINGS = """
import pymysql

pymysql.install_as_MySQLdb()
SECRET_KEY = "of {name}"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "djtasks", {name!r}]
DATABASES = {{"default": {database!r}}}
DJTASKS = {djtasks!r}
"""
TASKS = """
from pathlib import Path

from djtasks import shared_task


@shared_task
def {task}(path, number):
    with Path(path).open("a") as file:
        file.write(f"{name} {{number}}\\n")
    return number * 2
"""
SENDER = """
import json, sys
import django

django.setup()
from djtasks import registry, send_task

name, path, count = json.loads(sys.argv[1])
assert registry.find(name) is None
print(json.dumps([send_task(name, (path, number)).id for number in range(count)]))
"""
WAITER = """
import json, sys
import django

django.setup()
from djtasks import AsyncResult

print(json.dumps([AsyncResult(each).get(timeout=30) for each in json.loads(sys.argv[1])]))
"""


class Project:
    """A project in a folder of its own, with an app of its name that has one task."""

    def __init__(self, folder, name, task, database, djtasks):
        self.folder, self.name = folder, name
        app = folder / name
        app.mkdir(parents=True)
        (app / "__init__.py").touch()
        (app / "tasks.py").write_text(TASKS.format(name=name, task=task))
        settings = SETTINGS.format(name=name, database=database, djtasks=djtasks)
        (folder / f"{name}_settings.py").write_text(settings)
        self.log = folder / "worker.log"

    @property
    def environment(self):
        module = f"{self.name}_settings"
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        return {**os.environ, "DJANGO_SETTINGS_MODULE": module, "PYTHONPATH": path}

    def run(self, code, argument):
        """What a program in this project prints, given and printed as JSON."""
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(argument)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start_worker(self, hostname=None):
        hostname = hostname or self.name
        with self.log.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "django", "runworker", "-c", "1", "-n", hostname],
                cwd=self.folder,
                env=self.environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        wait_until(
            lambda: process.poll() is not None or Worker.objects.filter(hostname=hostname, beat__gt=0).exists(),
            what="the worker's first beat",
        )
        assert process.poll() is None, self.log.read_text()
        return process


def what_is_shared(database, djtasks_settings):
    """The database and the settings of projects that share what the test uses."""
    given = connections[database].settings_dict
    names = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
    shared = {name: given[name] for name in names}
    djtasks = {name: djtasks_settings[name] for name in ("BROKER_URL", "BROKER_OPTIONS") if name in djtasks_settings}
    return shared, djtasks | {"WORKER_HEARTBEAT": 0.2, "WORKER_LOST_AFTER": 2.0}


@pytest.fixture
def projects(database, settings, tmp_path):
    """The site and the reports, and workers of theirs, which are stopped afterwards."""
    shared, djtasks = what_is_shared(database, settings.DJTASKS)
    site = Project(tmp_path / "site", f"site_{SUFFIX}", "publish", shared, djtasks)
    reports = Project(tmp_path / "reports", f"reports_{SUFFIX}", "draw", shared, djtasks)
    running = []

    def start(project):
        running.append(project.start_worker())

    yield site, reports, start
    for process in running:
        process.terminate()
    for process, project in zip(running, (site, reports), strict=False):
        process.wait(20)
        print(project.log.read_text())


def test_each_project_runs_what_it_knows_though_all_stands_in_one_queue(projects, tmp_path):
    site, reports, start = projects
    path = tmp_path / "journal"
    for project in projects[:2]:
        start(project)
    drawn = site.run(SENDER, [f"{reports.name}.tasks.draw", str(path), 10])
    published = reports.run(SENDER, [f"{site.name}.tasks.publish", str(path), 10])
    assert site.run(WAITER, drawn) == reports.run(WAITER, published) == list(range(0, 20, 2))
    lines = sorted(path.read_text().splitlines())
    assert lines == sorted(f"{project.name} {number}" for project in (site, reports) for number in range(10))
    assert set(Job.objects.values_list("state", flat=True)) == {states.SUCCESS}


def test_what_the_site_alone_refuses_waits_for_the_other_project(projects, tmp_path):
    site, reports, start = projects
    path = tmp_path / "journal"
    start(site)
    ids = site.run(SENDER, [f"{reports.name}.tasks.draw", str(path), 3])
    wait_until(lambda: "draw" in site.log.read_text(), what="the site's word on a task that it does not know")
    assert not path.exists()
    start(reports)
    assert site.run(WAITER, ids) == [0, 2, 4]
    assert set(Job.objects.filter(pk__in=ids).values_list("losses", flat=True)) == {0}
