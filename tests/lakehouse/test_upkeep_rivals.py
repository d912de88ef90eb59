"""What another engine commits while files are merged counts, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.transforms import BucketTransform, IdentityTransform

from lakehouse.catalog.upkeep import compaction, rewriting
from lakehouse.catalog.upkeep.compaction import Terms
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict
from tests.lakehouse.upkeep_site import NOON, Lake

pytestmark = pytest.mark.django_db(transaction=True)

ALL = Terms(target_bytes=2**27, files_min=2, is_tiered=False)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


def compact_while(lake: Lake, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """The rows are written anew, then this happens, then the files are to be exchanged."""
    rewrite = rewriting.rewrite

    def meet(*args: Any, **keywords: Any) -> Any:
        written = list(rewrite(*args, **keywords))
        meanwhile()
        return written

    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "rewrite", meet)
        with lake.keeper() as keeper:
            compaction.compact(keeper, ALL)


def compact_and_lose(lake: Lake, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object], why: str) -> None:
    """What happens meanwhile cannot be reconciled with the new files, which are deleted."""
    with pytest.raises(CommitConflict, match=why):
        compact_while(lake, monkeypatch, meanwhile)
    assert not any("compacted" in name for name in lake.files())


class DeleteManifest(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class RowDelta(_FastAppendFiles):
    """What Spark, Trino, Flink and DuckDB commit for a DELETE by merge-on-read."""

    deletes: list[DataFile]

    def _existing_manifests(self) -> list[ManifestFile]:
        spec = self._transaction.table_metadata.spec()
        output = self.new_manifest_output()
        with DeleteManifest(spec, self.schema(), output, self._snapshot_id, self._compression) as writer:
            for file in self.deletes:
                entry = ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED,
                    snapshot_id=self._snapshot_id,
                    sequence_number=None,
                    file_sequence_number=None,
                    data_file=file,
                )
                writer.add(entry)
        return [*super()._existing_manifests(), writer.to_manifest_file()]


def delete_first_row_of_each_file(table: Table) -> None:
    change = table.transaction()
    producer = RowDelta(Operation.APPEND, change, table.io)
    producer.deletes = [_position_delete(table, file) for file in _data_files(table)]
    producer.commit()
    change.commit_transaction()


def _data_files(table: Table) -> list[DataFile]:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    manifests = snapshot.manifests(table.io)
    return [entry.data_file for one in manifests for entry in one.fetch_manifest_entry(table.io)]


def _position_delete(table: Table, file: DataFile) -> DataFile:
    path = f"{table.location()}/data/delete-{Path(file.file_path).name}"
    schema = pa.schema(
        [
            pa.field("file_path", pa.string(), False, {b"PARQUET:field_id": b"2147483546"}),
            pa.field("pos", pa.int64(), False, {b"PARQUET:field_id": b"2147483545"}),
        ]
    )
    pq.write_table(pa.table({"file_path": [file.file_path], "pos": [0]}, schema=schema), path)
    counts = ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts")
    nothing: dict[str, Any] = {name: {} for name in (*counts, "lower_bounds", "upper_bounds")}
    return DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=file.partition,
        record_count=1,
        file_size_in_bytes=Path(path).stat().st_size,
        sort_order_id=None,
        spec_id=file.spec_id,
        equality_ids=None,
        key_metadata=None,
        split_offsets=None,
        **nothing,
    )


def test_rows_another_engine_deleted_meanwhile_do_not_come_back(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(4)
    compact_and_lose(lake, monkeypatch, lambda: delete_first_row_of_each_file(lake.table()), "deleted rows meanwhile")
    assert len(lake.table().scan().to_arrow()) == 4
    with lake.keeper() as keeper:
        assert not compaction.compact(keeper, ALL)
        assert compaction.merge_manifests(keeper) == 3
    assert len(lake.table().scan().to_arrow()) == 4


def other_partitions(lake: Lake, *, new: bool) -> None:
    with lake.table().update_spec() as spec:
        spec.remove_field("_ts_day")
        if new:
            spec.add_field("_seq", BucketTransform(8), "bucket")


@pytest.mark.parametrize("new", [True, False])
def test_rows_are_found_after_the_partitioning_was_changed_meanwhile(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    lake.commit(4)
    compact_while(lake, monkeypatch, lambda: other_partitions(lake, new=new))
    assert lake.rows().total() == 8
    assert len(lake.table().scan(row_filter=f"_ts >= '{NOON.isoformat()}'").to_arrow()) == 8
    assert lake.table().scan(row_filter="_seq = 3").to_arrow()["_seq"].to_pylist() == [3]
    assert [file["spec_id"] for file in lake.table().inspect.files().to_pylist()] == [0]


def test_files_whose_partition_column_is_dropped_meanwhile_stay_as_they_were(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_shop = {"shop": ["a", "a"]}
    lake.commit(1, **with_shop)
    with lake.table().update_spec() as spec:
        spec.add_field("shop", IdentityTransform(), "shop")
    lake.commit(3, **with_shop)

    def drop() -> None:
        with lake.table().update_spec() as spec:
            spec.remove_field("shop")
        with lake.table().update_schema() as update:
            update.delete_column("shop")

    compact_and_lose(lake, monkeypatch, drop, "was dropped meanwhile")
    assert lake.rows().total() == 8
