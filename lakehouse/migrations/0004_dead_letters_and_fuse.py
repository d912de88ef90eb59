import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0003_breaker"),
    ]

    operations = [
        migrations.AddField(
            model_name="deadletter",
            name="replay",
            field=models.OneToOneField(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="replayed_letter",
                to="lakehouse.batch",
            ),
        ),
        migrations.AddField(
            model_name="deadletter",
            name="replayed_ms",
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="deadletter",
            name="replays",
            field=models.PositiveIntegerField(default=0, help_text="How often it was put into the journal again."),
        ),
        migrations.AddField(
            model_name="deadletter",
            name="state",
            field=models.CharField(
                choices=[("waiting", "Waiting"), ("replayed", "Replayed"), ("committed", "Committed")],
                default="waiting",
                max_length=9,
            ),
        ),
        migrations.AddField(
            model_name="parent",
            name="fuse_accepted",
            field=models.BooleanField(default=False, editable=False, help_text="The next flush may not blow it."),
        ),
        migrations.AddField(
            model_name="parent",
            name="fuse_blown_ms",
            field=models.BigIntegerField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name="parent",
            name="fuse_reason",
            field=models.TextField(default="", editable=False),
        ),
        migrations.AddIndex(
            model_name="deadletter",
            index=models.Index(fields=["parent", "state", "id"], name="dead_letter_by_state"),
        ),
    ]
