"""Tables that others partitioned otherwise than we do, and flushes that write to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyiceberg.transforms import BucketTransform, TruncateTransform

from lakehouse.catalog.upkeep import compaction
from lakehouse.conf import Settings
from tests.lakehouse.upkeep_site import Lake

pytestmark = pytest.mark.django_db(transaction=True)


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
    with lake.keeper() as keeper:
        compaction.compact(keeper, compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False))
    assert lake.rows() == rows
