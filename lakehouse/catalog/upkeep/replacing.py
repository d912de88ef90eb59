"""A snapshot that names other files and has the same rows: Iceberg's `replace`, which pyiceberg does not make yet.

It carries no flush id, so nobody takes it for a flush. Only manifests that name a replaced file are written anew. A new
file may be of an earlier partitioning, as the file is that it replaces; of those pyiceberg writes no manifest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestContent, ManifestEntry, ManifestEntryStatus, ManifestFile
from pyiceberg.table import TableProperties, Transaction
from pyiceberg.table.snapshots import Operation, SnapshotSummaryCollector, Summary, update_snapshot_summaries
from pyiceberg.table.update.snapshot import _SnapshotProducer
from pyiceberg.typedef import EMPTY_DICT
from pyiceberg.utils.bin_packing import ListPacker

from lakehouse.catalog import partitioning, table_properties
from lakehouse.catalog.appending import Merging, added
from lakehouse.catalog.upkeep import reachable
from lakehouse.errors import CommitConflict


class Replacement(_SnapshotProducer["Replacement"]):
    """`old` files out, `new` files in."""

    operation = Operation.REPLACE

    def __init__(self, change: Transaction, io: FileIO, old: Sequence[DataFile], new: Sequence[DataFile]) -> None:
        super().__init__(self.operation, change, io)
        for file in old:
            self.delete_data_file(file)
        for file in new:
            self.append_data_file(file)

    def _validate_concurrency(self) -> None:
        """Whoever moved the table meanwhile is noticed where the pointer moves."""

    def _build_delete_files_partition_predicate(self) -> None:
        """Manifests are chosen by what they name."""

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        """Each file in the words of its own partitioning."""
        metadata = self._transaction.table_metadata
        schema, specs = metadata.schema(), metadata.specs()
        limit = table_properties.number(metadata.properties, TableProperties.WRITE_PARTITION_SUMMARY_LIMIT, 0) or 0
        counted = SnapshotSummaryCollector(partition_summary_limit=limit)
        for file in self._added_data_files:
            counted.add_file(file, schema, specs[file.spec_id])
        for file in self._deleted_data_files:
            counted.remove_file(file, schema, specs[file.spec_id])
        before = metadata.snapshot_by_id(self._parent_snapshot_id) if self._parent_snapshot_id is not None else None
        totals = update_snapshot_summaries(
            Summary(Operation.OVERWRITE, **counted.build(), **snapshot_properties),
            before.summary if before is not None else None,
        )
        return totals.model_copy(update={"operation": self.operation})

    def _manifests(self) -> list[ManifestFile]:
        kept, gone = self._planned
        new = (added(file, self.snapshot_id) for file in self._added_data_files)
        return [*self._written(new), *self._written(gone), *kept]

    def _existing_manifests(self) -> list[ManifestFile]:
        return self._planned[0]

    def _deleted_entries(self) -> list[ManifestEntry]:
        return self._planned[1]

    def _written(self, entries: Iterable[ManifestEntry]) -> list[ManifestFile]:
        """A manifest for each partitioning."""
        by_spec = defaultdict[int, list[ManifestEntry]](list)
        for entry in entries:
            by_spec[entry.data_file.spec_id].append(entry)
        return [self._manifest(spec_id, some) for spec_id, some in by_spec.items()]

    def _manifest(self, spec_id: int, entries: Iterable[ManifestEntry]) -> ManifestFile:
        with self.new_manifest_writer(self.spec(spec_id)) as writer:
            for entry in entries:
                writer.add_entry(entry)
        return writer.to_manifest_file()

    @cached_property
    def _planned(self) -> tuple[list[ManifestFile], list[ManifestEntry]]:
        kept: list[ManifestFile] = []
        gone: list[ManifestEntry] = []
        old = {file.file_path for file in self._deleted_data_files}
        manifests = self._current()
        self._check_meanwhile(manifests)
        by_path = {one.manifest_path: one for one in manifests}
        for path, entries in reachable.each(self._io, by_path):
            if any(entry.is_live and entry.path in old for entry in entries()):
                kept += self._without(old, by_path[path], gone)
            else:
                kept.append(by_path[path])
        if len(gone) != len(old):
            raise CommitConflict(f"{len(old) - len(gone)} of {len(old)} files were replaced by somebody else meanwhile")
        return kept, gone

    def _check_meanwhile(self, manifests: Sequence[ManifestFile]) -> None:
        """The new files have the rows that were there when they were written, in the partitions of then."""
        if any(manifest.content != ManifestContent.DATA for manifest in manifests):
            raise CommitConflict("another engine deleted rows meanwhile, which the new files would bring back")
        fixed = partitioning.fixed(self._transaction.table_metadata)
        if any(file.spec_id in fixed for file in self._added_data_files):
            raise CommitConflict("a column by which the new files are partitioned was dropped meanwhile")

    def _current(self) -> list[ManifestFile]:
        snapshot = self._transaction.table_metadata.snapshot_by_name(self._target_branch)
        return snapshot.manifests(self._io) if snapshot is not None else []

    def _without(self, old: set[str], manifest: ManifestFile, gone: list[ManifestEntry]) -> list[ManifestFile]:
        """The manifest with what stays, if anything does; `gone` gets what does not."""
        entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
        gone += [self._entry(e, ManifestEntryStatus.DELETED) for e in entries if e.data_file.file_path in old]
        staying = [e for e in entries if e.data_file.file_path not in old]
        if not staying:
            return []
        stay = (self._entry(entry, ManifestEntryStatus.EXISTING) for entry in staying)
        return [self._manifest(manifest.partition_spec_id, stay)]

    def _entry(self, entry: ManifestEntry, status: ManifestEntryStatus) -> ManifestEntry:
        return ManifestEntry.from_args(
            status=status,
            snapshot_id=self.snapshot_id if status is ManifestEntryStatus.DELETED else entry.snapshot_id,
            sequence_number=entry.sequence_number,
            file_sequence_number=entry.file_sequence_number,
            data_file=entry.data_file,
        )


class Exchange(Replacement):
    """The same for files whose rows are others: Iceberg's `overwrite`."""

    operation = Operation.OVERWRITE


