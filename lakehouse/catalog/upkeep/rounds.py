"""A round of upkeep over the tables that need it. What fails or loses against a flush is left for the next round."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db.models import Exists, F, OuterRef, Q

from lakehouse.catalog import retention
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.retention import HOUR_MS
from lakehouse.catalog.upkeep import expiry, lease
from lakehouse.catalog.upkeep.expiry import Expired
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LeaseLost, StoreUnavailable
from lakehouse.models import ForgottenSnapshot, IcebergTable, TableUpkeep

log = logging.getLogger(__name__)

TABLES_AT_ONCE = 1000
LATER = (CommitConflict, LeaseLost, StoreUnavailable)
Now = Callable[[], int]


def go(catalog: DjangoCatalog, settings: Settings, *, now_ms: Now, until: Callable[[], bool]) -> int:
    """Look after each table that has changed, has grown old or has files to delete; returns how many."""
    looked = 0
    for pk in _due(settings, now_ms()):
        row = IcebergTable.objects.select_related("namespace").filter(pk=pk).first()
        if until():
            break
        if row is None:
            continue
        with lease.kept(row, catalog, now_ms=now_ms) as keeper:
            if keeper is None:
                continue
            looked += 1
            try:
                keep(keeper, settings, until)
            except LATER as exc:
                log.warning("upkeep of %s is left for later: %s", row, exc)
            TableUpkeep.objects.filter(pk=row.pk).update(version=row.version, looked_ms=now_ms())
    return looked


def keep(keeper: Keeper, settings: Settings, until: Callable[[], bool] = lambda: False) -> Expired:
    """All that one table needs. Raises what LATER names."""
    done = expiry.forget(keeper, retention.from_settings(settings))
    done += expiry.delete(keeper, before_ms=forgotten_before(settings, keeper.now_ms()), until=until)
    if done:
        log.info("%s: %s", keeper.row, done)
    return done


def forgotten_before(settings: Settings, now_ms: int) -> int:
    """Snapshots forgotten before that may be deleted with their files."""
    return now_ms - settings.forgotten_hours * HOUR_MS


def _due(settings: Settings, now_ms: int) -> list[int]:
    """The one that waits longest first."""
    forgotten = ForgottenSnapshot.objects.filter(
        table=OuterRef("pk"), forgotten_ms__lte=forgotten_before(settings, now_ms)
    )
    changed = Q(upkeep=None) | Q(upkeep__version=None) | ~Q(upkeep__version=F("version"))
    old = Q(upkeep__looked_ms__lt=now_ms - HOUR_MS)
    tables = IcebergTable.objects.filter(changed | old | Exists(forgotten))
    longest_first = tables.order_by(F("upkeep__looked_ms").asc(nulls_first=True), "pk")
    return list(longest_first.values_list("pk", flat=True)[:TABLES_AT_ONCE])
