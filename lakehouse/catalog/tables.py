"""What a flush does to tables: stage writes files nobody points to, swap moves all pointers or none.

A stage is Parquet files, one manifest and one metadata file per table, however many columns are new. It may be slow,
may die, may be repeated: until swap it is invisible. swap belongs into the transaction that marks the batches
persisted. Neither knows batches or leases. 50 000 rows of 31 columns in one day take 65 ms and 1.4 ms (2 cores, local
folder); 1000 rows take 15 ms. Each snapshot the table names adds to that, so a stage forgets some when there are too
many (see retention).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
from django.db import transaction
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.update import AssertDefaultSpecId
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Identifier

from lakehouse.catalog import deleting, evolution, partitioning, parts, pointers, refusals
from lakehouse.catalog.appending import Append
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.finding import Found
from lakehouse.catalog.identifiers import table_key
from lakehouse.catalog.pointers import Forgotten
from lakehouse.catalog.retention import Retention, forgetting
from lakehouse.catalog.staging import Change, Creation, Staging
from lakehouse.errors import CommitConflict
from rpc.failpoints import Failpoint, reach

FLUSH_ID = "evodb.flush-id"
TABLE_DEFAULTS = {
    "format-version": "2",
    # A retry inside the library rebases a stale append and commits it twice.
    "commit.retry.num-retries": "0",
    # Without merging every commit adds a manifest that every later commit has to list.
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    # A manifest is in memory whole whenever it is merged, 20 KB of it for each file of 31 columns.
    "commit.manifest.target-size-bytes": str(2**20),
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "50",
}


@dataclass(frozen=True, slots=True)
class Staged:
    """One table's share of a flush, written and waiting for its pointer."""

    namespace: str
    table: str
    expected_location: str | None
    """Where the pointer has to be for the swap; None: the table is to be created."""
    metadata_location: str
    snapshot_id: int
    rows: int
    files: int
    size_bytes: int
    obsolete: tuple[str, ...] = ()
    """Metadata files the table forgets with this commit, and manifests it never named; see tidy."""
    forgotten: tuple[Forgotten, ...] = ()
    """Snapshots it forgets; their files are deleted later (see upkeep)."""
    written: tuple[str, ...] = ()
    """All files of this stage but that of the metadata."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A stage that knows all it has to, and has written nothing."""

    namespace: str
    name: str
    rows: pa.Table
    staging: Staging
    change: Transaction
    expected: str | None
    flush_id: int
    parquet: Mapping[str, str]
    retention: Retention | None


def begin(
    catalog: DjangoCatalog,
    namespace: str,
    name: str,
    rows: pa.Table,
    *,
    flush_id: int,
    parquet: Mapping[str, str],
    retention: Retention | None = None,
    find: Found | None = None,
) -> Begun:
    """The half of a stage that asks the database; `write` is the other. Together they move nothing.

    `parquet` are write properties for these files; a new table keeps them as its own. With a `retention` a table that
    names too many snapshots forgets some in the same commit. `find` gives the table where it was looked for already.
    Raises TableRefused when it takes no rows, StoreUnavailable when the store fails.
    """
    assert len(rows), f"a stage of no rows for {namespace}.{name}"
    identifier = (*Catalog.identifier_to_tuple(namespace), name)
    with refusals.told(catalog, identifier, partial(pointers.find, *table_key(identifier))):
        staging = Staging(catalog)
        table = staging.find(identifier) if find is None else staging.taken(find())
        expected = table.metadata_location if table is not None else None
        change = _create(staging, identifier, rows, parquet) if table is None else evolve(table, rows)
    return Begun(namespace, name, rows, staging, change, expected, flush_id, parquet, retention)


def write(begun: Begun) -> Staged:
    """Write the rows and everything that would make them visible. It asks nobody: several may be at it in threads.

    Raises as `begin` does.
    """
    staging, change = begun.staging, begun.change
    identifier = (*Catalog.identifier_to_tuple(begun.namespace), begun.name)
    with refusals.told(staging, identifier, lambda: begun.expected):
        metadata = change.table_metadata
        rows = evolution.align(metadata.schema(), begun.rows)
        files = parts.write(metadata, rows, change._table.io, begun.parquet)
        reach(Failpoint.FILES_WRITTEN)
        with Append(change, {FLUSH_ID: str(begun.flush_id)}) as snapshot:
            for file in files:
                snapshot.append_data_file(file)
        if begun.retention is not None:
            _forget(change, begun.retention)
        io = change._table.io
        written = tuple(io.written) if isinstance(io, DurableFileIO) else ()
        change.commit_transaction()
        reach(Failpoint.METADATA_WRITTEN)
        obsolete = (*staging.obsolete, *_merged_at_once(snapshot, staging.result))
    return replace(_described(begun, files, obsolete), written=written)


