import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0017_current_uuid"),
    ]

    operations = [
        migrations.RemoveField(model_name="currenttable", name="next_uuid"),
        migrations.CreateModel(
            name="TableToMake",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("namespace", models.CharField(max_length=500)),
                ("name", models.CharField(max_length=500)),
                ("uuid", models.UUIDField(default=uuid.uuid4)),
                (
                    "table",
                    models.OneToOneField(
                        help_text="Once it is there.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="made_as",
                        to="lakehouse.icebergtable",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "tables to make",
                "constraints": [models.UniqueConstraint(fields=("namespace", "name"), name="table_to_make_once")],
            },
        ),
    ]
