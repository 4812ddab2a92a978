from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djtasks", "0010_open_groups"),
    ]

    operations = [
        migrations.CreateModel(
            name="Task",
            fields=[],
            options={
                "verbose_name": "task",
                "verbose_name_plural": "tasks",
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("djtasks.metric",),
        ),
        migrations.AddField(
            model_name="worker",
            name="memory",
            field=models.BigIntegerField(null=True, verbose_name="memory (KiB)"),
        ),
    ]
