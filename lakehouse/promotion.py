"""A key of `_rest` becomes a column: the table is given it, then what is stored already moves there.

Children and flushes go on meanwhile. A flush that had looked at the table before still puts the key into `_rest`; it is
waited for, and its file is looked at too. Doing it again does what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db.models import F

from lakehouse import declared
from lakehouse.catalog import foreign_tables, storage
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.upkeep import backfill, lease, rounds
from lakehouse.catalog.upkeep.backfill import Moved
from lakehouse.catalog.upkeep.foreign_keeper import ForeignKeeper
from lakehouse.catalog.upkeep.tending import Tender
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LakehouseError, SchemaMismatch
from lakehouse.flush.rules import arrow_type
from lakehouse.models import CurrentTable, DriftField, DriftKind, Flush, FlushState, IcebergTable, Parent

log = logging.getLogger(__name__)

PAUSE_MS = 200


class NotPromoted(LakehouseError):
    """This key did not become a column."""

    code = "NOT_PROMOTED"


@dataclass(frozen=True, slots=True)
class Promoter:
    """What a worker or a command brings along. `pause` waits for so many ms."""

    catalog: DjangoCatalog
    """Ours; with EVODB_CATALOG that one is opened when it is needed."""
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
        _outdate(parent.namespace, table)
        log.info("%s.%s has a column %r: %s", parent.namespace, table, key, moved)
        return moved

    def _promote(self, parent: Parent, table: str, key: str, kind: str) -> Moved:
        with self._kept(parent.namespace, table) as keeper:
            wanted = _type(key, kind)
            backfill.make_column(keeper, key, wanted, attempts_max=self.settings.commit_attempts_max)
            return self._fill(keeper, parent.namespace, key)

    @contextmanager
    def _kept(self, namespace: str, table: str) -> Iterator[Tender]:
        """Who may exchange its files, in whichever catalog it is."""
        if self.settings.catalog:
            found = ForeignKeeper(storage.foreign(self.settings), namespace, table)
            if foreign_tables.find(found.catalog, namespace, table) is None:
                raise _missing(namespace, table)
            yield found
            return
        row = _row(namespace, table)
        with lease.kept(row, self.catalog, lease_ms=self.settings.lease_ms, now_ms=self.now_ms) as keeper:
            if keeper is None:
                raise NotPromoted(f"table {row} is kept in order by somebody else just now; try again in a minute")
            yield keeper

    def _fill(self, keeper: Tender, namespace: str, key: str) -> Moved:
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


def _row(namespace: str, table: str) -> IcebergTable:
    rows = IcebergTable.objects.select_related("namespace")
    row = rows.filter(namespace__name=SEPARATOR.join(namespace.split(".")), name=table).first()
    if row is None:
        raise _missing(namespace, table)
    return row


def _missing(namespace: str, table: str) -> NotPromoted:
    return NotPromoted(f"there is no table {namespace}.{table}; let its first rows be flushed")


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


def _outdate(namespace: str, table: str) -> None:
    """The table of now is made anew: no change says that values of its rows moved. A refresh that is at it loses."""
    rows = CurrentTable.objects.filter(namespace=namespace, table=table)
    rows.update(turn=F("turn") + 1, positions={}, version=0)
