from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djtasks", "0013_limits_of_tasks"),
    ]

    operations = [
        migrations.AddField(
            model_name="metric",
            name="whole",
            field=models.BooleanField(db_default=False, default=False),
        ),
    ]
