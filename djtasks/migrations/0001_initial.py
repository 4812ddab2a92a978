from django.db import migrations, models

import djtasks.models.fields

PARTIAL_INDEXES = (
    "CREATE INDEX djtasks_job_ready ON djtasks_job (queue, rank, order_key) WHERE state = 'PENDING'",
    "CREATE INDEX djtasks_job_due ON djtasks_job (run_at) WHERE state IN ('SCHEDULED', 'RETRY')",
    "CREATE INDEX djtasks_job_running ON djtasks_job (worker) WHERE state IN ('RECEIVED', 'STARTED')",
    "CREATE INDEX djtasks_job_finished ON djtasks_job (finished_at) WHERE finished_at IS NOT NULL",
    "CREATE UNIQUE INDEX djtasks_job_unique ON djtasks_job (unique_key) WHERE unique_key IS NOT NULL",
    "CREATE INDEX djtasks_job_root ON djtasks_job (root_id) WHERE root_id IS NOT NULL",
    "CREATE INDEX djtasks_job_parent ON djtasks_job (parent_id) WHERE parent_id IS NOT NULL",
    "CREATE INDEX djtasks_job_group ON djtasks_job (group_id) WHERE group_id IS NOT NULL",
)
# MySQL has no partial indexes; a leading state does for them.
WHOLE_INDEXES = (
    "CREATE INDEX djtasks_job_ready ON djtasks_job (state, queue, `rank`, order_key)",
    "CREATE INDEX djtasks_job_due ON djtasks_job (state, run_at)",
    "CREATE INDEX djtasks_job_running ON djtasks_job (state, worker)",
    "CREATE INDEX djtasks_job_finished ON djtasks_job (finished_at)",
    "CREATE UNIQUE INDEX djtasks_job_unique ON djtasks_job (unique_key)",
    "CREATE INDEX djtasks_job_root ON djtasks_job (root_id)",
    "CREATE INDEX djtasks_job_parent ON djtasks_job (parent_id)",
    "CREATE INDEX djtasks_job_group ON djtasks_job (group_id)",
)
# Ids and names are compared byte by byte: faster, and 'a' is not 'A'. Rows are written two to four times each,
# so pages keep room for that, and the dead rows are cleared long before the default of a fifth of the table.
POSTGRESQL = (
    'ALTER TABLE djtasks_job ALTER COLUMN id TYPE varchar(64) COLLATE "C", '
    'ALTER COLUMN task TYPE varchar(255) COLLATE "C", ALTER COLUMN queue TYPE varchar(128) COLLATE "C", '
    'ALTER COLUMN worker TYPE varchar(64) COLLATE "C"',
    "ALTER TABLE djtasks_job SET (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, "
    "autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000)",
)
TABLES = ("job", "jobgroup", "outbox", "periodictask", "worker", "queue", "limit", "metric")


