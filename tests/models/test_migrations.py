"""The migrations: no drift under anybody's settings, and times that mean the same under all of them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from django.db import connections

from djtasks.message import MAX_ID_LENGTH, MAX_NAME_LENGTH, MAX_QUEUE_LENGTH
from djtasks.models import Job
from tests.site import ROOT, Site


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.mark.parametrize(
    "more",
    [
        "",
        "LANGUAGE_CODE = 'de'\nUSE_TZ = False\n",
        "LANGUAGE_CODE = 'ar'\nDEFAULT_AUTO_FIELD = 'django.db.models.AutoField'\n",
        "USE_I18N = False\nDEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\nTIME_ZONE = 'Asia/Tokyo'\n",
    ],
)
def test_there_is_no_drift_whatever_the_settings(site, more):
    site.settings(more=more)
    finished = site.manage("makemigrations", "--check", "--dry-run")
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_columns_hold_what_is_promised_of_ids_and_names():
    lengths = {field.name: field.max_length for field in Job._meta.concrete_fields}
    assert (lengths["id"], lengths["parent_id"], lengths["root_id"]) == (MAX_ID_LENGTH,) * 3
    assert (lengths["task"], lengths["queue"]) == (MAX_NAME_LENGTH, MAX_QUEUE_LENGTH)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_ids_stand_in_one_index_not_in_a_second_one_for_like(database):
    connection = connections[database]
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, Job._meta.db_table)
    assert [each["primary_key"] for each in found.values() if each["columns"] == ["id"]] == [True]


TIMES = """
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from djtasks.models import Job
from djtasks.publish import build
call_command("migrate", "djtasks", verbosity=0)

noon = datetime(2030, 7, 1, 12, tzinfo=UTC)
Job.objects.create(id="aware", task="t", queue="q", run_at=noon.astimezone(timezone(timedelta(hours=9))))
if not settings.USE_TZ:
    Job.objects.create(id="naive", task="t", queue="q", run_at=datetime(2030, 7, 1, 14))  # Berlin's summer
    assert build("t", (), {}, {"eta": datetime(2030, 7, 1, 14)}).eta == noon
for job in Job.objects.all():
    assert job.run_at == noon and job.run_at.utcoffset() == timedelta(0), job.run_at
assert Job.objects.filter(run_at=noon, run_at__lte=noon).count() == Job.objects.count()
assert not Job.objects.filter(run_at__gt=noon).exists()
with connection.cursor() as cursor:
    cursor.execute("SELECT DISTINCT run_at FROM djtasks_job")
    assert [str(value)[:19] for (value,) in cursor.fetchall()] == ["2030-07-01 12:00:00"]
print("as promised")
"""


@pytest.mark.parametrize(
    "more",
    [
        "TIME_ZONE = 'Europe/Berlin'\n",
        "TIME_ZONE = 'Europe/Berlin'\nUSE_TZ = False\n",
        "TIME_ZONE = 'Europe/Berlin'\nDATABASES['default']['TIME_ZONE'] = 'Asia/Tokyo'\n",
    ],
)
def test_times_stand_in_utc_whatever_the_settings(site, more):
    site.settings(more=more)
    finished = site.run("-c", TIMES)
    assert finished.stdout.strip() == "as promised", finished.stderr


ELSEWHERE = """
from datetime import UTC, datetime
import django
from django.conf import settings
settings.DATABASES[settings.DJTASKS["DATABASE"]]["TIME_ZONE"] = ZONE
django.setup()
from djtasks.models import Job
job = Job.objects.get()
assert job.run_at == datetime(2030, 7, 1, 12, tzinfo=UTC), job.run_at
Job.objects.create(id="back", task="t", queue="q", run_at=job.run_at)
print("as promised")
"""


@pytest.mark.parametrize(("use_tz", "zone"), [("0", None), ("1", "Asia/Tokyo")])
def test_processes_of_other_settings_agree_on_the_times_in_one_database(database, settings, use_tz, zone):
    noon = datetime(2030, 7, 1, 12, tzinfo=UTC)
    Job.objects.create(id="there", task="t", queue="q", run_at=noon)
    finished = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.replace("ZONE", repr(zone))],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DJTASKS_TEST_SETTINGS": json.dumps(settings.DJTASKS),
            "DJTASKS_TEST_USE_TZ": use_tz,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stdout.strip() == "as promised", finished.stderr
    assert set(Job.objects.values_list("pk", "run_at")) == {("there", noon), ("back", noon)}
