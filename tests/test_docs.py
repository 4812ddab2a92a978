"""The code in the documents: each block compiles, what it imports is there, and the how-to guides' own tests pass."""

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

from tests.site import ROOT, Site

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
GUIDES = sorted((ROOT / "docs" / "howto").glob("*.md"))
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w/]+\.py)\n")  # the first line of a block that is a whole file of a guide
MORE = "DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\nDATABASES['default']['NAME'] = ':memory:'\n"


def blocks(page):
    """The Python code of a page, block by block; of a session at a prompt what was typed."""
    for indent, text in BLOCK.findall(page.read_text()):
        code = textwrap.dedent(text) if indent else text
        yield _typed(code) if code.lstrip().startswith(">>> ") else code


def _typed(session):
    return "\n".join(line[4:] for line in session.splitlines() if line.startswith((">>> ", "... ")))


def names(page):
    """What a page imports from djtasks: (module, name), the name of a whole module is None."""
    for node in (node for code in blocks(page) for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "djtasks":
            yield from ((node.module, each.name) for each in node.names)
        elif isinstance(node, ast.Import):
            yield from ((each.name, None) for each in node.names if each.name.partition(".")[0] == "djtasks")


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_each_block_of_code_compiles(page):
    for code in blocks(page):
        compile(code, named(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", [page for page in PAGES if "djtasks import" in page.read_text()], ids=named)
def test_what_a_page_imports_from_djtasks_is_there(page):
    for module, name in names(page):
        found = importlib.import_module(module)
        if name is not None and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def test_the_guides_are_apps_of_a_site_whose_own_tests_pass(tmp_path):
    """The files of all, in a process of its own, as a reader would copy them."""
    site, apps = Site(tmp_path), []
    for page in GUIDES:
        files = {found[1]: code for code in blocks(page) if (found := FILE.match(code))}
        (app,) = {Path(name).parts[0] for name in files}
        assert f"{app}/tests.py" in files, page
        site.write(files)
        apps.append(app)
    assert len(set(apps)) == len(apps)
    site.settings(apps=apps, more=MORE)
    finished = site.manage("test", "-v", "2", *apps)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert all(f"({app}.tests." in finished.stderr for app in apps)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link
