"""Tables that others partitioned otherwise than we do, and flushes that write to them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.schema import Schema
from pyiceberg.transforms import BucketTransform, IdentityTransform, TruncateTransform
from pyiceberg.types import LongType, NestedField, StringType

from lakehouse.catalog.upkeep import compaction
from lakehouse.catalog.upkeep.compaction import Compacted
from lakehouse.conf import Settings
from tests.lakehouse.upkeep_site import Lake

pytestmark = pytest.mark.django_db(transaction=True)


def merged(lake: Lake) -> Compacted:
    with lake.keeper() as keeper:
        return compaction.compact(keeper, compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False))


def test_a_table_with_two_partition_fields_of_one_column_has_its_rows_and_is_merged(tmp_path: Path) -> None:
    lake = Lake(Settings(data_dir=tmp_path))
    lake.commit()
    with lake.table().update_spec() as spec:
        spec.add_field("_seq", BucketTransform(8), "bucket")
        spec.add_field("_seq", TruncateTransform(10), "tens")
    lake.commit()
    lake.commit()
    rows = lake.rows()
    assert rows.total() == 6
    new = [file for file in lake.table().inspect.files().to_pylist() if file["partition"]["tens"] is not None]
    assert {file["partition"]["tens"] for file in new} == {0}
    assert all(file["partition"]["bucket"] is not None for file in new)
    merged(lake)
    assert lake.rows() == rows


def test_small_files_of_each_earlier_partitioning_are_merged_with_one_another(tmp_path: Path) -> None:
    lake = Lake(Settings(data_dir=tmp_path))
    lake.commit(3)
    with lake.table().update_spec() as spec:
        spec.add_field("_seq", TruncateTransform(1000), "thousand")
    lake.commit(3)
    rows = lake.rows()
    done = merged(lake)
    assert (done.old, done.new) == (6, 2)
    assert lake.rows() == rows
    assert len(lake.table().scan(row_filter="_seq >= 4").to_arrow()) == rows.total() - 4
    files = lake.table().inspect.files().to_pylist()
    assert sorted((file["spec_id"], file["partition"]["thousand"]) for file in files) == [(0, None), (1, 0)]
    snapshot = lake.table().current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert (snapshot.summary["total-data-files"], snapshot.summary["changed-partition-count"]) == ("2", "2")


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_table_of_another_engine_that_was_partitioned_anew_again_and_again_is_merged(
    tmp_path: Path, version: str
) -> None:
    lake = Lake(Settings(data_dir=tmp_path))
    schema = Schema(NestedField(1, "id", LongType(), required=False), NestedField(2, "city", StringType()))
    lake.catalog.create_namespace("lake")
    table = lake.catalog.create_table("lake.flights", schema, properties={"format-version": version})
    rows = pa.table({"id": [1, 2, 3], "city": ["a", "b", None]})
    for _ in range(2):
        table.append(rows)
    for field, transform in (("id", BucketTransform(2)), ("city", IdentityTransform())):
        with table.update_spec() as spec:
            for old in table.spec().fields:
                spec.remove_field(old.name)
            spec.add_field(field, transform, f"by_{field}")
        for _ in range(2):
            table.append(rows)
    before = lake.rows()
    done = merged(lake)
    with lake.keeper() as keeper:
        compaction.merge_manifests(keeper)
    assert (done.old, done.new) == (12, 6)
    assert lake.rows() == before
    assert len(lake.table().scan(row_filter="city = 'a'").to_arrow()) == 6
    assert len(lake.table().scan(row_filter="id = 3").to_arrow()) == 6


def test_files_in_partitions_by_a_column_that_was_dropped_are_left_as_they_are(tmp_path: Path) -> None:
    lake = Lake(Settings(data_dir=tmp_path))
    lake.commit(1, shop=["a", "b"])
    with lake.table().update_spec() as spec:
        spec.add_field("shop", IdentityTransform(), "shop")
    lake.commit(3, shop=["a", "b"])
    with lake.table().update_spec() as spec:
        spec.remove_field("shop")
    with lake.table().update_schema() as update:
        update.delete_column("shop")
    lake.commit(3)
    rows = lake.rows()
    done = merged(lake)
    assert (done.old, done.new) == (4, 1)
    assert lake.rows() == rows
