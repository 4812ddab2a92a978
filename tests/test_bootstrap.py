"""`bootstrap.py`, started for real on machines made of small shell scripts that stand for Pythons and uv."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("demo", "test", "lint", "types", "bench", "soak", "docs", "build")

# Without this the Python that runs the tests would be the way out where no other works.
START = """
import runpy, sys
sys.executable = "/nonexistent/python"
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

PYTHON = """#!/bin/sh
PATH=/usr/bin:/bin
echo "{name} $*" >> {log}
case "$*" in
"-c import"*) echo "{major} {minor} /base/{major}.{minor}" ;;
"-m venv "*) mkdir -p "$3/bin"; cp {inside} "$3/bin/python"; {venv} ;;
"-m pip --version") {pip} ;;
"-m pip install "*) echo "pip was here"; exit ${{PIP_CODE:-0}} ;;
"-m ruff check"*) echo "ran $*"; exit ${{RUFF_CODE:-0}} ;;
*) echo "ran $*" ;;
esac
"""

UV = """#!/bin/sh
PATH=/usr/bin:/bin
echo "uv $*" >> {log}
case "$1 $2" in
"--version "*) exit ${{UV_CODE:-0}} ;;
"venv "*) mkdir -p .venv/bin; cp {inside} .venv/bin/python ;;
"pip install") echo "uv was here"; exit ${{UV_PIP_CODE:-0}} ;;
esac
"""


