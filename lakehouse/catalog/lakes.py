"""Which of the two lakes there is."""

from __future__ import annotations

from lakehouse.catalog import foreign, retention, storage
from lakehouse.catalog.lake import Lake
from lakehouse.catalog.own import OwnLake
from lakehouse.conf import Settings


def chosen(settings: Settings) -> Lake:
    """The one flushes go into. Make it after a worker has forked."""
    if settings.catalog:
        return foreign.of(settings)
    return OwnLake(storage.from_settings(settings), retention.from_settings(settings))
