"""A Django site of a test's own: a few files, run in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

SETTINGS = """
SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "djtasks"] + {apps!r}
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}}}}
DJTASKS = {djtasks!r}
"""


class Site:
    """A folder with a settings module `site_settings` and whatever a test writes beside it."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, files):
        """Write Python files, by their paths; folders become packages."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for parent in path.relative_to(self.folder).parents:
                if parent != Path():
                    (self.folder / parent / "__init__.py").touch()
            path.write_text(text)

    def settings(self, apps=(), more="", **djtasks):
        self.write({"site_settings.py": SETTINGS.format(apps=list(apps), djtasks=djtasks) + more})

    def run(self, *arguments):
        """Run `python *arguments` there; returns the finished process with its text."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "site_settings",
                "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
            },
            capture_output=True,
            text=True,
            timeout=100,  # a busy machine; less than a test may take
        )

    def manage(self, *arguments):
        return self.run("-m", "django", *arguments)

    def task_names(self):
        """The names of the tasks that the site knows once it is set up, but djtasks' own."""
        code = "import django; django.setup(); from djtasks import registry; print('\\n'.join(registry.names()))"
        finished = self.run("-c", code)
        assert finished.returncode == 0, finished.stderr
        return [name for name in finished.stdout.split() if not name.startswith("djtasks.")]
