from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lakehouse", "0015_batch_by_flush"),
    ]

    operations = [
        migrations.CreateModel(
            name="NamedQuery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(help_text="The id, and whose it is.", max_length=200, unique=True)),
                ("until_ms", models.BigIntegerField()),
                ("is_cancelled", models.BooleanField(default=False)),
            ],
            options={
                "verbose_name_plural": "named queries",
            },
        ),
    ]
