from django.apps import AppConfig


class SubscriptionsConfig(AppConfig):
    name = "lakehouse.subscriptions"
    label = "subscriptions"
    verbose_name = "EvoDB subscriptions"
    default_auto_field = "django.db.models.BigAutoField"
