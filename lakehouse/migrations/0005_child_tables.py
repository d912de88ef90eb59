import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0004_dead_letters_and_fuse"),
    ]

    operations = [
        migrations.CreateModel(
            name="ChildTable",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("epoch", models.BigIntegerField()),
                ("table", models.CharField(max_length=500)),
                ("entries", models.PositiveBigIntegerField(default=0)),
                ("digest", models.CharField(default="0000000000000000", max_length=16)),
                ("entry_sequence_first", models.BigIntegerField()),
                ("entry_sequence_last", models.BigIntegerField()),
                ("unreadable", models.PositiveBigIntegerField(default=0)),
                ("unreadable_digest", models.CharField(default="0000000000000000", max_length=16)),
                (
                    "child",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="tables", to="lakehouse.child"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("child", "epoch", "table"), name="child_table_once")],
            },
        ),
    ]
