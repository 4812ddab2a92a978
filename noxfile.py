"""The versions that djtasks promises: `pip install nox`, then `nox -l`, `nox -s smoke`, `nox -s full`.

nox -s smoke                 a part of the suite, on each pair of Python and Django that this machine has
nox -s "smoke(3.13, 6.1)"    on that one
nox -s full                  the whole suite, on the oldest pair and on the newest that is here
nox -s full -- -k name       arguments of pytest
nox -s coverage              the whole suite on the oldest pair, and which branches none of its processes took
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DJANGOS = ("5.2", "6.0", "6.1")
NEEDS = {"6.0": (3, 12), "6.1": (3, 12)}  # Django: the oldest Python that it runs on
SMOKE = (
    "tests/brokers/test_contract.py",
    "tests/canvas/test_manual.py",
    "tests/models/test_migrations.py",
    "tests/schedules/test_ticks.py",
    "tests/test_backend.py",
    "tests/test_checks.py",
    "tests/test_docs.py",
    "tests/test_encoding.py",
    "tests/test_execution.py",
    "tests/test_mail.py",
    "tests/test_publish.py",
    "tests/test_result.py",
    "tests/test_task.py",
    "tests/test_testing_kit.py",
    "tests/worker/test_pools.py",
    "tests/worker/test_runworker.py",
)

SMOKE_STORES = "not postgresql and not mariadb and not redis and not valkey"  # on all of them: `full`

PYTEST = ("pytest", "-q", "-n", "2", "--dist", "loadfile")

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["smoke"]
nox.options.reuse_existing_virtualenvs = True


def interpreter(version: str) -> str | None:
    """The command of a Python of that version that runs, of the path or of pyenv; None if this machine has none."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for command in (f"python{version}", *map(str, reversed(installed))):
        try:
            subprocess.run([command, "-c", ""], check=True, capture_output=True)  # a shim may be there, and not run
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return None


HERE = {version: command for version in PYTHONS if (command := interpreter(version))}


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


PAIRS = [(python, django) for python in HERE for django in DJANGOS if as_numbers(python) >= NEEDS.get(django, (0,))]
ENDS = sorted({PAIRS[0], PAIRS[-1]}, key=PAIRS.index) if PAIRS else []


def install(session: nox.Session, django: str) -> None:
    """Install djtasks with that Django."""
    following = f"{django.split('.')[0]}.{int(django.split('.')[1]) + 1}"
    session.install("-e", ".[test]", f"django>={django},<{following}")
    session.run("python", "-c", "import sys, django; print('Python', sys.version, 'Django', django.__version__)")


def test(session: nox.Session, django: str, arguments: list[str]) -> None:
    """Install djtasks with that Django, and run pytest."""
    install(session, django)
    session.run("python", "-m", *PYTEST, *arguments, *session.posargs)


@nox.session
@nox.parametrize("python,django", [nox.param(HERE[p], d, id=f"{p}, {d}") for p, d in PAIRS])
def smoke(session: nox.Session, django: str) -> None:
    """A part of the suite, on each pair of versions."""
    test(session, django, [*SMOKE, "-k", SMOKE_STORES])


@nox.session
@nox.parametrize("python,django", [nox.param(HERE[p], d, id=f"{p}, {d}") for p, d in ENDS])
def full(session: nox.Session, django: str) -> None:
    """The whole suite, on the oldest and on the newest pair."""
    test(session, django, [])


@nox.session
@nox.parametrize("python,django", [nox.param(HERE[p], d, id=f"{p}, {d}") for p, d in PAIRS[:1]])
def coverage(session: nox.Session, django: str) -> None:
    """The whole suite on the oldest pair; fails where less is covered than pyproject.toml says, not by failed tests."""
    install(session, django)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", *PYTEST, *session.posargs, success_codes=[0, 1])
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def types(session: nox.Session) -> None:
    """What mypy and pyright know of tasks, in strict mode; pyright brings a Node.js of its own."""
    session.install("-e", ".[test]", "pyright")
    session.run("python", "-m", "pytest", "-p", "no:xdist", "tests/test_types.py", *session.posargs)
