"""Who keeps a table in order: one at a time, and whoever lost the lease commits nothing and sweeps nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from pyiceberg.table import Table

from lakehouse.catalog import pointers, tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.retention import is_collected
from lakehouse.catalog.staging import Change, Staging
from lakehouse.catalog.upkeep.folders import is_ours
from lakehouse.catalog.upkeep.reading import told
from lakehouse.catalog.upkeep.tending import Begun
from lakehouse.errors import CommitConflict, LeaseLost
from lakehouse.models import IcebergTable, TableUpkeep
from lakehouse.renewal import renewed


@dataclass(frozen=True, slots=True)
class Keeper:
    """The right to keep this table in order until somebody holds a higher epoch."""

    row: IcebergTable
    epoch: int
    catalog: DjangoCatalog
    lease_ms: int
    now_ms: Callable[[], int]

    @property
    def identifier(self) -> tuple[str, ...]:
        return (*self.row.namespace.name.split(SEPARATOR), self.row.name)

    @property
    def name(self) -> str:
        return str(self.row)

    @property
    def is_told(self) -> bool:
        """Our own pointer moved, or it did not."""
        return True

    def load(self, catalog: DjangoCatalog | None = None) -> Table:
        """The table as it is now, found by its row: another may have its name.

        Raises DamagedTable, LeaseLost or StoreUnavailable.
        """
        row = IcebergTable.objects.select_related("namespace").filter(pk=self.row.pk).first()
        if row is None:
            raise LeaseLost(f"table {self.row} was dropped")
        if (row.namespace_id, row.name) != (self.row.namespace_id, self.row.name):
            raise LeaseLost(f"table {self.row} was renamed to {row}")
        source, location = catalog or self.catalog, row.metadata_location
        with told(f"the metadata of {row} cannot be read"):
            return source.at(self.identifier, location)

    def begin(self) -> Begun:
        """A change of the table as it is now. Raises as `load` and `commit` do."""
        staging = Staging(self.catalog)
        table = self.load(staging)
        expected = table.metadata_location

        def commit(change: Change) -> None:
            change.commit_transaction()
            self.commit(staging, expected=expected)

        return Begun(table, commit)

    def refusal(self, table: Table) -> str:
        if not is_collected(table.metadata) or not is_ours(table, self.row, self.catalog):
            return "its files are not ours to replace (gc.enabled, or where it lies)"
        return ""

    def of(self, row: IcebergTable) -> Keeper:
        """To look at another table; without its lease."""
        return replace(self, row=row, epoch=-1)

    def renew(self) -> None:
        """Raises LeaseLost."""
        if not self._held().update(lease_until_ms=self.now_ms() + self.lease_ms):
            raise LeaseLost(f"table {self.row} is kept in order by somebody else")

    def commit(self, staging: Staging, *, expected: str, along: Callable[[], None] = lambda: None) -> None:
        """Move the pointer to what was staged. Raises LeaseLost or CommitConflict; nothing has moved then.

        What is done `along` with it is in the same transaction.
        """
        with transaction.atomic():
            self.renew()
            along()
            moved = pointers.move_row(
                self.row.pk,
                expected=expected,
                location=staging.result.metadata_location,
                forgotten=staging.forgotten,
            )
            if not moved:
                raise CommitConflict(f"table {self.row} was written meanwhile")
        tables.delete_metadata(self.catalog, staging.obsolete)

    def give_back(self) -> None:
        self._held().update(lease_until_ms=0)

    def _held(self) -> QuerySet[TableUpkeep]:
        return TableUpkeep.objects.filter(pk=self.row.pk, lease_epoch=self.epoch)


@contextmanager
def kept(
    row: IcebergTable, catalog: DjangoCatalog, *, lease_ms: int, now_ms: Callable[[], int]
) -> Iterator[Keeper | None]:
    """The lease of a table, or None when somebody else has it; it is renewed until the end of this."""
    with suppress(IntegrityError):  # The table was dropped: there is nothing to hold then.
        TableUpkeep.objects.get_or_create(table=row)
    epoch = _take(row.pk, lease_ms, now_ms())
    if epoch is None:
        yield None
        return
    keeper = Keeper(row, epoch, catalog, lease_ms, now_ms)
    try:
        with renewed(keeper.renew, term_ms=lease_ms, what=f"the lease of table {row}"):
            yield keeper
    finally:
        keeper.give_back()


def _take(pk: int, lease_ms: int, now_ms: int) -> int | None:
    """The epoch; None while somebody holds the lease. One that ends so late is of a clock that was wrong."""
    is_over = Q(lease_until_ms__lte=now_ms) | Q(lease_until_ms__gt=now_ms + 2 * lease_ms)
    with transaction.atomic():
        taken = TableUpkeep.objects.filter(is_over, pk=pk).update(
            lease_epoch=F("lease_epoch") + 1, lease_until_ms=now_ms + lease_ms
        )
        return TableUpkeep.objects.get(pk=pk).lease_epoch if taken else None
