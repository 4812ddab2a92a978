"""Settings of the demo site. The environment, or a file `.env` beside manage.py, may set each of the names in capitals.

DEBUG, SECRET_KEY, ALLOWED_HOSTS, CSRF_TRUSTED_ORIGINS, DATABASE_URL, MEDIA_ROOT, EMAIL_URL, EMAIL_FILE_PATH,
DEFAULT_FROM_EMAIL, TIME_ZONE, LOG_LEVEL, DJTASKS_BROKER_URL, DJTASKS_RUNSERVER_WORKER
"""

from __future__ import annotations

from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from djtasks import crontab

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="") or (get_random_secret_key() if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "set SECRET_KEY to a long random text; on your own machine DEBUG=true does without, as `manage.py demo` does."
    )
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

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
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "demo_project.shop.middleware.content_security_policy",
]

ROOT_URLCONF = "demo_project.urls"
WSGI_APPLICATION = "demo_project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.debug",
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def database() -> dict[str, object]:
    """Return the database that DATABASE_URL names; for SQLite with what several processes need that write to it."""
    config = env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'demo.sqlite3'}")
    if config["ENGINE"].endswith(".sqlite3"):
        config["OPTIONS"] = {
            "timeout": 20,  # seconds
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            **config.get("OPTIONS", {}),
        }
    elif config["ENGINE"].endswith(".mysql"):
        use_pymysql()
    return config


def use_pymysql() -> None:
    """Let PyMySQL, which needs no compiler, stand for MySQLdb."""
    import pymysql  # noqa: PLC0415 - only where it is used

    pymysql.version_info = (2, 2, 8, "final", 0)  # the mysqlclient that Django asks for
    pymysql.install_as_MySQLdb()


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-us"
TIME_ZONE = env.str("TIME_ZONE", default="UTC")
USE_TZ = True

STATIC_URL = "static/"
MEDIA_ROOT = env.str("MEDIA_ROOT", default=str(BASE_DIR / "demo_project" / "media"))

# Sends all mail in the background; what EMAIL_URL names delivers it, by default into files.
mail = env.email_url("EMAIL_URL", default="filemail://")
EMAIL_BACKEND = "djtasks.mail.EmailBackend"
EMAIL_FILE_PATH = env.str("EMAIL_FILE_PATH", default=str(Path(MEDIA_ROOT) / "mail"))
EMAIL_HOST = mail["EMAIL_HOST"] or "localhost"
EMAIL_PORT = mail["EMAIL_PORT"] or 25
EMAIL_HOST_USER = mail["EMAIL_HOST_USER"] or ""
EMAIL_HOST_PASSWORD = mail["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS = mail.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = mail.get("EMAIL_USE_SSL", False)
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="The demo shop <shop@example.com>")

DJTASKS = {
    "BROKER_URL": env.str("DJTASKS_BROKER_URL", default="database://"),
    "EMAIL_BACKEND": mail["EMAIL_BACKEND"],
    "RUNSERVER_WORKER": env.bool("DJTASKS_RUNSERVER_WORKER", default=None),
    "IMPORTS": ["demo_project.shop.reports"],  # tasks that stand in no tasks.py; one has its schedule beside it
    "BEAT_SCHEDULE": {
        "Thumbnails for the shop window": {
            "task": "demo_project.shop.tasks.make_thumbnails",
            "schedule": 20,  # seconds
            "kwargs": {"count": 2},
        },
        "Export of the night": {
            "task": "demo_project.shop.tasks.export_orders",
            "schedule": crontab(minute=30, hour=2, day_of_week="mon-fri"),
            "timezone": "Europe/Berlin",
        },
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"djtasks": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", default="INFO"), "propagate": False}},
}
