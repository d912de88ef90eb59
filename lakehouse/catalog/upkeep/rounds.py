"""A round of upkeep over the tables that need it. What fails or loses against a flush is left for the next round."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from django.db.models import Exists, F, OuterRef, Q

from lakehouse.catalog import retention
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.retention import HOUR_MS
from lakehouse.catalog.upkeep import compaction, expiry, lease, orphans
from lakehouse.catalog.upkeep.compaction import Compacted, Terms
from lakehouse.catalog.upkeep.expiry import Expired
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.catalog.upkeep.orphans import Swept
from lakehouse.conf import Settings
from lakehouse.errors import LakehouseError, LeaseLost
from lakehouse.models import ForgottenSnapshot, IcebergTable, TableUpkeep

log = logging.getLogger(__name__)

TABLES_AT_ONCE = 1000
MANIFESTS_MIN = 20
FORGOTTEN_MIN = 50
DAY_MS = 24 * HOUR_MS
Now = Callable[[], int]


def go(catalog: DjangoCatalog, settings: Settings, *, now_ms: Now, until: Callable[[], bool]) -> int:
    """Look after each table that has changed, has grown old or has files to delete; returns how many."""
    looked = 0
    for pk in _due(settings, now_ms()):
        row = IcebergTable.objects.select_related("namespace").filter(pk=pk).first()
        if until():
            break
        if row is not None:
            with lease.kept(row, catalog, lease_ms=settings.lease_ms, now_ms=now_ms) as keeper:
                looked += keeper is not None and _look_after(keeper, settings, until)
    return looked


def _look_after(keeper: Keeper, settings: Settings, until: Callable[[], bool]) -> bool:
    """Whatever is wrong with this table, the others wait for their turn, and it has had its own."""
    try:
        keep(keeper, settings, until)
    except LakehouseError as exc:
        log.warning("upkeep of %s is left for later: %s", keeper.row, exc)
    except Exception:
        log.exception("upkeep of %s failed", keeper.row)
    TableUpkeep.objects.filter(pk=keeper.row.pk).update(version=keeper.row.version, looked_ms=keeper.now_ms())
    return True


@dataclass(slots=True)
class Kept:
    """What was done to a table."""

    expired: Expired = field(default_factory=Expired)
    compacted: Compacted = field(default_factory=Compacted)
    manifests: int = 0
    swept: Swept | None = None

    def __bool__(self) -> bool:
        return bool(self.expired or self.compacted or self.manifests or (self.swept and self.swept.found))

    def __str__(self) -> str:
        said = [str(self.expired), str(self.compacted), f"{self.manifests} manifests merged away"]
        return "; ".join(said + ([str(self.swept)] if self.swept else []))


def keep(keeper: Keeper, settings: Settings, until: Callable[[], bool] = lambda: False) -> Kept:
    """All that one table needs. Each step has its turn and does some of its work, and more of it before `until`.

    A step that fails keeps none from the others; what the first one raised is raised at the end.
    """
    kept, failed = Kept(), list[Exception]()
    for step in (_forget, _delete, _sweep, _merge_manifests, _compact):
        try:
            step(kept, keeper, settings, until)
        except LeaseLost:
            raise
        except Exception as exc:
            if failed:
                log.warning("upkeep of %s failed in another step, too: %s", keeper.row, exc)
            failed.append(exc)
    if kept:
        log.info("%s: %s", keeper.row, kept)
    if failed:
        raise failed[0]
    return kept


def _forget(kept: Kept, keeper: Keeper, settings: Settings, _: Callable[[], bool]) -> None:
    kept.expired += expiry.forget(keeper, retention.from_settings(settings))


def _delete(kept: Kept, keeper: Keeper, settings: Settings, until: Callable[[], bool]) -> None:
    before_ms = forgotten_before(settings, keeper.now_ms())
    if _is_worth_deleting(keeper.row, before_ms):
        kept.expired += expiry.delete(keeper, before_ms=before_ms, until=until)


def _sweep(kept: Kept, keeper: Keeper, settings: Settings, _: Callable[[], bool]) -> None:
    now_ms = keeper.now_ms()
    if not now_ms - DAY_MS <= TableUpkeep.objects.get(pk=keeper.row.pk).swept_ms <= now_ms:
        kept.swept = sweep(keeper, settings, is_dry_run=not settings.orphan_delete)


def _merge_manifests(kept: Kept, keeper: Keeper, _: Settings, __: Callable[[], bool]) -> None:
    kept.manifests = compaction.merge_manifests(keeper, count_min=MANIFESTS_MIN)


def _compact(kept: Kept, keeper: Keeper, settings: Settings, until: Callable[[], bool]) -> None:
    upkeep = TableUpkeep.objects.get(pk=keeper.row.pk)
    if settings.compact_files_min and keeper.row.version >= upkeep.compacted_version + settings.compact_files_min:
        kept.compacted = compaction.compact(keeper, terms_of(settings), until=until)
        if not until():
            TableUpkeep.objects.filter(pk=keeper.row.pk).update(compacted_version=keeper.row.version)


def _is_worth_deleting(row: IcebergTable, before_ms: int) -> bool:
    """All lists of manifests are read for it, so it waits until there is enough, for an hour at most."""
    due = row.forgotten.filter(forgotten_ms__lte=before_ms)
    return due.filter(forgotten_ms__lte=before_ms - HOUR_MS).exists() or due.count() >= FORGOTTEN_MIN


def sweep(keeper: Keeper, settings: Settings, *, is_dry_run: bool) -> Swept:
    """Look for orphans, and write down how many are there."""
    now_ms = keeper.now_ms()
    swept = orphans.sweep(keeper, before_ms=now_ms - settings.orphan_hours * HOUR_MS, is_dry_run=is_dry_run)
    left = (swept.found, swept.size_bytes) if is_dry_run or swept.stranger else (0, 0)
    TableUpkeep.objects.filter(pk=keeper.row.pk).update(swept_ms=now_ms, orphans=left[0], orphan_bytes=left[1])
    return swept


def terms_of(settings: Settings) -> Terms:
    return Terms(
        target_bytes=settings.target_file_bytes,
        files_min=settings.compact_files_min,
        attempts_max=settings.commit_attempts_max,
        engine=settings.rewrite_engine,
    )


def forgotten_before(settings: Settings, now_ms: int) -> int:
    """Snapshots forgotten before that may be deleted with their files."""
    return now_ms - settings.forgotten_hours * HOUR_MS


def _due(settings: Settings, now_ms: int) -> list[int]:
    """The one that waits longest first."""
    forgotten = ForgottenSnapshot.objects.filter(
        table=OuterRef("pk"), forgotten_ms__lte=forgotten_before(settings, now_ms) - HOUR_MS
    )
    changed = Q(upkeep=None) | Q(upkeep__version=None) | ~Q(upkeep__version=F("version"))
    old = Q(upkeep__looked_ms__lt=now_ms - HOUR_MS) | Q(upkeep__looked_ms__gt=now_ms)  # by a clock that was ahead
    tables = IcebergTable.objects.filter(changed | old | Exists(forgotten))
    longest_first = tables.order_by(F("upkeep__looked_ms").asc(nulls_first=True), "pk")
    return list(longest_first.values_list("pk", flat=True)[:TABLES_AT_ONCE])
