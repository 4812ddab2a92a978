from django.db import migrations, models


class Migration(migrations.Migration):
    """What is read are the periods of one length since some time: the length first, or those of all lengths are read."""

    dependencies = [
        ("djtasks", "0014_whole_metrics"),
    ]

    operations = [
        migrations.AddConstraint(
            model_name="metric",
            constraint=models.UniqueConstraint(
                fields=("seconds", "start_at", "task", "queue"), name="djtasks_metric_level"
            ),
        ),
        migrations.RemoveConstraint(model_name="metric", name="djtasks_metric_period"),
    ]
