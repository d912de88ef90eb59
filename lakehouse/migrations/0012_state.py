import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("lakehouse", "0011_events")]

    operations = [
        migrations.CreateModel(
            name="CurrentTable",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("namespace", models.CharField(help_text="Of the changes.", max_length=200)),
                ("table", models.CharField(max_length=500)),
                ("turn", models.PositiveBigIntegerField(default=0)),
                ("positions", models.JSONField(default=dict)),
                (
                    "version",
                    models.PositiveBigIntegerField(
                        help_text="Of the table of changes, when it was read last.", null=True
                    ),
                ),
                ("refreshed_ms", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("namespace", "table"), name="current_table_once")],
            },
        ),
        migrations.CreateModel(
            name="CurrentSource",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("source", models.CharField(max_length=500)),
                ("epoch", models.BigIntegerField()),
                ("seq", models.BigIntegerField()),
                (
                    "current",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="sources",
                        to="lakehouse.currenttable",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("current", "source"), name="current_source_once")],
            },
        ),
    ]