def swap(staged: Sequence[Staged]) -> None:
    """Move the pointers of all these tables, in the caller's transaction. Raises CommitConflict naming the table.

    Always in the same order, namespaces first, so that two flushes of the same tables wait for each other instead of
    deadlocking.
    """
    assert transaction.get_connection().in_atomic_block, "swap belongs into the transaction that marks the batches"
    keys = {one: table_key((*Catalog.identifier_to_tuple(one.namespace), one.table)) for one in staged}
    pointers.lock_namespaces({keys[one][0] for one in staged if one.expected_location is None})
    for one in sorted(staged, key=keys.__getitem__):
        namespace, name = keys[one]
        if one.expected_location is None:
            moved = pointers.insert(namespace, name, one.metadata_location)
        else:
            moved = pointers.move(
                namespace,
                name,
                expected=one.expected_location,
                location=one.metadata_location,
                forgotten=one.forgotten,
            )
        if not moved:
            raise CommitConflict(
                f"table {one.namespace}.{one.table} is not at {one.expected_location or 'its creation'} any more; "
                "another writer committed first, stage its rows again"
            )


def tidy(catalog: DjangoCatalog, staged: Sequence[Staged]) -> None:
    """Delete the metadata files these commits made obsolete. Only after the transaction of the swap has committed."""
    delete_metadata(catalog, [location for one in staged for location in one.obsolete])


def throw_away(catalog: DjangoCatalog, staged: Sequence[Staged]) -> None:
    """Delete what was staged and will not be swapped, as far as that is possible now."""
    delete_metadata(catalog, [path for one in staged for path in (*one.written, one.metadata_location)])


def delete_metadata(catalog: DjangoCatalog, locations: Iterable[str]) -> None:
    """Delete these metadata files as far as that is possible now."""
    deleting.as_far_as_possible(catalog._load_file_io(), set(locations), "metadata")


def _create(staging: Staging, identifier: Identifier, rows: pa.Table, parquet: Mapping[str, str]) -> Transaction:
    schema, spec = evolution.new_table(rows.schema)
    return Creation(staging.stage_create(identifier, schema, spec, {**TABLE_DEFAULTS, **parquet}))


def evolve(table: Table, rows: pa.Table, *, without: Iterable[str] = ()) -> Transaction:
    """A change of this table, with one schema more if the rows need columns or width. Raises SchemaMismatch.

    What it is partitioned by has to be there; a field made of a column that somebody dropped is left out from now on.
    Columns that it shall be `without` are dropped before, so the rows may have another one of that name.
    """
    change = Change(table)
    if repair := partitioning.repair(table.metadata):
        change._apply(repair, (AssertDefaultSpecId(default_spec_id=table.metadata.default_spec_id),))  # type: ignore[call-arg]
    if without:
        with change.update_schema() as update:
            for name in without:
                update.delete_column((name,))
    if wanted := evolution.changes(change.table_metadata.schema(), rows.schema):
        with change.update_schema() as update:
            for path, type_ in wanted.widened.items():
                update.update_column(path, type_)
            for path, type_ in wanted.added.items():
                update.add_column(path, type_)
    return change


def _forget(change: Transaction, retention: Retention) -> None:
    metadata = change.table_metadata
    if len(metadata.snapshots) > retention.of_table(metadata.properties).most:
        change._apply(forgetting(metadata, retention, now_ms=metadata.last_updated_ms))


def _merged_at_once(snapshot: _FastAppendFiles, table: Table) -> list[str]:
    """Manifests this append wrote and merged into a larger one in the same breath; nobody ever names them."""
    written = snapshot._written_manifests
    if len(written) < 2:
        return []
    made = table.metadata.current_snapshot()
    assert made is not None
    named = {manifest.manifest_path for manifest in made.manifests(table.io)}
    return [path for path in written if path not in named]


def _described(begun: Begun, files: Sequence[DataFile], obsolete: tuple[str, ...]) -> Staged:
    staging = begun.staging
    snapshot = staging.result.metadata.current_snapshot()
    assert snapshot is not None
    return Staged(
        namespace=begun.namespace,
        table=begun.name,
        expected_location=begun.expected,
        metadata_location=staging.result.metadata_location,
        snapshot_id=snapshot.snapshot_id,
        rows=sum(file.record_count for file in files),
        files=len(files),
        size_bytes=sum(file.file_size_in_bytes for file in files),
        obsolete=obsolete,
        forgotten=staging.forgotten,
    )
