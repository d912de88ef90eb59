"""Which of the two lakes there is."""

from __future__ import annotations

from lakehouse.catalog import foreign, storage
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.lake import Lake
from lakehouse.catalog.own import OwnLake
from lakehouse.conf import Settings


def chosen(settings: Settings) -> Lake:
    """The one flushes go into. Make it after a worker has forked."""
    if settings.catalog:
        return foreign.of(settings)
    return OwnLake(storage.from_settings(settings))


def over(catalog: DjangoCatalog | Lake) -> Lake:
    """Who brings our catalog means the lake over it."""
    return OwnLake(catalog) if isinstance(catalog, DjangoCatalog) else catalog
