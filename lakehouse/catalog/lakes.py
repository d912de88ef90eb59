"""Which of the two lakes there is."""

from __future__ import annotations

from lakehouse.catalog import foreign, retention, storage
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.lake import Lake
from lakehouse.catalog.own import OwnLake
from lakehouse.conf import Settings


def chosen(settings: Settings) -> Lake:
    """The one flushes go into. Make it after a worker has forked."""
    if settings.catalog:
        return foreign.of(settings)
    return over(storage.from_settings(settings), settings)


def over(catalog: DjangoCatalog | Lake, settings: Settings) -> Lake:
    """Who brings our catalog means the lake over it."""
    if isinstance(catalog, DjangoCatalog):
        return OwnLake(catalog, retention.from_settings(settings))
    return catalog
