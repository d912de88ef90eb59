from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0016_named_query"),
    ]

    operations = [
        migrations.AddField(
            model_name="currenttable",
            name="next_uuid",
            field=models.CharField(
                blank=True,
                default="",
                help_text="Of the table that somebody is making, until it is there.",
                max_length=36,
            ),
        ),
    ]
