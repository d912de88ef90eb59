"""Small files of a partition become few large ones, with the same rows.

The rows are written first, which takes long and moves nothing. Then the files are exchanged in one commit, made anew
when a flush was faster, as long as the files it replaces are still there. What loses too often is deleted and tried
again another time; a death leaves files nobody names, which the sweep finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from lakehouse import rewrite_choice
from lakehouse.catalog import deleting, partitioning
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.staging import Change
from lakehouse.catalog.table_properties import number
from lakehouse.catalog.upkeep import engines, reachable, rewriting
from lakehouse.catalog.upkeep.piles import Small, piles, together
from lakehouse.catalog.upkeep.reading import told
from lakehouse.catalog.upkeep.replacing import ManifestMerge, Replacement
from lakehouse.catalog.upkeep.tending import Tender
from lakehouse.errors import CommitConflict

log = logging.getLogger(__name__)

TARGET = "write.target-file-size-bytes"
MANIFEST_TARGET = "commit.manifest.target-size-bytes"
MANIFEST_BYTES = 2**20
SIZE_BYTES = 104
WANTED = (100, 101, 102, 103, SIZE_BYTES)
"""Path, format, partition, rows and bytes of a data file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    target_bytes: int
    files_min: int
    """So many files of about one size are worth it."""
    is_tiered: bool = True
    attempts_max: int = 5
    engine: str = rewrite_choice.LOCAL


@dataclass(slots=True)
class Compacted:
    old: int = 0
    new: int = 0
    """Files."""
    rows: int = 0

    def __bool__(self) -> bool:
        return bool(self.old)

    def __str__(self) -> str:
        return f"{self.old} files became {self.new} with {self.rows} rows"


def compact(keeper: Tender, terms: Terms, *, until: Callable[[], bool] = lambda: False) -> Compacted:
    """Merge what is worth it: the first pile always, the next ones before `until`.

    Raises CommitConflict, DamagedTable, LeaseLost or StoreUnavailable; what was merged before stays so.
    """
    done = Compacted()
    with told(f"files of {keeper.name} cannot be read or written"):
        table = keeper.load()
        for some in together(_piles(table, keeper, terms), terms.target_bytes):
            if done and until():
                break
            old, new = _merged(table, some, keeper, terms, until)
            exchange(keeper, old, new, terms)
            done.old, done.new = done.old + len(old), done.new + len(new)
            done.rows += sum(file.record_count for file in new)
            pa.default_memory_pool().release_unused()
    return done


def _merged(
    table: Table, some: Sequence[Sequence[Small]], keeper: Tender, terms: Terms, until: Callable[[], bool]
) -> tuple[list[DataFile], list[DataFile]]:
    """The files of the first of these piles, and of the next ones before `until`; and the new ones with their rows."""
    known = {file.file_path: file for file in described(table, [file for pile in some for file in pile])}
    old: list[DataFile] = []
    new: list[DataFile] = []
    try:
        for pile in some:
            if old and until():
                break
            keeper.renew()
            mine = [known[file.path] for file in pile]
            new += rewritten(table, mine, sum(file.rows for file in pile), terms)
            old += mine
    except BaseException:
        deleting.remove(table.io, [file.file_path for file in new])
        raise
    return old, new


