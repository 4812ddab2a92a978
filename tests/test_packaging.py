"""The package as a stranger gets it: its wheel holds all that it needs, and works alone in an empty environment."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "djtasks"
DJANGO_VARIABLES = ("DJANGO_SETTINGS_MODULE", "DATABASE_URL", "DJTASKS_BROKER_URL")
NOT_CODE = (".sql", ".lua", ".html", ".txt", ".css", ".js", ".svg", ".mo", ".po")

pytestmark = pytest.mark.timeout(600)  # seconds; a build and an install may wait for the network

SETTINGS = """
SECRET_KEY = "only for this test"
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
    "django.contrib.sessions", "django.contrib.staticfiles", "djtasks", "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "urls"
STATIC_URL = "static/"
USE_TZ = True
"""

FILES = {
    "settings.py": SETTINGS,
    "urls.py": """
from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
""",
    "shop/__init__.py": "",
    "shop/tasks.py": """
from djtasks import shared_task

@shared_task
def add(x, y):
    return x + y
""",
    "enqueue.py": """
import django
django.setup()
from shop.tasks import add
print(add.delay(20, 22).id)
""",
    "result.py": """
import json, sys, django
django.setup()
from djtasks import AsyncResult
result = AsyncResult(sys.argv[1])
print(json.dumps([result.state, result.result]))
""",
}


def call(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command and return what it printed. Fails the test with all of it if the command fails."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", *DJANGO_VARIABLES)}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as for a release.

    From a copy of the tree: in a used one, setuptools takes its file list of last time for granted.
    """
    tree = tmp_path_factory.mktemp("release")
    shutil.copytree(PACKAGE, tree / "djtasks", ignore=shutil.ignore_patterns("__pycache__"))
    for other in ("tests", "demo_project"):
        (tree / other).mkdir()
        (tree / other / "__init__.py").touch()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tree)
    call(sys.executable, "-m", "build", cwd=tree)
    return next((tree / "dist").glob("*.whl"))


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    """The paths in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


class Site:
    """A new Django project in a virtual environment that holds Django and the wheel, nothing else."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "site"
        self.python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        call(self.python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        for name, text in FILES.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def manage(self, *arguments: str) -> str:
        return self.run("-m", "django", *arguments)

    def run(self, *arguments: str) -> str:
        return call(
            self.python, *arguments, cwd=self.folder, DJANGO_SETTINGS_MODULE="settings", PYTHONPATH=str(self.folder)
        )


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("stranger"), wheel)
    site.manage("migrate", "--verbosity=0")
    return site


def test_the_wheel_holds_every_file_of_the_package(names: set[str]) -> None:
    in_tree = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and (path.suffix in (".py", *NOT_CODE) or "static" in path.parts)
    }
    assert in_tree <= names
    assert "djtasks/py.typed" in names


def test_the_wheel_holds_sql_templates_and_migrations(names: set[str]) -> None:
    assert any(name.endswith("/claim.sql") for name in names)
    assert any(name.startswith("djtasks/templates/admin/djtasks/") for name in names)
    assert "djtasks/migrations/0001_initial.py" in names


def test_the_wheel_holds_nothing_but_the_package(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"djtasks", "djtasks-0.1.0.dist-info"}
    assert [name for name in names if "__pycache__" in name] == []


def test_the_metadata_say_what_the_package_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read("djtasks-0.1.0.dist-info/METADATA").decode())
        assert "djtasks-0.1.0.dist-info/licenses/LICENSE" in archive.namelist()
    assert metadata["Name"] == "djtasks"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    hard = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(hard) == ["django>=5.2", "uuid-utils>=0.9"]
    assert {"redis", "postgres", "mysql", "demo", "test", "docs", "bench"} <= set(
        metadata.get_all("Provides-Extra", [])
    )


def test_every_dependency_is_explained() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for group in groups for line in group.splitlines() if line and not line.startswith("#")]
    explained = (ROOT / "docs" / "dependencies.md").read_text().lower()
    packages = {line.split(";")[0].split("[")[0].split("=")[0].rstrip("><~ ").lower() for line in lines}
    assert {package for package in packages - {"djtasks"} if package not in explained} == set()


def test_a_new_site_passes_the_checks(site: Site) -> None:
    assert "no issues" in site.manage("check")


def test_a_new_site_needs_no_migration_of_its_own(site: Site) -> None:
    assert "No changes detected" in site.manage("makemigrations", "--check", "--dry-run")


def test_a_new_site_has_only_what_the_package_declares(site: Site) -> None:
    listed = json.loads(call(site.python, "-m", "pip", "list", "--format=json", cwd=site.folder))
    installed = {package["name"].lower().replace("_", "-") for package in listed}
    assert installed - {"pip", "setuptools", "tzdata"} == {"django", "asgiref", "sqlparse", "djtasks", "uuid-utils"}


def test_a_new_site_imports_the_package_before_the_settings_are_there(site: Site) -> None:
    assert call(site.python, "-c", "import djtasks; print('ok')", cwd=site.folder.parent).strip() == "ok"


def test_a_new_site_runs_a_job(site: Site) -> None:
    job = site.run("enqueue.py").split()[-1]
    site.manage("runworker", "--burst")
    state, result = json.loads(site.run("result.py", job).splitlines()[-1])
    assert (state, result) == ("SUCCESS", 42)


# The image


def test_the_image_is_slim_and_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    words = [line.split()[0] for line in lines if line and not line.startswith(("#", " "))]
    assert next(line for line in lines if line.startswith("FROM")).endswith("-slim")
    assert words.index("RUN") < words.index("USER") < words.index("CMD")
    assert "USER root" not in lines


def test_compose_starts_what_the_site_needs_and_watches_it() -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {"web", "worker", "redis", "postgres"} <= set(services)
    assert [name for name in ("web", "worker", "redis", "postgres") if "healthcheck" not in services[name]] == []
    for service in services.values():
        waits_for = service.get("depends_on", {})
        assert set(waits_for) <= set(services)
