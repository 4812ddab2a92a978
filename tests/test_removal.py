"""`manage.py djtasks destroy`: what it refuses, says and removes; on whatever broker."""

import sys
from io import StringIO

import pytest
import redis
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import connections

from djtasks import removal
from djtasks.message import Message, new_id
from djtasks.models import Job, Limit, PeriodicTask, Worker
from tests.conftest import PREFIX
from tests.site import Site

pytestmark = pytest.mark.every_broker


def message(**fields):
    return Message(**{"id": new_id(), "task": "shop.tasks.export", "queue": "mail", **fields})


def destroy(*arguments):
    """The lines that the command prints."""
    out = StringIO()
    call_command("djtasks", "destroy", *arguments, stdout=out)
    return out.getvalue().splitlines()


def keys_of(broker):
    """How many keys Redis has of ours."""
    if broker.transactional:
        return 0
    with redis.Redis.from_url(broker.url) as client:
        return sum(1 for _ in client.scan_iter(f"{{{PREFIX}}}:*"))


def test_a_dry_run_says_what_there_is_and_removes_nothing(broker):
    PeriodicTask.objects.create(name="nightly", task="t", schedule="3600")
    broker.enqueue([message()])
    lines = destroy("--dry-run")
    assert lines[0] == f"In the database {removal.database_name()!r}:"
    assert "  djtasks_periodictask: 1 row(s)" in lines
    assert (f"In Redis: {keys_of(broker)} key(s)." in lines) is not broker.transactional
    assert lines[-2:] == [
        "1 job(s) have not ended: manage.py djtasks drain, or add --with-jobs.",
        "Nothing was removed.",
    ]
    assert broker.sizes()["mail"].ready == 1


@pytest.mark.parametrize("fields", [{}, {"countdown": 3600}])
def test_it_refuses_while_jobs_have_not_ended(broker, fields):
    broker.enqueue([message(**fields)])
    with pytest.raises(CommandError, match=r"1 job\(s\) have not ended: .* add --with-jobs") as refused:
        destroy("--no-input", "--keep-tables")
    assert "Nothing was removed." in str(refused.value)
    assert "mail" in broker.sizes()


def test_it_refuses_while_workers_live(broker):
    Worker.objects.create(pk="w" * 32, hostname="w@h", pid=1, queues="null", pool="solo", concurrency=1)
    with pytest.raises(CommandError, match=r"1 worker\(s\) live: w@h"):
        destroy("--no-input", "--keep-tables")
    destroy("--no-input", "--keep-tables", "--with-workers")
    assert not Worker.objects.exists()


def test_it_refuses_where_nobody_can_answer(broker):
    with pytest.raises(CommandError, match="There is nobody to ask"):
        destroy("--keep-tables")


@pytest.mark.parametrize("is_right", [True, False])
def test_only_the_name_of_the_database_is_taken_for_a_yes(broker, monkeypatch, is_right):
    Limit.objects.create(key="t")
    monkeypatch.setattr(sys, "stdin", StringIO(), raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: removal.database_name() if is_right else "y")
    if is_right:
        destroy("--keep-tables")
    else:
        with pytest.raises(CommandError, match="Nothing was removed"):
            destroy("--keep-tables")
    assert Limit.objects.exists() is not is_right


def test_a_fresh_start_empties_the_tables_and_the_broker_and_all_works_as_before(broker):
    PeriodicTask.objects.create(name="nightly", task="t", schedule="3600")
    broker.enqueue([message(), message(countdown=60)])
    broker.claim("mail", limit=1, worker="w.1")
    destroy("--no-input", "--keep-tables", "--with-jobs")
    assert keys_of(broker) == 0
    assert not PeriodicTask.objects.exists()
    assert not Job.objects.exists()
    broker.enqueue([message()])
    assert broker.sizes()["mail"].ready == 1


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_keys_of_others_stay_whatever_the_prefix(broker, settings):
    settings.DJTASKS = {**settings.DJTASKS, "BROKER_OPTIONS": {"prefix": f"{PREFIX}[*?"}}
    odd = removal.get_broker()
    odd.enqueue([message()])
    broker.enqueue([message()])
    there = keys_of(broker)
    assert odd.erase() > 0
    assert odd.count_keys() == 0
    assert keys_of(broker) == there


@pytest.fixture
def migrated_again(database, django_db_blocker):
    yield
    for alias in {database, "default"}:  # types and permissions are in the latter
        call_command("migrate", "djtasks", database=alias, verbosity=0)
    ContentType.objects.clear_cache()  # of ids that are gone
    assert Permission.objects.filter(content_type__app_label="djtasks", codename="view_job").exists()


def test_uninstalling_leaves_nothing_and_names_the_settings(broker, database, migrated_again):
    lines = destroy("--no-input")
    tables = [name for name in connections[database].introspection.table_names() if name.startswith("djtasks_")]
    assert (tables, keys_of(broker)) == ([], 0)
    assert not ContentType.objects.filter(app_label="djtasks").exists()
    assert '  INSTALLED_APPS: "djtasks"' in lines
    assert "  DJTASKS" in lines
    assert lines[-1].endswith("then: pip uninstall djtasks")
    assert "  no tables" in destroy("--no-input")  # once more is no error


LATER = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("djtasks", "0001_initial")]
    operations = []
"""


def test_it_refuses_where_migrations_of_others_build_on_ours(tmp_path):
    site = Site(tmp_path)
    site.write({"shop/migrations/0001_initial.py": LATER})
    site.settings(apps=["shop"])
    assert site.manage("migrate", "-v", "0").returncode == 0
    finished = site.manage("djtasks", "destroy", "--no-input")
    assert finished.returncode == 1
    assert "Migrations of other apps build on those of djtasks: shop.0001_initial." in finished.stderr
