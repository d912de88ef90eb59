import django.db.models.deletion
from django.db import migrations, models

import lakehouse.models.schemas

PARENT = {"on_delete": django.db.models.deletion.CASCADE, "to": "lakehouse.parent"}
ID = ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"))
MODES = [
    ("off", "off: columns come as values do"),
    ("strict", "strict: a batch with anything else is refused"),
    ("inbox", "inbox: anything else waits in _rest and is listed"),
]
NESTED = [("", "as the parent's setting nested_values"), ("json", "JSON text"), ("struct", "structs and lists")]


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0009_upkeep"),
    ]

    operations = [
        migrations.AddField(
            model_name="parent",
            name="schema_version",
            field=models.PositiveBigIntegerField(default=0, editable=False, help_text="0: it has no schemas."),
        ),
        migrations.CreateModel(
            name="TableSchema",
            fields=[
                ID,
                (
                    "table",
                    models.CharField(max_length=255, validators=[lakehouse.models.schemas.validate_table]),
                ),
                ("mode", models.CharField(choices=MODES, default="off", max_length=6)),
                (
                    "nested",
                    models.CharField(
                        blank=True,
                        choices=NESTED,
                        default="",
                        help_text="New columns of objects and arrays.",
                        max_length=6,
                    ),
                ),
                (
                    "fields",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text='Types of columns: {"id": "long not null", "price": "decimal(12,2)", '
                        '"tags": ["string"]}.',
                        validators=[lakehouse.models.schemas.validate_fields],
                    ),
                ),
                ("parent", models.ForeignKey(related_name="schemas", **PARENT)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("parent", "table"), name="schema_once_per_table")],
            },
        ),
        migrations.CreateModel(
            name="DriftField",
            fields=[
                ID,
                ("table", models.CharField(max_length=255)),
                ("field", models.CharField(max_length=255)),
                (
                    "kind",
                    models.CharField(
                        choices=[("new", "no column"), ("misfit", "does not fit its column")], max_length=6
                    ),
                ),
                (
                    "type",
                    models.CharField(help_text="Of the values of the last flush that had any.", max_length=50),
                ),
                ("example", models.CharField(max_length=200)),
                ("values", models.PositiveBigIntegerField(default=0, help_text="How many there were.")),
                ("first_ms", models.BigIntegerField()),
                ("last_ms", models.BigIntegerField()),
                (
                    "said",
                    models.TextField(
                        blank=True, default="", help_text="What came of the last attempt to make it a column."
                    ),
                ),
                ("parent", models.ForeignKey(related_name="drift", **PARENT)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("parent", "table", "field"), name="drift_once_per_field")
                ],
            },
        ),
    ]
