from django.apps import AppConfig


class LakehouseConfig(AppConfig):
    name = "lakehouse"
    verbose_name = "EvoDB"
    default_auto_field = "django.db.models.BigAutoField"
