from django.db import migrations, models

IN_FALLBACK = "the object store is away; the rows wait in the fallback"


def name_them(apps, schema_editor):
    flushes = apps.get_model("lakehouse", "Flush").objects
    flushes.filter(state="abandoned", error=IN_FALLBACK).update(state="kept")


def call_them_abandoned(apps, schema_editor):
    apps.get_model("lakehouse", "Flush").objects.filter(state="kept").update(state="abandoned")


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0006_child_holder"),
    ]

    operations = [
        migrations.AlterField(
            model_name="flush",
            name="state",
            field=models.CharField(
                choices=[("open", "Open"), ("committed", "Committed"), ("abandoned", "Abandoned"), ("kept", "Kept")],
                default="open",
                max_length=9,
            ),
        ),
        migrations.RunPython(name_them, call_them_abandoned),
    ]
