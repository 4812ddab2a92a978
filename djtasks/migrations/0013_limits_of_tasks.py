from django.db import migrations

# Of the limits, which may be one for each value of a key, the few that are asked for each second.
INDEXES = {"djtasks_limit_task": "is_task", "djtasks_limit_parked": "parked"}


def add_indexes(apps, schema_editor):
    """MySQL has no partial indexes."""
    vendor = schema_editor.connection.vendor
    how = "CREATE INDEX CONCURRENTLY IF NOT EXISTS" if vendor == "postgresql" else "CREATE INDEX"
    key = schema_editor.quote_name("key")
    for name, column in INDEXES.items():
        what = f"({column})" if vendor == "mysql" else f"({key}) WHERE {column}"
        schema_editor.execute(f"{how} {name} ON djtasks_limit {what}", params=None)


def drop_indexes(apps, schema_editor):
    on = " ON djtasks_limit" if schema_editor.connection.vendor == "mysql" else ""
    for name in INDEXES:
        schema_editor.execute(f"DROP INDEX {name}{on}", params=None)


class Migration(migrations.Migration):
    atomic = False  # an index can be made beside running workers only outside a transaction

    dependencies = [
        ("djtasks", "0012_jobs_that_failed"),
    ]

    operations = [
        migrations.RunPython(add_indexes, drop_indexes),
    ]