class ManifestMerge(Replacement):
    """No file in or out; manifests up to `target_bytes` become one."""

    def __init__(self, change: Transaction, io: FileIO, *, target_bytes: int) -> None:
        super().__init__(change, io, [], [])
        self._target_bytes = target_bytes

    @property
    def is_worth_it(self) -> bool:
        """Whether there are fewer manifests after it: some of them are small enough to be one, or are left out."""
        if len(self._current()) > len(self._current_of(is_data=True)) + len(self._current_of(is_data=False)):
            return True
        packer: ListPacker[ManifestFile] = ListPacker(self._target_bytes, lookback=1, largest_bin_first=False)
        fixed = partitioning.fixed(self._transaction.table_metadata)
        data = [one for one in self._current_of(is_data=True) if one.partition_spec_id not in fixed]
        groups = self._merge._group_by_spec(data).values()
        bins = (packer.pack_end(group, lambda one: one.manifest_length) for group in groups)
        return any(len(one) > 1 for some in bins for one in some)

    @cached_property
    def _planned(self) -> tuple[list[ManifestFile], list[ManifestEntry]]:
        fixed = partitioning.fixed(self._transaction.table_metadata)
        data = self._current_of(is_data=True)
        merged = self._merge.merge_manifests([one for one in data if one.partition_spec_id not in fixed])
        stay = [one for one in data if one.partition_spec_id in fixed]
        return merged + stay + self._current_of(is_data=False), []

    @property
    def _merge(self) -> Merging:
        return Merging(self._target_bytes, 2, True, self)

    def _current_of(self, *, is_data: bool) -> list[ManifestFile]:
        """Without those that name deleted files only: of them pyiceberg would make an empty one, and refuses to."""
        found = [one for one in self._current() if (one.content == ManifestContent.DATA) is is_data]
        return [one for one in found if one.has_added_files() or one.has_existing_files()]
