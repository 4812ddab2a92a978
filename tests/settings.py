"""Django settings of the tests: the three databases under one roof, a job table in each.

`DJTASKS["DATABASE"]` says which one a test uses. A worker process of the tests is told by
the environment: `DJTASKS_TEST_SETTINGS` (JSON, merged into DJTASKS), `DJTASKS_TEST_DATABASES` (likewise, by alias)
and the databases' URLs.
"""

import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pymysql

from tests import servers

if find_spec("MySQLdb") is None:  # what Django recommends; it needs a compiler
    pymysql.install_as_MySQLdb()

IN_PYTEST = "pytest" in sys.modules and "DJTASKS_TEST_SETTINGS" not in os.environ
FILES = Path(os.environ.setdefault("DJTASKS_TEST_FILES", tempfile.mkdtemp(prefix="djtasks-tests-")))
SUFFIX = os.environ.setdefault("DJTASKS_TEST_SUFFIX", f"{os.getpid()}")
XDIST_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if not SUFFIX.endswith(XDIST_WORKER):  # of several that test at a time, each has databases and keys of its own
    SUFFIX = os.environ["DJTASKS_TEST_SUFFIX"] = f"{SUFFIX}{XDIST_WORKER}"


def _server(kind: str) -> servers.Server | None:
    url = os.environ.get(servers.variable(kind))
    if not IN_PYTEST:
        return servers.described(kind, url) if url else None
    found = servers.find(kind)
    if isinstance(found, servers.Missing):
        return None
    os.environ[servers.variable(kind)] = found.url
    return found


def _on_server(kind: str, engine: str) -> dict[str, dict[str, object]]:
    server = _server(kind)
    if server is None:
        return {}
    name = f"djtasks_{SUFFIX}"
    options: dict[str, object] = {}
    return {
        kind: {
            "ENGINE": f"django.db.backends.{engine}",
            "NAME": ("postgres" if kind == "postgresql" else "") if IN_PYTEST else name,
            "USER": server.user,
            "PASSWORD": server.password,
            "HOST": server.host,
            "PORT": server.port,
            "OPTIONS": options,
            "TEST": {"NAME": name},
        }
    }


DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJTASKS_TEST_SQLITE", str(FILES / f"{SUFFIX}.sqlite3")),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
        "TEST": {"NAME": str(FILES / f"{SUFFIX}.sqlite3")},
    },
    **_on_server("postgresql", "postgresql"),
    **_on_server("mariadb", "mysql"),
}

for _alias, _more in json.loads(os.environ.get("DJTASKS_TEST_DATABASES", "{}")).items():
    DATABASES[_alias] |= _more

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
USE_TZ = os.environ.get("DJTASKS_TEST_USE_TZ", "1") == "1"
TIME_ZONE = "Europe/Berlin"
LANGUAGE_CODE = "en"
ROOT_URLCONF = "demo_project.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "djtasks",
    "demo_project.shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
MEDIA_ROOT = str(FILES / "media")
EMAIL_FILE_PATH = os.environ.get("DJTASKS_TEST_MAIL_FOLDER")
EMAIL_BACKEND = f"django.core.mail.backends.{'filebased' if EMAIL_FILE_PATH else 'locmem'}.EmailBackend"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

TASKS = {"default": {"BACKEND": "djtasks.backend.DjtasksBackend", "QUEUES": ["default", "mail"]}}
DJTASKS = {
    "IMPORTS": ["tests.tasks", "tests.canvas.tasks", "tests.djangos_tasks"],
    **json.loads(os.environ.get("DJTASKS_TEST_SETTINGS", "{}")),
}
