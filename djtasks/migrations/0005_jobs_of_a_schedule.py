from django.db import migrations

INDEX = "djtasks_job_schedule ON djtasks_job (periodic_task, id)"


def add_index(apps, schema_editor):
    """The runs of a schedule, the newest first; the ids of its ticks are in the order of their times."""
    vendor = schema_editor.connection.vendor
    how = "CREATE INDEX CONCURRENTLY IF NOT EXISTS" if vendor == "postgresql" else "CREATE INDEX"
    where = "" if vendor == "mysql" else " WHERE periodic_task IS NOT NULL"
    schema_editor.execute(f"{how} {INDEX}{where}", params=None)


def drop_index(apps, schema_editor):
    on = " ON djtasks_job" if schema_editor.connection.vendor == "mysql" else ""
    schema_editor.execute(f"DROP INDEX djtasks_job_schedule{on}", params=None)


class Migration(migrations.Migration):
    atomic = False  # an index can be made beside running workers only outside a transaction

    dependencies = [
        ("djtasks", "0004_beat"),
    ]

    operations = [
        migrations.RunPython(add_index, drop_index),
    ]
