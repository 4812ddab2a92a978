from django.db import migrations

# With the queue in it, what is for later in one queue, or in each, is found without a look at the rows of all others.
WHERE = " WHERE state IN ('SCHEDULED', 'RETRY')"
LIKE = "SELECT indexname FROM pg_indexes WHERE tablename = 'djtasks_job' AND indexdef LIKE '%(id varchar_pattern_ops)'"


def replace(schema_editor, old, new, columns):
    vendor = schema_editor.connection.vendor
    if vendor == "mysql":
        schema_editor.execute(f"CREATE INDEX {new} ON djtasks_job (state, {columns})", params=None)
        schema_editor.execute(f"DROP INDEX {old} ON djtasks_job", params=None)
        return
    beside, unless = ("CONCURRENTLY", "IF NOT EXISTS") if vendor == "postgresql" else ("", "")
    schema_editor.execute(f"CREATE INDEX {beside} {unless} {new} ON djtasks_job ({columns}){WHERE}", params=None)
    schema_editor.execute(f"DROP INDEX {beside} IF EXISTS {old}", params=None)


def add_queue(apps, schema_editor):
    replace(schema_editor, "djtasks_job_due", "djtasks_job_later", "run_at, queue")


def leave_queue_out(apps, schema_editor):
    replace(schema_editor, "djtasks_job_later", "djtasks_job_due", "run_at")


def drop_like_index(apps, schema_editor):
    """Under the collation "C" the primary key answers LIKE 'prefix%' itself; a second index only costs."""
    if schema_editor.connection.vendor != "postgresql":
        return
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(LIKE)
        names = [name for (name,) in cursor.fetchall()]
    for name in names:
        schema_editor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"', params=None)


class Migration(migrations.Migration):
    atomic = False  # an index can be made beside running workers only outside a transaction

    dependencies = [
        ("djtasks", "0015_metrics_by_level"),
    ]

    operations = [
        migrations.RunPython(add_queue, leave_queue_out),
        migrations.RunPython(drop_like_index, migrations.RunPython.noop),
    ]
