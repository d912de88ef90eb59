"""Files of a table in somebody else's catalog are exchanged by the one thing every catalog knows: main has not moved.

No lease is needed. An exchange names the files it takes out, so of two one finds them gone, and neither adds a row. Of
a commit without an answer the snapshot is looked for; where that cannot tell either, doing it again does what is left.
Files of a commit that was sent are never deleted here: they may be named by now, and else that catalog sweeps them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from pyiceberg.catalog import Catalog, MetastoreCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.update import AddSnapshotUpdate, AssertTableUUID

from lakehouse.catalog import foreign_tables
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.staging import Change
from lakehouse.catalog.upkeep.tending import Begun
from lakehouse.errors import CommitConflict, LeaseLost, StoreUnavailable
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)

FORMAT_MAX = 2


@dataclass(frozen=True, slots=True)
class ForeignKeeper:
    catalog: Catalog
    namespace: str
    table: str

    @property
    def name(self) -> str:
        return f"{self.namespace}.{self.table}"

    @property
    def is_told(self) -> bool:
        return False

    def renew(self) -> None:
        """Nobody else is kept out."""

    def load(self) -> Table:
        """Raises StoreUnavailable, or LeaseLost when there is no such table any more."""
        found = foreign_tables.find(self.catalog, self.namespace, self.table)
        if found is None:
            raise LeaseLost(f"table {self.name} was dropped")
        return found

    def begin(self) -> Begun:
        table = self.load()
        return Begun(table, partial(self._commit, table))

    def refusal(self, table: Table) -> str:
        if not isinstance(table.io, DurableFileIO):
            return f"its catalog has its files reached by {type(table.io).__name__}, which is not ours"
        if table.format_version > FORMAT_MAX:
            return f"it has format version {table.format_version}, and nothing here writes more than {FORMAT_MAX}"
        return ""

    def _commit(self, table: Table, change: Change) -> None:
        """Sent once; the library's own way would send it again, rebased."""
        requirements = (*change._requirements, AssertTableUUID(uuid=table.metadata.table_uuid))
        self._settle(table)
        reach(Failpoint.FOREIGN_APPENDING)
        try:
            response = self.catalog.commit_table(table, requirements, change._updates)
        except Exception as exc:
            log.warning("of a change of %s the catalog says %s: %s; looking", self.name, type(exc).__name__, exc)
            self._look(change, exc)
        else:
            reach(Failpoint.FOREIGN_APPENDED)
            if isinstance(self.catalog, MetastoreCatalog):  # the others write it themselves
                self._settle(table, response.metadata_location)

    def _look(self, change: Change, error: Exception) -> None:
        """Raises CommitConflict or StoreUnavailable, unless it is there all the same."""
        made = {one.snapshot.snapshot_id for one in change._updates if isinstance(one, AddSnapshotUpdate)}
        if made and made <= {one.snapshot_id for one in self.load().metadata.snapshots}:
            return
        if isinstance(error, CommitFailedException):
            raise CommitConflict(f"table {self.name} was written meanwhile") from error
        raise StoreUnavailable(
            f"a change of {self.name} was not taken, or nobody said so: {type(error).__name__}: {error}"
        ) from error

    @staticmethod
    def _settle(table: Table, *more: str) -> None:
        if isinstance(table.io, DurableFileIO):
            table.io.written += more
            table.io.settle()