def tune(apps, schema_editor):
    """What differs by vendor: the indexes of the hot statements, collations, storage."""
    vendor = schema_editor.connection.vendor
    if vendor == "mysql":
        for table in TABLES:
            schema_editor.execute(
                f"ALTER TABLE djtasks_{table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", params=None
            )
    if vendor == "postgresql":
        for statement in POSTGRESQL:
            schema_editor.execute(statement, params=None)
    for statement in WHOLE_INDEXES if vendor == "mysql" else PARTIAL_INDEXES:
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="JobGroup",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("size", models.IntegerField(verbose_name="members")),
                ("remaining", models.IntegerField(verbose_name="not ended yet")),
                ("body", models.TextField(editable=False, null=True)),
                (
                    "created_at",
                    djtasks.models.fields.UTCDateTimeField(
                        default=djtasks.models.fields.utc_now, verbose_name="created at"
                    ),
                ),
                ("finished_at", djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="finished at")),
            ],
            options={
                "verbose_name": "group",
                "verbose_name_plural": "groups",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Limit",
            fields=[
                ("key", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("rate", models.CharField(blank=True, db_default="", default="", max_length=32, verbose_name="rate")),
                ("next_slot", models.BigIntegerField(db_default=0, default=0)),
                ("tokens", models.TextField(null=True)),
            ],
            options={
                "verbose_name": "limit",
                "verbose_name_plural": "limits",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("message", models.TextField()),
                (
                    "created_at",
                    djtasks.models.fields.UTCDateTimeField(db_index=True, default=djtasks.models.fields.utc_now),
                ),
            ],
            options={
                "verbose_name": "unsent message",
                "verbose_name_plural": "unsent messages",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="PeriodicTask",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=200, unique=True, verbose_name="name")),
                ("task", models.CharField(max_length=255, verbose_name="task")),
                ("schedule", models.CharField(max_length=255, verbose_name="schedule")),
                (
                    "timezone",
                    models.CharField(blank=True, db_default="", default="", max_length=64, verbose_name="time zone"),
                ),
                ("args", models.TextField(default="[]", verbose_name="arguments")),
                ("kwargs", models.TextField(default="{}", verbose_name="keyword arguments")),
                ("headers", models.TextField(default="{}", verbose_name="headers")),
                (
                    "queue",
                    models.CharField(blank=True, db_default="", default="", max_length=128, verbose_name="queue"),
                ),
                ("priority", models.SmallIntegerField(blank=True, null=True, verbose_name="priority")),
                ("enabled", models.BooleanField(db_default=True, default=True, verbose_name="enabled")),
                ("start_at", djtasks.models.fields.UTCDateTimeField(blank=True, null=True, verbose_name="not before")),
                ("end_at", djtasks.models.fields.UTCDateTimeField(blank=True, null=True, verbose_name="not after")),
                ("one_off", models.BooleanField(db_default=False, default=False, verbose_name="only once")),
                ("max_runs", models.IntegerField(blank=True, null=True, verbose_name="runs at most")),
                ("expires", models.FloatField(blank=True, null=True, verbose_name="a tick expires after (seconds)")),
                ("jitter", models.FloatField(db_default=0.0, default=0, verbose_name="jitter (seconds)")),
                ("overlap", models.BooleanField(db_default=True, default=True, verbose_name="may overlap")),
                (
                    "catch_up",
                    models.CharField(
                        choices=[
                            ("skip", "skip what was missed"),
                            ("once", "run once for all that was missed"),
                            ("all", "run each that was missed"),
                        ],
                        default="once",
                        max_length=8,
                        verbose_name="missed ticks",
                    ),
                ),
                (
                    "misfire_grace",
                    models.FloatField(blank=True, null=True, verbose_name="grace for missed ticks (seconds)"),
                ),
                ("source", models.CharField(db_default="admin", default="admin", max_length=16, verbose_name="source")),
                ("last_run_at", djtasks.models.fields.UTCDateTimeField(blank=True, null=True, verbose_name="last run")),
                (
                    "next_run_at",
                    djtasks.models.fields.UTCDateTimeField(
                        blank=True, db_index=True, null=True, verbose_name="next run"
                    ),
                ),
                ("total_run_count", models.IntegerField(db_default=0, default=0, verbose_name="runs")),
                (
                    "changed_at",
                    djtasks.models.fields.UTCDateTimeField(
                        default=djtasks.models.fields.utc_now, verbose_name="changed at"
                    ),
                ),
            ],
            options={
                "verbose_name": "schedule",
                "verbose_name_plural": "schedules",
            },
        ),
        migrations.CreateModel(
            name="Queue",
            fields=[
                ("name", models.CharField(max_length=128, primary_key=True, serialize=False, verbose_name="name")),
                ("paused", models.BooleanField(db_default=False, default=False, verbose_name="paused")),
                ("default_priority", models.SmallIntegerField(blank=True, null=True, verbose_name="default priority")),
                (
                    "rate_limit",
                    models.CharField(blank=True, db_default="", default="", max_length=32, verbose_name="rate limit"),
                ),
                ("max_concurrency", models.IntegerField(blank=True, null=True, verbose_name="concurrency limit")),
                (
                    "changed_at",
                    djtasks.models.fields.UTCDateTimeField(
                        default=djtasks.models.fields.utc_now, verbose_name="changed at"
                    ),
                ),
            ],
            options={
                "verbose_name": "queue",
                "verbose_name_plural": "queues",
                "permissions": (("purge_queue", "Can purge queues"), ("pause_queue", "Can pause queues")),
                "default_permissions": ("view", "change"),
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.CharField(max_length=32, primary_key=True, serialize=False, verbose_name="boot id")),
                ("hostname", models.CharField(max_length=255, verbose_name="name")),
                ("pid", models.IntegerField(verbose_name="process")),
                ("queues", models.TextField(verbose_name="queues")),
                ("pool", models.CharField(max_length=16, verbose_name="pool")),
                ("concurrency", models.IntegerField(verbose_name="concurrency")),
                ("version", models.CharField(db_default="", default="", max_length=32, verbose_name="version")),
                ("beat", models.BigIntegerField(db_default=0, default=0, verbose_name="beats")),
                (
                    "beat_at",
                    djtasks.models.fields.UTCDateTimeField(
                        default=djtasks.models.fields.utc_now, verbose_name="last beat"
                    ),
                ),
                ("processed", models.BigIntegerField(db_default=0, default=0, verbose_name="processed")),
                ("failed", models.BigIntegerField(db_default=0, default=0, verbose_name="failed")),
                ("command", models.TextField(editable=False, null=True)),
                (
                    "started_at",
                    djtasks.models.fields.UTCDateTimeField(
                        default=djtasks.models.fields.utc_now, verbose_name="started at"
                    ),
                ),
                ("stopped_at", djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="stopped at")),
                ("lost_at", djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="lost at")),
            ],
            options={
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
                "permissions": (("control_worker", "Can control workers"),),
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False, verbose_name="id")),
                ("task", models.CharField(max_length=255, verbose_name="task")),
                ("queue", models.CharField(max_length=128, verbose_name="queue")),
                ("priority", models.SmallIntegerField(db_default=0, default=0, verbose_name="priority")),
                ("rank", models.SmallIntegerField(db_default=0, default=0, editable=False)),
                ("order_key", models.BigIntegerField(db_default=0, default=0, editable=False)),
                ("state", models.CharField(default="PENDING", max_length=16, verbose_name="state")),
                ("custom_state", models.CharField(editable=False, max_length=64, null=True)),
                ("args", models.TextField(default="[]", verbose_name="arguments")),
                ("kwargs", models.TextField(default="{}", verbose_name="keyword arguments")),
                ("run_at", djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="due at")),
                ("expires_at", djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="expires at")),
                (
                    "created_at",
                    djtasks.models.fields.UTCDateTimeField(
                        default=djtasks.models.fields.utc_now, verbose_name="enqueued at"
                    ),
                ),
                ("started_at", djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="started at")),
                ("finished_at", djtasks.models.fields.UTCDateTimeField(null=True, verbose_name="finished at")),
                ("seconds", models.FloatField(null=True, verbose_name="run time")),
                ("token", models.IntegerField(db_default=0, default=0, verbose_name="claims")),
                ("losses", models.SmallIntegerField(db_default=0, default=0, verbose_name="losses")),
                ("refusals", models.SmallIntegerField(db_default=0, default=0, verbose_name="refusals")),
                ("retries", models.IntegerField(db_default=0, default=0, verbose_name="retries")),
                (
                    "worker",
                    models.CharField(blank=True, db_default="", default="", max_length=64, verbose_name="worker"),
                ),
                ("acked_early", models.BooleanField(db_default=False, default=False, editable=False)),
                ("revoked", models.BooleanField(db_default=False, default=False, verbose_name="cancelled")),
                ("result", models.TextField(null=True, verbose_name="result")),
                (
                    "exception",
                    models.CharField(blank=True, db_default="", default="", max_length=255, verbose_name="exception"),
                ),
                ("exception_message", models.TextField(null=True, verbose_name="message")),
                ("exception_args", models.TextField(editable=False, null=True)),
                ("traceback", models.TextField(null=True, verbose_name="traceback")),
                ("attempts", models.TextField(null=True, verbose_name="earlier attempts")),
                ("meta", models.TextField(null=True, verbose_name="progress")),
                ("parent_id", models.CharField(max_length=64, null=True, verbose_name="parent")),
                ("root_id", models.CharField(max_length=64, null=True, verbose_name="root")),
                ("group_id", models.CharField(max_length=64, null=True, verbose_name="group")),
                ("periodic_task", models.CharField(max_length=200, null=True, verbose_name="schedule")),
                ("unique_key", models.CharField(editable=False, max_length=128, null=True)),
                (
                    "enqueued_by",
                    models.CharField(blank=True, db_default="", default="", max_length=255, verbose_name="enqueued by"),
                ),
                ("headers", models.TextField(default="{}", verbose_name="headers")),
                ("options", models.TextField(default="{}", verbose_name="options")),
                ("version", models.SmallIntegerField(db_default=1, default=1, editable=False)),
            ],
            options={
                "verbose_name": "job",
                "verbose_name_plural": "jobs",
                "permissions": (
                    ("retry_job", "Can retry jobs"),
                    ("revoke_job", "Can cancel jobs"),
                    ("send_task", "Can send tasks"),
                    ("view_job_arguments", "Can view the arguments and results of jobs"),
                ),
                "default_permissions": ("view", "delete"),
                "indexes": [models.Index(fields=["task", "id"], name="djtasks_job_task")],
            },
        ),
        migrations.CreateModel(
            name="Metric",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task", models.CharField(max_length=255, verbose_name="task")),
                ("queue", models.CharField(max_length=128, verbose_name="queue")),
                ("start_at", djtasks.models.fields.UTCDateTimeField(verbose_name="from")),
                ("seconds", models.IntegerField(verbose_name="period (seconds)")),
                ("counts", models.TextField(default="{}")),
                ("histogram", models.TextField(default="{}")),
            ],
            options={
                "verbose_name": "metric",
                "verbose_name_plural": "metrics",
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("start_at", "seconds", "task", "queue"), name="djtasks_metric_period"
                    )
                ],
            },
        ),
        migrations.RunPython(tune, migrations.RunPython.noop, atomic=False),
    ]
