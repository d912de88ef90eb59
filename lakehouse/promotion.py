"""A key of `_rest` becomes a column: the table is given it, then what is stored already moves there.

Children and flushes go on meanwhile. A flush that had looked at the table before still puts the key into `_rest`; it is
waited for, and its file is looked at too. Doing it again does what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lakehouse import declared
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.upkeep import backfill, lease, rounds
from lakehouse.catalog.upkeep.backfill import Moved
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.catalog_choice import elsewhere
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LakehouseError, SchemaMismatch
from lakehouse.flush.rules import arrow_type
from lakehouse.models import DriftField, DriftKind, Flush, FlushState, IcebergTable, Parent

log = logging.getLogger(__name__)

PAUSE_MS = 200


class NotPromoted(LakehouseError):
    """This key did not become a column."""

    code = "NOT_PROMOTED"


@dataclass(frozen=True, slots=True)
class Promoter:
    """What a worker or a command brings along. `pause` waits for so many ms."""

    catalog: DjangoCatalog
    settings: Settings
    now_ms: Callable[[], int]
    pause: Callable[[int], None]

    def promote(self, parent: Parent, table: str, key: str, kind: str = "") -> Moved:
        """Make a column of this key, by default of the type the inbox saw. Raises LakehouseError."""
        found = DriftField.objects.filter(parent=parent, table=table, field=key)
        try:
            moved = self._promote(parent, table, key, kind or found.values_list("type", flat=True).first() or "")
        except LakehouseError as exc:
            found.update(said=str(exc))
            raise
        _settle(parent, table, key, moved)
        log.info("%s.%s has a column %r: %s", parent.namespace, table, key, moved)
        return moved

    def _promote(self, parent: Parent, table: str, key: str, kind: str) -> Moved:
        row = self._row(parent, table)
        wanted = _type(key, kind)
        terms = self.settings.lease_ms, self.now_ms
        with lease.kept(row, self.catalog, lease_ms=terms[0], now_ms=terms[1]) as keeper:
            if keeper is None:
                raise NotPromoted(f"table {row} is kept in order by somebody else just now; try again in a minute")
            backfill.make_column(keeper, key, wanted, attempts_max=self.settings.commit_attempts_max)
            return self._fill(keeper, parent.namespace, key)

    def _fill(self, keeper: Keeper, namespace: str, key: str) -> Moved:
        """Until there is no flush that may not know the column, or for two leases."""
        flushes = Flush.objects.filter(parent__namespace=namespace, state=FlushState.OPEN)
        before = set(flushes.values_list("pk", flat=True))
        moved, until_ms = Moved(), self.now_ms() + 2 * self.settings.lease_ms
        while True:
            is_late = self.now_ms() > until_ms
            is_last = is_late or not flushes.filter(pk__in=before).exists()
            try:
                backfill.fill(keeper, key, rounds.terms_of(self.settings), moved)
            except CommitConflict:
                if is_late:
                    raise
            else:
                if is_last:
                    return moved
            self.pause(PAUSE_MS)

    def _row(self, parent: Parent, table: str) -> IcebergTable:
        if self.settings.catalog:
            raise NotPromoted(f"{elsewhere(self.settings.catalog)}; columns are made there")
        namespace = SEPARATOR.join(parent.namespace.split("."))
        row = IcebergTable.objects.select_related("namespace").filter(namespace__name=namespace, name=table).first()
        if row is None:
            raise NotPromoted(f"there is no table {parent.namespace}.{table}; let its first rows be flushed")
        return row


def _type(key: str, kind: str) -> Any:
    try:
        return arrow_type(declared.one(kind))
    except ValueError as exc:
        raise SchemaMismatch(f"{key}: {exc}; say which one with --type") from None


def _settle(parent: Parent, table: str, key: str, moved: Moved) -> None:
    """The inbox of every parent of the namespace has one less, or what did not fit."""
    rows = DriftField.objects.filter(parent__namespace=parent.namespace, table=table, field=key)
    if moved.left:
        rows.update(kind=DriftKind.MISFIT, values=moved.left, said=str(moved))
    else:
        rows.delete()
