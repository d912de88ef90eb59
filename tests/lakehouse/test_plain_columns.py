"""What is different in each row has no dictionary in the files; all else has one, however deep it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.catalog import plain_columns
from lakehouse.catalog.upkeep import compaction
from lakehouse.conf import Settings
from tests.lakehouse.upkeep_site import Lake

pytestmark = pytest.mark.django_db(transaction=True)


def plain(lake: Lake) -> set[str]:
    found: set[str] = set()
    for file in lake.table().inspect.files().to_pylist():
        group: Any = pq.ParquetFile(file["file_path"]).metadata.row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        found |= {one.path_in_schema for one in columns if not one.has_dictionary_page}
    return found


def test_only_what_differs_in_each_row_has_no_dictionary(tmp_path: Path) -> None:
    lake = Lake(Settings(data_dir=tmp_path))
    more: dict[str, Any] = {
        "_after": ["{}", "[]"],
        "total": [1.5, 2.5],
        "city": ["x", "x"],
        "many": pa.array([[{"a": "x"}], []], pa.list_(pa.struct([("a", pa.string())]))),
        "a b.c": ["y", "y"],
    }
    lake.commit(2, **more)
    rows = lake.rows(columns="_seq, _after, total, city, many[1].a")
    assert plain(lake) == {"_row_id", "_seq", "_after", "total"}
    with lake.keeper() as keeper:
        assert compaction.compact(keeper, compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False)).old == 2
    assert plain(lake) == {"_row_id", "_seq"}, "both files had the same documents"
    assert lake.rows(columns="_seq, _after, total, city, many[1].a") == rows


def test_values_that_come_back_after_many_rows_keep_their_dictionary() -> None:
    count = plain_columns.LOOK_ROWS
    columns = {
        "each": pa.array(range(count)),
        "late": pa.array([number % (count // 2) for number in range(count)]),
        "few": pa.array([number % 3 for number in range(count)]),
        "absent": pa.nulls(count, pa.string()),
        "lists": pa.array([[number] for number in range(count)]),
    }
    assert plain_columns.plain(pa.table(columns)) == {"each"}
    assert plain_columns.plain(pa.table(columns).slice(0, count // 2)) == {"each", "late"}


def test_columns_of_which_arrow_has_no_sets_keep_their_dictionary() -> None:
    rows = pa.table({"id": pa.array([b"x" * 16, b"y" * 16], pa.uuid()), "nothing": pa.nulls(2)})
    assert plain_columns.plain(rows) == set()