def merge_manifests(keeper: Tender, *, count_min: int = 2) -> int:
    """Fewer, larger manifests when there are so many small ones; returns how many are gone."""
    with told(f"manifests of {keeper.name} cannot be merged"):
        begun = keeper.begin()
        table = begun.table
        target = _target(table.metadata, MANIFEST_TARGET, MANIFEST_BYTES)
        before = manifests_of(table)
        small = [one for one in before if one.content == ManifestContent.DATA and one.manifest_length < target // 2]
        change = Change(table)
        merge = ManifestMerge(change, table.io, target_bytes=target)
        if len(small) < count_min or not merge.is_worth_it:
            return 0
        merge.commit()
        begun.commit(change)
        return len(before) - len(merge._existing_manifests())


def _piles(table: Table, keeper: Tender, terms: Terms) -> list[list[Small]]:
    manifests = manifests_of(table)
    if why := refusal(table, keeper, manifests):
        log.info("%s is not compacted: %s", keeper.name, why)
        return []
    target = _target(table.metadata, TARGET, terms.target_bytes)
    return piles(files(table, manifests), target_bytes=target, files_min=terms.files_min, is_tiered=terms.is_tiered)


def refusal(table: Table, keeper: Tender, manifests: Sequence[ManifestFile]) -> str:
    """Why files of this table must not be exchanged, or nothing."""
    if any(one.content != ManifestContent.DATA for one in manifests):
        return "it has delete files of another engine; that engine has to compact it"
    return keeper.refusal(table)


def files(table: Table, manifests: Sequence[ManifestFile]) -> Iterator[Small]:
    """The data files, but for those of an earlier partitioning that cannot be written any more."""
    fixed = partitioning.fixed(table.metadata)
    specs = {one.manifest_path: one.partition_spec_id for one in manifests if one.partition_spec_id not in fixed}
    for manifest, is_live, (path, kind, partition, rows, size_bytes) in reachable.fields(table.io, specs, WANTED):
        if is_live and kind.upper() == "PARQUET":
            values = (partition[at] for at in range(len(partition)))
            yield Small(path, manifest, (specs[manifest], *values), size_bytes, rows)


def described(table: Table, pile: Sequence[Small]) -> Iterator[DataFile]:
    """These files with all their manifests say of them; one manifest is in memory at a time."""
    wanted = {file.path for file in pile}
    named = {file.manifest for file in pile}
    for manifest in manifests_of(table):
        if manifest.manifest_path in named:
            for entry in manifest.fetch_manifest_entry(table.io):
                if entry.data_file.file_path in wanted:
                    yield entry.data_file


def rewritten(
    table: Table, old: Sequence[DataFile], rows: int, terms: Terms, change: rewriting.ChangeRows | None = None
) -> list[DataFile]:
    """The new files, on the disk and named nowhere. `change` is done to their rows on the way, and always here."""
    target = _target(table.metadata, TARGET, terms.target_bytes)
    io = table.io
    assert isinstance(io, DurableFileIO)
    rewrite = partial(rewriting.rewrite, change=change) if change else engines.of(terms.engine)
    try:
        new = list(rewrite(table.metadata, old, io, target_bytes=target))
        found = sum(file.record_count for file in new)
        assert found == rows, f"{len(old)} files of {table.name()} have {rows} rows, {found} were read"
    except BaseException:
        deleting.remove(io, io.written)
        raise
    io.settle()
    return new


def exchange(keeper: Tender, old: Sequence[DataFile], new: Sequence[DataFile], terms: Terms) -> None:
    """In one commit.

    Raises CommitConflict when others were faster each time; the new files are deleted then, if nobody can name them.
    """
    for attempt in range(1, terms.attempts_max + 1):
        begun = keeper.begin()
        change = Change(begun.table)
        try:
            Replacement(change, begun.table.io, old, new).commit()
            begun.commit(change)
        except CommitConflict as exc:
            log.info("compaction of %s, attempt %d: %s", keeper.name, attempt, exc)
            if attempt == terms.attempts_max or not _are_there(keeper.load(), old):
                if keeper.is_told:
                    deleting.remove(begun.table.io, [file.file_path for file in new])
                raise
        else:
            return


def _are_there(table: Table, files: Sequence[DataFile]) -> bool:
    asked = {file.file_path for file in files}
    return not reachable.unreached(table.io, asked, [one.manifest_path for one in manifests_of(table)])


def manifests_of(table: Table) -> list[ManifestFile]:
    snapshot = table.metadata.current_snapshot()
    return snapshot.manifests(table.io) if snapshot is not None else []


def _target(metadata: TableMetadata, name: str, default: int) -> int:
    return number(metadata.properties, name, 1) or default
