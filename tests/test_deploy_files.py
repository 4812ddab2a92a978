"""The files of docs/deploy: they are what their tools take, and agree with what the worker does."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from django.core.management import load_command_class

from djtasks.conf import DEFAULTS
from djtasks.worker import health
from tests.site import ROOT

FILES = ROOT / "docs" / "deploy"
UNITS = ("djtasks-worker@.service", "djtasks-health@.service", "djtasks-health@.timer")
GRACE = DEFAULTS["WORKER_SHUTDOWN_TIMEOUT"] + 10  # seconds: 3 s to give back what ran, and some for a busy machine
PROBE = ["python", "-m", "djtasks.worker.health"]


def units():
    return {name: (FILES / name).read_text() for name in UNITS}


def manifests():
    return list(yaml.safe_load_all((FILES / "kubernetes.yaml").read_text()))


def containers():
    return {
        container["name"]: (each["spec"]["template"]["spec"], container)
        for each in manifests()
        for container in each["spec"].get("template", {}).get("spec", {}).get("containers", ())
    }


def compose():
    return yaml.safe_load((FILES / "compose.yaml").read_text())["services"]


def commands():
    """What each file runs of manage.py, as words."""
    found = [container["command"] for _, container in containers().values()]
    found += [shlex.split(each["command"]) for each in compose().values() if "command" in each]
    found += [shlex.split(line) for line in re.findall(r"^ExecStart=(.*)$", units()[UNITS[0]], re.MULTILINE)]
    found += [yaml.safe_load(re.search(r"^CMD (.*)$", (FILES / "Dockerfile").read_text(), re.MULTILINE)[1])]
    return [each[each.index("manage.py") + 1 :] for each in found if "manage.py" in each]


def test_each_command_of_ours_is_one_that_there_is():
    ours = [each for each in commands() if each[0] in ("runworker", "djtasks")]
    assert len(ours) == 6
    for name, *arguments in ours:
        load_command_class("djtasks", name).create_parser("manage.py", name).parse_args(arguments)


def test_the_probe_is_a_module_that_can_be_run():
    assert PROBE[-1] == health.__name__
    assert "__main__" in (ROOT / "djtasks" / "worker" / "health.py").read_text()
    spec, container = containers()["worker"]
    assert container["livenessProbe"]["exec"]["command"] == container["startupProbe"]["exec"]["command"] == PROBE
    assert compose()["worker"]["healthcheck"]["test"] == ["CMD", *PROBE]
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert spec["volumes"] == [{"name": "tmp", "emptyDir": {}}]


def test_whoever_stops_a_worker_waits_for_it():
    assert containers()["worker"][0]["terminationGracePeriodSeconds"] >= GRACE
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", units()[UNITS[0]], re.MULTILINE)[1]) >= GRACE
    for name in ("worker", "mail"):
        assert int(compose()[name]["stop_grace_period"].rstrip("s")) >= GRACE


def test_a_worker_is_not_restarted_by_an_outage_that_it_would_survive():
    probe = containers()["worker"][1]["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3 * 3 * DEFAULTS["WORKER_LOST_AFTER"]


def test_manifests_are_valid_for_kubernetes():
    validate = pytest.importorskip("kubernetes_validate")
    for each in manifests():
        validate.validate(each, "1.34", strict=True)


def test_units_are_valid_for_systemd(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    for name, text in units().items():
        text = text.replace("/srv/shop/.venv/bin/python", sys.executable).replace("User=shop", "User=root")
        (tmp_path / name.replace("@", "@mail")).write_text(text)
    finished = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = [line for line in finished.stderr.splitlines() if str(tmp_path) in line or "djtasks" in line]
    assert (finished.returncode, told) == (0, []), finished.stderr
