from django.db import migrations

import djtasks.models.fields

INDEX = "djtasks_jobgroup_open ON djtasks_jobgroup (open_at)"


def add_index(apps, schema_editor):
    """The few groups that are still being sent."""
    vendor = schema_editor.connection.vendor
    how = "CREATE INDEX CONCURRENTLY IF NOT EXISTS" if vendor == "postgresql" else "CREATE INDEX"
    where = "" if vendor == "mysql" else " WHERE open_at IS NOT NULL"
    schema_editor.execute(f"{how} {INDEX}{where}", params=None)


def drop_index(apps, schema_editor):
    on = " ON djtasks_jobgroup" if schema_editor.connection.vendor == "mysql" else ""
    schema_editor.execute(f"DROP INDEX djtasks_jobgroup_open{on}", params=None)


class Migration(migrations.Migration):
    atomic = False  # an index can be made beside running workers only outside a transaction

    dependencies = [
        ("djtasks", "0009_limits"),
    ]

    operations = [
        migrations.AddField(
            model_name="jobgroup",
            name="open_at",
            field=djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="still sent at"),
        ),
        migrations.RunPython(add_index, drop_index),
    ]
