"""Make `.venv`, install djtasks with the extra that a command needs, run the command.

    python3 bootstrap.py demo|test|coverage|lint|types|bench|soak|docs|build [arguments]

Standard library only. Any Python from 3.8 on can start it: it looks for one that djtasks can run on.
The environment may name PYTHON (the interpreter to use), ARGS (more arguments) and ONCE=1 (`demo` stops by itself).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "djtasks-installed.json"  # {extra: digest of what declared it}

NEEDED = (3, 11)
INTERPRETERS = ("python3.14", "python3.13", "python3.12", "python3.11", "python3", "python")
EXTRAS = {
    "demo": "demo",
    "test": "test",
    "coverage": "test",
    "lint": "test",
    "types": "test",
    "bench": "bench",
    "soak": "test",
    "docs": "docs",
    "build": "test",
}


class BootstrapError(Exception):
    """Carries the one sentence that the user is to read."""


class Run(NamedTuple):
    """What a finished command left: its exit code (127: it could not be started), all it printed."""

    code: int
    output: str


class Interpreter(NamedTuple):
    """A Python that answered: the command that starts it, its version, where its own files are."""

    command: str
    version: tuple[int, int]
    base: str


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code. Where the system can, the command takes over this process."""
    if not arguments or arguments[0] not in EXTRAS:
        print(__doc__)
        return 2
    command, rest = arguments[0], arguments[1:] + shlex.split(os.environ.get("ARGS", ""))
    os.chdir(ROOT)
    try:
        prepare(EXTRAS[command])
    except BootstrapError as error:
        print(error, file=sys.stderr)
        return 1
    return perform(steps(command, rest))


def steps(command: str, arguments: list[str]) -> list[list[str]]:
    """Return the command lines that `command` stands for, in order."""
    python = str(VENV_PYTHON)
    once = ["--once"] if os.environ.get("ONCE", "0") not in ("", "0") else []
    return {
        "demo": [[python, "manage.py", "demo", *once, *arguments]],
        "test": [[python, "-m", "pytest", *(arguments or _in_parallel())]],
        "coverage": [
            [python, "-m", "coverage", "erase"],
            [python, "-m", "coverage", "run", "-m", "pytest", "-n", "2", "--dist", "loadfile", *arguments],
            [python, "-m", "coverage", "combine", "--quiet"],
            [python, "-m", "coverage", "report"],
        ],
        "lint": [
            [python, "-m", "ruff", "check", *arguments, "."],
            [python, "-m", "ruff", "format", "--check", "."],
            [str(VENV_PYTHON.with_name("lint-imports"))],
        ],
        "types": [[python, "-m", "mypy", *arguments]],
        "bench": [[python, "-m", "benchmarks", *arguments]],
        "soak": [[python, "-m", "tests.faults", *arguments]],
        "docs": [[python, "-m", "sphinx", "-W", "--keep-going", "-q", *(arguments or ["docs", "build/docs"])]],
        "build": [[python, "-m", "build", *arguments]],
    }[command]


def _in_parallel() -> list[str]:
    """Options for the whole suite in CI: it waits more than it works, and each file is as it would be alone."""
    return ["-n", "3", "--dist", "loadfile"] if os.environ.get("CI") else []


def perform(command_lines: list[list[str]]) -> int:
    """Run all, whatever one of them says, and return the first exit code that is not 0."""
    sys.stdout.flush()
    if len(command_lines) == 1 and os.name != "nt":
        # In our place, so that Ctrl-C and a kill reach the command itself.
        os.execv(command_lines[0][0], command_lines[0])
    codes = [subprocess.call(line) for line in command_lines]
    return next((code for code in codes if code), 0)


def prepare(extra: str) -> None:
    """Leave a `.venv` in which djtasks is installed with `extra`. Does nothing where that is so already."""
    uv = working_uv()
    if not usable_venv(uv):
        make_venv(uv)
    stamps, digest = read_stamps(), declared()
    if stamps.get(extra) != digest:
        install(extra, uv)
        STAMP.write_text(json.dumps({**stamps, extra: digest}), encoding="utf-8")


# The virtual environment


def usable_venv(uv: str | None) -> bool:
    """Whether `.venv` runs a Python that is new enough, can be installed into, and is the one that PYTHON asks for."""
    present = interrogate(str(VENV_PYTHON))
    if present is None or present.version < NEEDED:
        return False
    if uv is None and not has_pip():
        return False
    forced = os.environ.get("PYTHON")
    wanted = interrogate(forced) if forced else present
    return wanted is not None and wanted[1:] == present[1:]


def make_venv(uv: str | None) -> None:
    """Build `.venv` anew: with uv, else with the first interpreter that can. Raises `BootstrapError` if none can."""
    found = [python for python in map(interrogate, candidates()) if python and python.version >= NEEDED]
    forced_in_vain = bool(os.environ.get("PYTHON")) and not found
    if uv is not None and not forced_in_vain and make_venv_with_uv(uv):
        return
    for python in found:
        remove_venv()
        if run([python.command, "-m", "venv", str(VENV)]).code == 0 and has_pip():
            say(f"made .venv with {python.command}")
            return
        remove_venv()
    raise BootstrapError(advice(found))


