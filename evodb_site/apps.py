"""Every process of the site asks the site's broker: the one that delivers, and each command, begin without Celery."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "evodb_site"

    def ready(self) -> None:
        import_module("evodb_site.celery")
