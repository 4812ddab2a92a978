from django.db import migrations

# The states of which there are few, and that people look for; what succeeds costs nothing here. With OR, since SQLite
# does not see that a state is in a list.
INDEX = "djtasks_job_failed ON djtasks_job (state, id)"
WHERE = "state = 'FAILURE' OR state = 'REVOKED' OR state = 'IGNORED' OR state = 'REPLACED'"


def add_index(apps, schema_editor):
    """MySQL has no partial indexes, and others of its own that begin with the state."""
    vendor = schema_editor.connection.vendor
    if vendor == "mysql":
        return
    how = "CREATE INDEX CONCURRENTLY IF NOT EXISTS" if vendor == "postgresql" else "CREATE INDEX"
    schema_editor.execute(f"{how} {INDEX} WHERE {WHERE}", params=None)


def drop_index(apps, schema_editor):
    if schema_editor.connection.vendor != "mysql":
        schema_editor.execute("DROP INDEX djtasks_job_failed", params=None)


class Migration(migrations.Migration):
    atomic = False  # an index can be made beside running workers only outside a transaction

    dependencies = [
        ("djtasks", "0011_workers_and_tasks"),
    ]

    operations = [
        migrations.RunPython(add_index, drop_index),
    ]
