from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djtasks", "0006_run_schedules"),
    ]

    operations = [
        migrations.AddField(
            model_name="queue",
            name="aging",
            field=models.FloatField(blank=True, null=True, verbose_name="aging (seconds)"),
        ),
    ]
