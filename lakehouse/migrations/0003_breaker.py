import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0002_access_keys"),
    ]

    operations = [
        migrations.CreateModel(
            name="StoreBreaker",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("state", models.CharField(default="closed", help_text="closed, open or half_open.", max_length=9)),
                ("turn", models.PositiveBigIntegerField(default=0)),
                (
                    "failures",
                    models.PositiveIntegerField(
                        default=0, help_text="In a row; a flush that gets through ends the row."
                    ),
                ),
                (
                    "opened_total",
                    models.PositiveBigIntegerField(default=0, help_text="An outage counts once, however long it is."),
                ),
                ("open_until_ms", models.BigIntegerField(default=0)),
                ("probe_owner", models.CharField(blank=True, default="", max_length=200)),
                (
                    "probe_until_ms",
                    models.BigIntegerField(default=0, help_text="A probe that is silent for so long is dead."),
                ),
                ("changed_ms", models.BigIntegerField(default=0)),
                ("last_error", models.TextField(blank=True, default="")),
                (
                    "outage_until_ms",
                    models.BigIntegerField(
                        default=0,
                        help_text="A drill: until then every flush finds the store away, though it is not.",
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="fallbackbatch",
            name="flush",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="kept",
                to="lakehouse.flush",
            ),
        ),
        migrations.AddField(
            model_name="fallbackbatch",
            name="batches",
            field=models.BinaryField(
                default=b"", help_text="The batches these rows came in, n times u64, little-endian."
            ),
        ),
    ]
