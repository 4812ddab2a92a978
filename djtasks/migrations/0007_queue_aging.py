from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djtasks", "0005_jobs_of_a_schedule"),
    ]

    operations = [
        migrations.AddField(
            model_name="queue",
            name="aging",
            field=models.FloatField(blank=True, null=True, verbose_name="aging (seconds)"),
        ),
    ]
