from typing import Any

from django.apps import AppConfig
from django.db.models.signals import pre_migrate


class LakehouseConfig(AppConfig):
    name = "lakehouse"
    verbose_name = "EvoDB"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        pre_migrate.connect(refuse_closed, sender=self)


def refuse_closed(*, using: str, **signal: Any) -> None:
    """A table that a migration makes anew would be open in a house that is closed."""
    from django.core.management import CommandError

    from lakehouse.moving import seal

    if said := seal.found(using):
        raise CommandError(said)
