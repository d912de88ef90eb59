import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0005_child_tables"),
    ]

    operations = [
        migrations.CreateModel(
            name="Holder",
            fields=[
                ("name", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("lease_until_ms", models.BigIntegerField()),
            ],
        ),
        migrations.AddField(
            model_name="child",
            name="holder",
            field=models.CharField(
                blank=True,
                default="",
                help_text="The process, or the socket of a proxy, that it reached last.",
                max_length=64,
            ),
        ),
        migrations.CreateModel(
            name="PastFlushes",
            fields=[
                (
                    "parent",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="past_flushes",
                        serialize=False,
                        to="lakehouse.parent",
                    ),
                ),
                ("commit_number", models.PositiveBigIntegerField()),
                (
                    "durations",
                    models.JSONField(default=list, help_text="How many took how long, in the buckets of the metrics."),
                ),
                ("took_ms", models.PositiveBigIntegerField(default=0, help_text="All together.")),
                ("tables", models.JSONField(default=dict, help_text="{table: [rows, bytes]}")),
            ],
        ),
    ]
