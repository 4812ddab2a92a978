from django.db import migrations, models


def tune(apps, schema_editor):
    """Ids and keys are compared byte by byte, as in the job table."""
    vendor = schema_editor.connection.vendor
    if vendor == "mysql":
        schema_editor.execute(
            "ALTER TABLE djtasks_ticket CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", params=None
        )
    if vendor == "postgresql":
        schema_editor.execute(
            'ALTER TABLE djtasks_ticket ALTER COLUMN job TYPE varchar(64) COLLATE "C", '
            'ALTER COLUMN "limit" TYPE varchar(255) COLLATE "C"',
            params=None,
        )


class Migration(migrations.Migration):
    dependencies = [
        ("djtasks", "0008_why"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="limit",
            options={
                "default_permissions": ("view", "change"),
                "verbose_name": "limit",
                "verbose_name_plural": "limits",
            },
        ),
        migrations.RemoveField(
            model_name="limit",
            name="tokens",
        ),
        migrations.AddField(
            model_name="limit",
            name="declared",
            field=models.CharField(
                blank=True, db_default="", default="", max_length=32, verbose_name="rate in the code"
            ),
        ),
        migrations.AddField(
            model_name="limit",
            name="interval",
            field=models.BigIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddField(
            model_name="limit",
            name="is_task",
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
        migrations.AddField(
            model_name="limit",
            name="max_concurrency",
            field=models.IntegerField(blank=True, null=True, verbose_name="at a time"),
        ),
        migrations.AddField(
            model_name="limit",
            name="parked",
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
        migrations.AlterField(
            model_name="limit",
            name="key",
            field=models.CharField(max_length=255, primary_key=True, serialize=False, verbose_name="task or key"),
        ),
        migrations.CreateModel(
            name="Ticket",
            fields=[
                ("job", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("limit", models.CharField(max_length=255)),
                ("standing", models.SmallIntegerField(default=0)),
                ("rank", models.SmallIntegerField(default=0)),
                ("slot", models.BigIntegerField(default=0)),
            ],
            options={
                "verbose_name": "ticket",
                "verbose_name_plural": "tickets",
                "default_permissions": (),
                "indexes": [models.Index(fields=["limit", "standing", "rank", "slot"], name="djtasks_ticket_line")],
            },
        ),
        migrations.RunPython(tune, migrations.RunPython.noop, atomic=False),
    ]
