"""What a type checker knows of tasks, by the annotations of their functions."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parent.parent
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
LATER = "AsyncResult[list[int]]"
CODE = """
from typing import Any
from djtasks import shared_task

@shared_task
def add(x: int, y: int = 0) -> int:
    return x + y

@shared_task(bind=True, max_retries=3)
def bound(self: Any, name: str) -> str:
    return name

@shared_task(queue="q")
def sized(name: str) -> bytes:
    return name.encode()

@shared_task
async def later(seconds: float) -> list[int]:
    return []

@shared_task(bind=True)
async def later_bound(self: Any, seconds: float) -> list[int]:
    return []

reveal_type(add.delay(1, y=2))
reveal_type(add.delay(1).get())
reveal_type(bound.delay("x"))
reveal_type(sized.apply_async(("x",), countdown=5.0))
reveal_type(later.delay(1.0).get())
reveal_type(later_bound.delay(1.0))
reveal_type(add(1, 2))
reveal_type(add.s(1))

async def way() -> None:
    reveal_type(await add.adelay(1))
    reveal_type(await (await add.adelay(1)).aget())
    reveal_type(await later(1.0))
"""
WRONG = """
from djtasks import shared_task

@shared_task
def add(x: int, y: int = 0) -> int:
    return x + y

add.delay("x")
add.delay()
add.delay(1, z=3)
add.apply_async((1,), countdwn=3)
"""


def checked(tmp_path, code):
    """What mypy says of it, in strict mode."""
    path = tmp_path / "site_of_somebody.py"
    path.write_text(code)
    options = [
        "--strict",
        "--no-error-summary",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--follow-imports=silent",
    ]
    said, trouble, _code = api.run([*options, "--python-executable", sys.executable, str(path)])
    assert not trouble, trouble
    return said


def test_results_have_the_types_of_the_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = checked(tmp_path, CODE)
    found = [
        text.rpartition(".")[2] if "[" not in text else text for text in re.findall(r'Revealed type is "(.*)"', said)
    ]
    result = "djtasks.result.handles.AsyncResult"
    assert "error:" not in said, said
    assert found == [
        f"{result}[int]", "int", f"{result}[str]", f"{result}[bytes]", "list[int]", f"{result}[list[int]]",
        "int", "Signature", f"{result}[int]", "int", "list[int]",
    ]  # fmt: skip


def test_wrong_arguments_and_options_are_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = checked(tmp_path, WRONG)
    assert [int(line) for line in re.findall(r"site_of_somebody\.py:(\d+): error", said)] == [8, 9, 10, 11]


def test_the_code_of_the_page_on_types_is_right_in_strict_mode(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "types.md").read_text(), re.DOTALL)
    wrong = 'report.delay("x")\ncount.delay(1)\nexport.delay()\n'
    assert len(blocks) == 2
    for block in blocks:
        assert not checked(tmp_path, block)
    assert checked(tmp_path, blocks[1] + wrong).count("error:") == 3


@pytest.mark.skipif(shutil.which("pyright", path=PATH) is None, reason="pyright is missing: nox -s types installs it")
def test_pyright_says_the_same_in_strict_mode(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "types.md").read_text(), re.DOTALL)
    for name, code in (("code", CODE), ("wrong", WRONG), ("one", blocks[0]), ("other", blocks[1])):
        (tmp_path / f"{name}.py").write_text(code)
    config = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [shutil.which("pyright", path=PATH), "--outputjson", "--pythonpath", sys.executable]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100).stdout
    found = json.loads(said)["generalDiagnostics"]
    errors = [(Path(each["file"]).stem, each["range"]["start"]["line"] + 1) for each in found if is_error(each)]
    assert errors == [("wrong", line) for line in (8, 9, 10, 11)]
    texts = [each["message"].rpartition(" is ")[2].strip('"') for each in found if not is_error(each)]
    assert texts[:6] == ["AsyncResult[int]", "int", "AsyncResult[str]", "AsyncResult[bytes]", "list[int]", LATER]


def is_error(diagnostic):
    return diagnostic["severity"] == "error"
