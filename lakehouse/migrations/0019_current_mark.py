from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0018_table_to_make"),
    ]

    operations = [
        migrations.AlterField(
            model_name="currenttable",
            name="version",
            field=models.PositiveBigIntegerField(
                help_text="The mark of the table of changes, when it was read last: which table, and how often changed.",
                null=True,
            ),
        ),
    ]
