"""An append with everything but the sending: files and manifests are written, and what the catalog is asked is ready.

It belongs to the handle it was made of: it asks that main stands where that handle saw it. It is sent by `append` once;
pyiceberg's own way would send it again, rebased, and clean up files of a commit that landed all the same.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.catalog import Catalog, MetastoreCatalog
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.manifest import DataFile
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.update import AssertTableUUID, TableRequirement, TableUpdate

from lakehouse.catalog import evolution, parts, refusals, tables
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.foreign_tables import store_errors
from lakehouse.flush.outcome import STAMP_SEPARATOR
from rpc.failpoints import Failpoint, reach


@dataclass(frozen=True, slots=True)
class Stamping:
    """Under which name a commit carries which stamp, and the flush in plain words."""

    marker: str
    stamp: str
    flush_id: int


@dataclass(frozen=True, slots=True)
class Draft:
    table: Table
    """The handle it was made of."""
    stamping: Stamping
    rows: pa.Table
    files: Sequence[DataFile]
    snapshot_id: int
    requirements: tuple[TableRequirement, ...]
    updates: tuple[TableUpdate, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.file_size_in_bytes for file in self.files)


def new_stamp(flush_id: int) -> str:
    """Never given twice, even by a journal that was restored from a backup and counts its flushes again."""
    return f"{flush_id}{STAMP_SEPARATOR}{uuid.uuid4().hex[:16]}"


def make(table: Table, rows: pa.Table, stamping: Stamping, parquet: Mapping[str, str]) -> Draft:
    """Raises TableRefused when the table takes no rows, StoreUnavailable when the store fails."""
    *namespace, name = table.name()
    assert len(rows), f"a draft of no rows for {'.'.join(table.name())}"
    with store_errors(), refusals.of(".".join(namespace), name):
        change = tables.evolve(table, rows)
        change.set_properties({stamping.marker: stamping.stamp})
        metadata = change.table_metadata
        files = parts.write(metadata, evolution.align(metadata.schema(), rows), table.io, parquet)
        reach(Failpoint.FILES_WRITTEN)
        summary = {tables.FLUSH_ID: str(stamping.flush_id), stamping.marker: stamping.stamp}
        with change.update_snapshot(summary).merge_append() as snapshot:
            for file in files:
                snapshot.append_data_file(file)
        _settle(table)
    requirements = (*change._requirements, AssertTableUUID(uuid=metadata.table_uuid))
    return Draft(table, stamping, rows, files, snapshot.snapshot_id, requirements, change._updates)


def append(catalog: Catalog, draft: Draft) -> str:
    """Returns where the new metadata is. Raises whatever the catalog raises, which says nothing of what came of it."""
    response = catalog.commit_table(draft.table, draft.requirements, draft.updates)
    if response.metadata.snapshot_by_id(draft.snapshot_id) is None:
        raise CommitStateUnknownException(f"it answers with a table that has no snapshot {draft.snapshot_id}")
    if isinstance(catalog, MetastoreCatalog):  # the others write it themselves
        _settle(draft.table, response.metadata_location)
    _forget_old_metadata(catalog, draft.table, response)
    return response.metadata_location


def _forget_old_metadata(catalog: Catalog, table: Table, response: CommitTableResponse) -> None:
    """As the library does after a commit, and as little of a failure if it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        catalog._delete_old_metadata(table.io, table.metadata, response.metadata)


def _settle(table: Table, *more: str) -> None:
    """A folder promises nothing until it was told to; see files."""
    if isinstance(table.io, DurableFileIO):
        table.io.written += more
        table.io.settle()
