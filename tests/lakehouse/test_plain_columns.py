"""What is different in each row has no dictionary in the files; all else has one, however deep it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.catalog.plain_columns import PLAIN
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
        "city": ["x", "x"],
        "many": pa.array([[{"a": "x"}], []], pa.list_(pa.struct([("a", pa.string())]))),
        "a b.c": ["y", "y"],
    }
    lake.commit(2, **more)
    rows = lake.rows(columns="_seq, _after, city, many[1].a")
    wanted = PLAIN - {"_before"}
    assert plain(lake) == wanted
    with lake.keeper() as keeper:
        assert compaction.compact(keeper, compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False)).old == 2
    assert plain(lake) == wanted
    assert lake.rows(columns="_seq, _after, city, many[1].a") == rows
