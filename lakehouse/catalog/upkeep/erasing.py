"""Rows taken out of a table for good: its files without them, no older snapshot, and no file that held them.

    files that have them ─ anew without ─ exchanged ─ all other snapshots forgotten ─ their files deleted

Under the lease of the table, so no merge brings them back. Each step may die and be repeated: whoever erases again
finds what is left. What a tag or another branch keeps is said and not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.expressions import And, BooleanExpression, EqualTo
from pyiceberg.io import InputFile
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import Table

from lakehouse.catalog import deleting, evolution, partitioning
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.retention import MAIN, Retention, is_collected
from lakehouse.catalog.staging import Change, Staging
from lakehouse.catalog.upkeep import expiry, reading, rewriting
from lakehouse.catalog.upkeep.folders import is_ours
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.catalog.upkeep.replacing import Exchange
from lakehouse.errors import CommitConflict, LakehouseError
from rpc.failpoints import Failpoint, reach

FOR_EVER_MS = 2**62


class Notes(Protocol):
    """Hears which rows go."""

    def begin(self) -> None:
        """From the first one, perhaps not for the first time."""

    def see(self, rows: Any) -> None: ...

    def write(self) -> None:
        """In the transaction that takes them away."""


class NotErasable(LakehouseError):
    """The rows cannot be taken out of this table."""

    code = "NOT_ERASABLE"


class NotOfChildren(NotErasable):
    """Somebody's own table, which has no such rows."""


class _Nothing(Retention):
    """Keeps the newest snapshot, whatever the table says."""

    def of_table(self, properties: Mapping[str, str]) -> Retention:
        return self


NOTHING = _Nothing(age_ms=0, newest=1, most=1)


@dataclass(slots=True)
class Erased:
    rows: int = 0
    rewritten: int = 0
    """Files."""
    removed: list[str] = field(default_factory=list)
    kept_by: list[str] = field(default_factory=list)
    """Tags and branches whose snapshots may hold the rows still."""

    def __add__(self, more: Erased) -> Erased:
        removed, kept_by = self.removed + more.removed, self.kept_by + more.kept_by
        return Erased(self.rows + more.rows, self.rewritten + more.rewritten, removed, kept_by)


def erase(keeper: Keeper, where: Mapping[str, str], notes: Notes, *, target_bytes: int, attempts_max: int) -> Erased:
    """Take out the rows with these values.

    Raises NotErasable, CommitConflict, DamagedTable, LeaseLost or StoreUnavailable.
    """
    done = Erased()
    with reading.told(f"files of {keeper.row} cannot be read or written"):
        for attempt in range(1, attempts_max + 1):
            try:
                _take_out(keeper, where, done, notes, target_bytes=target_bytes)
                break
            except CommitConflict:
                if attempt == attempts_max:
                    raise
        _forget(keeper, done, attempts_max)
    return done


def _take_out(keeper: Keeper, where: Mapping[str, str], done: Erased, notes: Notes, *, target_bytes: int) -> None:
    staging = Staging(keeper.catalog)
    table = keeper.load(staging)
    _check(table, keeper, where)
    condition, rows = _condition(where), 0
    notes.begin()

    def survivors(batch: Any) -> Any:
        nonlocal rows
        hit = condition(batch)
        gone = batch.filter(hit)
        rows += len(gone)
        notes.see(pa.Table.from_batches([gone]))
        return batch.filter(pc.invert(hit))

    io = table.io
    assert isinstance(io, DurableFileIO)
    found = _candidates(table, where)
    with closing(rewriting.opened(io, found)) as sources:
        old = [file for file, one in zip(found, sources, strict=True) if _has_any(one, condition, list(where))]
    if not old:
        return
    new: list[DataFile] = []
    for file in old:
        new += rewriting.rewrite(table.metadata, [file], io, target_bytes=target_bytes, change=survivors)
    io.settle()
    reach(Failpoint.ERASED_WRITTEN)
    change = Change(table)
    expected = table.metadata_location
    try:
        Exchange(change, io, old, new).commit()
        change.commit_transaction()
        keeper.commit(staging, expected=expected, along=notes.write)
        reach(Failpoint.ERASED_SWAPPED)
    except CommitConflict:
        deleting.remove(io, [one.file_path for one in new])
        raise
    done.rows, done.rewritten = rows, len(old)


def _check(table: Table, keeper: Keeper, where: Mapping[str, str]) -> None:
    if not evolution.is_of_children(table.schema()):
        raise NotOfChildren(f"{keeper.row} is somebody's own: it has none of the columns that tell changes of children")
    if not is_collected(table.metadata) or not is_ours(table, keeper.row, keeper.catalog):
        raise NotErasable(f"files of {keeper.row} are not ours to delete (gc.enabled, or it lies elsewhere)")
    if missing := [name for name in where if name not in table.schema().column_names]:
        raise NotErasable(f"{keeper.row} has no column {', '.join(missing)}, wanted a table that children write")
    snapshot = table.metadata.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot is not None else []
    if any(one.content != ManifestContent.DATA for one in manifests):
        raise NotErasable(f"{keeper.row} has delete files of another engine; let that engine merge them first")


def _candidates(table: Table, where: Mapping[str, str]) -> list[DataFile]:
    """Files whose statistics do not rule the rows out."""
    terms: list[BooleanExpression] = [EqualTo(name, value) for name, value in where.items()]  # type: ignore[arg-type,call-arg]
    files = [task.file for task in table.scan(row_filter=reduce(And, terms)).plan_files()]
    if not partitioning.fixed(table.metadata).isdisjoint(file.spec_id for file in files):
        raise NotErasable(
            f"files of {'.'.join(table.name())} are partitioned by a column that was dropped, so no manifest of theirs "
            "can be written; copy the rows that stay into another table, and drop this one with purge"
        )
    return files


def _condition(where: Mapping[str, str]) -> Callable[[Any], Any]:
    def condition(batch: Any) -> Any:
        hits = [pc.fill_null(pc.equal(batch.column(name), pa.scalar(value)), False) for name, value in where.items()]
        return reduce(pc.and_, hits)

    return condition


def _has_any(source: InputFile, condition: Callable[[Any], Any], names: list[str]) -> bool:
    with source.open() as stream, pq.ParquetFile(cast(Any, stream), pre_buffer=False) as file:
        return any(pc.any(condition(batch)).as_py() for batch in file.iter_batches(columns=names, use_threads=False))


def _forget(keeper: Keeper, done: Erased, attempts_max: int) -> None:
    """Every snapshot but the newest, and all files that only those reached."""
    for attempt in range(1, attempts_max + 1):
        try:
            expiry.forget(keeper, NOTHING)
            break
        except CommitConflict:
            if attempt == attempts_max:
                raise
    done.removed += expiry.delete(keeper, before_ms=FOR_EVER_MS, is_told=True).paths
    done.kept_by += [name for name in keeper.load().metadata.refs if name != MAIN]


def told(paths: Sequence[str]) -> list[str]:
    """Each once, in order."""
    return sorted(set(paths))