def make_venv_with_uv(uv: str) -> bool:
    """Build `.venv` with uv; `--seed` puts pip inside too, so that it stays usable should uv go away."""
    remove_venv()
    wanted = os.environ.get("PYTHON") or ">=" + dotted(NEEDED)
    if run([uv, "venv", "--quiet", "--seed", "--python", wanted, str(VENV)]).code:
        return False
    say("made .venv with uv")
    return True


def remove_venv() -> None:
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)


def candidates() -> list[str]:
    """Return the commands that may start a Python, best first: only PYTHON where it is set."""
    forced = os.environ.get("PYTHON")
    return [forced] if forced else [*INTERPRETERS, sys.executable]


def interrogate(command: str) -> Interpreter | None:
    """Ask a Python who it is. None where there is none or it does not run, as a version manager's shim may."""
    code, output = run([command, "-c", "import sys; print(*sys.version_info[:2], sys.base_prefix)"])
    words = output.split(maxsplit=2)
    if code or len(words) != 3 or not (words[0] + words[1]).isdigit():
        return None
    return Interpreter(command, (int(words[0]), int(words[1])), words[2].strip())


def has_pip() -> bool:
    return run([str(VENV_PYTHON), "-m", "pip", "--version"]).code == 0


def working_uv() -> str | None:
    uv = shutil.which("uv")
    return uv if uv and run([uv, "--version"]).code == 0 else None


def advice(found: list[Interpreter]) -> str:
    """Return the sentence for a machine on which no `.venv` could be made; `found` are the Pythons that were tried."""
    forced = os.environ.get("PYTHON")
    if found:
        problem = f"{found[0].command} cannot make a virtual environment"
    elif forced:
        problem = f"PYTHON={forced} is no Python {dotted(NEEDED)} or newer that runs"
    else:
        problem = f"djtasks needs Python {dotted(NEEDED)} or newer, and none was found"
    return f"{problem}: {remedy(found[0].version if found else None)}"


def remedy(version: tuple[int, int] | None) -> str:
    """Return the command that helps. `version` is that of a Python whose `venv` fails; None: there is no Python."""
    if sys.platform == "darwin":
        return "`brew install python` helps."
    if os.name == "nt" or not shutil.which("apt-get"):
        return f"install Python {dotted(NEEDED)} or newer with its venv and pip modules."
    if version:
        return f"`sudo apt-get install python{dotted(version)}-venv` helps."
    return f"`sudo apt-get install python{dotted(NEEDED)} python{dotted(NEEDED)}-venv` helps."


def dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


# What is installed


def declared() -> str:
    """Return a digest of all that decides what an extra installs, and of the folder, since that may be moved."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("setup.cfg", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_stamps() -> dict[str, str]:
    """Return {extra: digest at its last install}; {} where nothing was installed or the note is damaged."""
    try:
        stamps = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def install(extra: str, uv: str | None) -> None:
    """Install djtasks, editable, with `extra`. Raises `BootstrapError` with the installer's own words."""
    say(f"installing djtasks[{extra}]: once, and again when setup.cfg or pyproject.toml changes")
    started = time.monotonic()
    installers = [[str(VENV_PYTHON), "-m", "pip", "install"]]
    if uv:
        installers.insert(0, [uv, "pip", "install", "--python", str(VENV_PYTHON)])
    if not has_pip():
        installers = installers[:1]
    # uv knows nothing of pip's configuration, such as a company's mirror, so pip has a try where uv fails.
    for installer in installers:
        code, output = run([*installer, "--editable", f".[{extra}]"], progress=True)
        if code == 0:
            say(f"installed in {time.monotonic() - started:.0f} s")
            return
    raise BootstrapError(f"{output}\ndjtasks: {shlex.join(installers[-1])} failed; what it said is above.")


# Talking to processes and to the user


def run(command: list[str], *, progress: bool = False) -> Run:
    """Run a command quietly; with `progress`, a terminal shows its latest line."""
    # In a virtual environment a user-wide `pip install --user` setting is an error.
    environment = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        process = subprocess.Popen(command, env=environment, **options)  # type: ignore[call-overload]
    except OSError as error:
        return Run(127, str(error))
    lines = []
    with process:
        for raw in process.stdout:
            lines.append(raw.decode(errors="replace"))
            if progress:
                show(lines[-1].rstrip())
    if progress:
        show("")
    return Run(process.returncode, "".join(lines))


def show(line: str) -> None:
    """Write over the terminal's last line; nothing where the output is no terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}\r", end="", flush=True)


def say(sentence: str) -> None:
    print(f"djtasks: {sentence}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