class Machine:
    """A folder with a project, and a PATH on which nothing is but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.venv_python = self.project / ".venv" / "bin" / "python"
        for path in (self.project, self.bin):
            path.mkdir()
        for name in ("bootstrap.py", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.project)
        self.program("apt-get", "#!/bin/sh\n")

    def program(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def python(self, name: str, version: tuple[int, int] = (3, 12), *, venv: str = "", pip: str = ":") -> Path:
        """Install a Python. `venv` is what its venv does last, `pip` what `-m pip --version` does: shell."""
        major, minor = version
        words = {"log": self.log, "major": major, "minor": minor, "pip": pip}
        inside = self.program(f"inside-{name}", PYTHON.format(name="venv", inside="", venv=":", **words))
        return self.program(name, PYTHON.format(name=name, inside=inside, venv=venv, **words))

    def uv(self) -> None:
        inside = self.python("of-uv", (3, 14)).with_name("inside-of-uv")
        self.program("uv", UV.format(log=self.log, inside=inside))

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        self.log.unlink(missing_ok=True)
        return subprocess.run(
            [sys.executable, "-c", START, str(self.project / "bootstrap.py"), *arguments],
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, of: str) -> list[str]:
        """Return the log lines of the last run that hold `of`."""
        return [line for line in self.log.read_text().splitlines() if of in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# Choosing an interpreter


def test_the_newest_python_whose_venv_works_is_taken(machine: Machine) -> None:
    machine.program("python3.14", "#!/bin/sh\necho 'shim: python3.14: command not found' >&2\nexit 127\n")
    machine.python("python3.13", (3, 13), venv="exit 1")
    machine.python("python3.12", (3, 12))
    machine.python("python3.11", (3, 11))
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    assert "ran -m pytest" in done.stdout
    assert "command not found" not in done.stdout + done.stderr
    assert [line.split()[0] for line in machine.calls("-m venv")] == ["python3.13", "python3.12"]


def test_a_python_whose_venv_has_no_pip_is_passed_over(machine: Machine) -> None:
    machine.python("python3.13", (3, 13), pip="exit 1")
    machine.python("python3.12", (3, 12))
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    assert "made .venv with python3.12" in done.stdout


def test_python3_serves_where_it_is_new_enough(machine: Machine) -> None:
    machine.python("python3", (3, 11))
    assert machine.run("test").returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the sentence names apt")
def test_one_sentence_helps_where_every_python_is_too_old(machine: Machine) -> None:
    machine.python("python3", (3, 10))
    done = machine.run("test")
    assert done.returncode == 1
    assert done.stderr == (
        "djtasks needs Python 3.11 or newer, and none was found: "
        "`sudo apt-get install python3.11 python3.11-venv` helps.\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the sentence names apt")
def test_one_sentence_helps_where_venv_is_not_installed(machine: Machine) -> None:
    machine.python("python3", (3, 12), venv="exit 1")
    done = machine.run("test")
    assert done.returncode == 1
    assert done.stderr == "python3 cannot make a virtual environment: `sudo apt-get install python3.12-venv` helps.\n"
    assert not machine.venv_python.exists()


def test_one_sentence_without_a_command_where_there_is_no_apt(machine: Machine) -> None:
    (machine.bin / "apt-get").unlink()
    done = machine.run("test")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_the_variable_python_names_the_only_candidate(machine: Machine) -> None:
    machine.python("python3.13", (3, 13))
    machine.python("mine", (3, 12))
    machine.run("test", PYTHON="mine")
    assert [line.split()[0] for line in machine.calls("-m venv")] == ["mine"]


def test_a_wrong_variable_python_is_an_error_and_leaves_the_venv_alone(machine: Machine) -> None:
    machine.python("python3.12")
    machine.run("test")
    done = machine.run("test", PYTHON="pythn3")
    assert done.returncode == 1
    assert done.stderr.startswith("PYTHON=pythn3 is no Python 3.11 or newer that runs: ")
    assert machine.venv_python.exists()


def test_a_real_python_makes_a_venv_that_counts_as_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "bootstrap.py", tmp_path)
    monkeypatch.setenv("PYTHON", sys.executable)
    bootstrap = runpy.run_path(str(tmp_path / "bootstrap.py"))
    assert not bootstrap["usable_venv"](None)
    bootstrap["make_venv"](None)
    assert bootstrap["usable_venv"](None)


# An existing .venv


def test_a_usable_venv_is_used_again(machine: Machine) -> None:
    machine.python("python3.12")
    machine.run("test")
    done = machine.run("test")
    assert done.returncode == 0
    assert machine.calls("-m venv") == []


def test_a_broken_venv_is_built_anew(machine: Machine) -> None:
    machine.python("python3.12")
    machine.run("test")
    machine.venv_python.unlink()
    machine.venv_python.symlink_to("/nonexistent/python3.12")
    assert machine.run("test").returncode == 0
    assert len(machine.calls("-m venv")) == 1


def test_a_venv_of_another_python_than_the_one_asked_for_is_built_anew(machine: Machine) -> None:
    machine.python("python3.12", (3, 12))
    machine.python("python3.13", (3, 13))
    machine.run("test", PYTHON="python3.12")
    machine.run("test", PYTHON="python3.13")
    assert len(machine.calls("-m venv")) == 1
    machine.run("test", PYTHON="python3.13")
    assert machine.calls("-m venv") == []


# uv


def test_uv_is_preferred(machine: Machine) -> None:
    machine.uv()
    machine.python("python3.13", (3, 13))
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    assert machine.calls("-m venv") == []
    assert "--seed" in machine.calls("uv venv")[0]
    assert machine.calls("uv pip install")[0].endswith(f"--python {machine.venv_python} --editable .[test]")


def test_a_uv_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.uv()
    machine.python("python3.13", (3, 13))
    assert machine.run("test", UV_CODE="127").returncode == 0
    assert len(machine.calls("-m venv")) == 1


def test_pip_has_a_try_where_uv_cannot_install(machine: Machine) -> None:
    machine.uv()
    assert machine.run("test", UV_PIP_CODE="1").returncode == 0
    assert len(machine.calls("venv -m pip install")) == 1


# Installing


def test_what_is_installed_is_not_installed_again(machine: Machine) -> None:
    machine.python("python3.12")
    machine.run("test")
    assert machine.calls("pip install") == ["venv -m pip install --editable .[test]"]
    machine.run("test")
    machine.run("types")
    assert machine.calls("pip install") == []


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_a_changed_declaration_is_installed_again(machine: Machine, name: str) -> None:
    machine.python("python3.12")
    machine.run("test")
    with (machine.project / name).open("a") as declaration:
        declaration.write("\n# changed\n")
    machine.run("test")
    assert len(machine.calls("pip install")) == 1


def test_each_command_installs_the_extra_that_it_needs(machine: Machine) -> None:
    machine.python("python3.12")
    machine.run("demo")
    assert machine.calls("pip install") == ["venv -m pip install --editable .[demo]"]
    machine.run("test")
    assert machine.calls("pip install") == ["venv -m pip install --editable .[test]"]
    machine.run("demo")
    assert machine.calls("pip install") == []


def test_a_moved_project_is_installed_again(machine: Machine) -> None:
    machine.python("python3.12")
    machine.run("test")
    machine.project = machine.project.rename(machine.project.with_name("moved"))
    machine.run("test")
    assert len(machine.calls("pip install")) == 1


def test_a_failed_install_shows_what_pip_said_and_is_tried_again(machine: Machine) -> None:
    machine.python("python3.12")
    done = machine.run("test", PIP_CODE="1")
    assert done.returncode == 1
    assert "pip was here" in done.stderr
    assert "ran -m pytest" not in done.stdout
    machine.run("test")
    assert len(machine.calls("pip install")) == 1


# Running


def test_arguments_reach_the_command(machine: Machine) -> None:
    machine.python("python3.12")
    done = machine.run("test", "-x", ARGS="-k 'one or two'")
    assert "ran -m pytest -x -k one or two" in done.stdout


@pytest.mark.parametrize(("once", "shown"), [("1", "ran manage.py demo --once"), ("0", "ran manage.py demo")])
def test_once_ends_the_demo_by_itself(machine: Machine, once: str, shown: str) -> None:
    machine.python("python3.12")
    assert shown in machine.run("demo", ONCE=once).stdout.splitlines()


def test_lint_runs_every_check_and_fails_if_one_does(machine: Machine) -> None:
    machine.python("python3.12")
    machine.run("types")
    machine.program("lint-imports", "#!/bin/sh\necho ran lint-imports\n").rename(
        machine.venv_python.with_name("lint-imports")
    )
    done = machine.run("lint", RUFF_CODE="3")
    assert done.returncode == 3
    assert "ran -m ruff format --check ." in done.stdout
    assert "ran lint-imports" in done.stdout
    assert machine.run("lint").returncode == 0


def test_an_unknown_command_shows_the_known_ones(machine: Machine) -> None:
    done = machine.run("tset")
    assert done.returncode == 2
    assert "demo|test|coverage|lint|types|bench|soak|docs|build" in done.stdout


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
@pytest.mark.parametrize("command", COMMANDS)
def test_make_calls_the_bootstrap(command: str) -> None:
    done = subprocess.run(["make", "-n", command], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ)
    assert f"python3 bootstrap.py {command}" in done.stdout


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_make_hands_its_variables_on(machine: Machine) -> None:
    machine.program("python3", '#!/bin/sh\necho "$ONCE|$ARGS|$PYTHON"\n')
    command = [str(shutil.which("make")), "demo", "ONCE=1", "ARGS=-k 'a b'", "PYTHON=python3.13"]
    environment = {"PATH": f"{machine.bin}:/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1|-k 'a b'|python3.13\n"
