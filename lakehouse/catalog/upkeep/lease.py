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
from lakehouse.catalog.staging import Staging
from lakehouse.errors import CommitConflict, LeaseLost, StoreUnavailable
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

    def load(self, catalog: DjangoCatalog | None = None) -> Table:
        """The table as it is now. Raises LeaseLost when it was dropped."""
        try:
            table = (catalog or self.catalog).find(self.identifier)
        except OSError as exc:
            raise StoreUnavailable(f"the metadata of {self.row} cannot be read: {exc}") from exc
        if table is None:
            raise LeaseLost(f"table {self.row} was dropped")
        return table

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
            moved = pointers.move(
                self.row.namespace.name,
                self.row.name,
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
    began_ms = now_ms()
    over = Q(lease_until_ms__lte=began_ms) | Q(lease_until_ms__gt=began_ms + lease_ms)  # by a clock that was ahead
    taken = TableUpkeep.objects.filter(over, pk=row.pk).update(
        lease_epoch=F("lease_epoch") + 1, lease_until_ms=began_ms + lease_ms
    )
    if not taken:
        yield None
        return
    keeper = Keeper(row, TableUpkeep.objects.get(pk=row.pk).lease_epoch, catalog, lease_ms, now_ms)
    try:
        with renewed(keeper.renew, term_ms=lease_ms, what=f"the lease of table {row}"):
            yield keeper
    finally:
        keeper.give_back()
