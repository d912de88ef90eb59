"""Files are what the library would have written, whatever is known of their schema."""

from __future__ import annotations

import gc
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.io.pyarrow import pyarrow_to_schema, write_file
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import WriteTask
from pyiceberg.table.metadata import TableMetadata, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestamptzType,
    UUIDType,
)

from lakehouse.catalog import columns_written, evolution, parts
from lakehouse.catalog.files import DurableFileIO

PLAIN = [
    NestedField(1, "_seq", LongType(), required=True),
    NestedField(2, "_ts", TimestamptzType(), doc="when"),
    NestedField(3, "name", StringType()),
    NestedField(4, "price", DecimalType(9, 2)),
    NestedField(5, "a b.c", DoubleType()),
]
NESTED = [
    NestedField(6, "place", StructType(NestedField(7, "x", LongType()), NestedField(8, "to", StringType()))),
    NestedField(9, "many", ListType(10, StructType(NestedField(11, "a", StringType())), element_required=False)),
]
ILL_NAMED = [NestedField(12, "in", StructType(NestedField(13, "Straße 1", LongType())))]
OTHERS = [NestedField(14, "id", UUIDType())]
VALUES: dict[str, list[Any]] = {
    "_seq": [1, 2, 3],
    "name": ["Zürich" * 9, None, "\ud7ff" * 17],
    "price": ["1.50", None, "-2.25"],
    "a b.c": [0.5, 1e300, None],
    "place": [{"x": 1, "to": "b"}, None, {"x": None, "to": "c"}],
    "many": [[{"a": "x"}, None], None, []],
    "in": [{"Straße 1": 7}, None, {"Straße 1": None}],
}


def metadata_of(fields: list[NestedField], place: Path, **properties: str) -> TableMetadata:
    return new_table_metadata(Schema(*fields), PartitionSpec(), UNSORTED_SORT_ORDER, str(place), properties)


def rows_of(schema: Schema) -> pa.Table:
    arrow = evolution.arrow_schema(schema)
    made = [pa.array(VALUES.get(one.name, [None] * 3)) for one in arrow]
    columns = [
        evolution.nulls(3, f.type) if m.null_count == 3 else m.cast(f.type) for m, f in zip(made, arrow, strict=True)
    ]
    return pa.table(columns, schema=arrow)


def told(file: DataFile) -> list[Any]:
    """All that a manifest says of a file but where it is."""
    return [value for at, value in enumerate(file._data) if at != 1]


def the_librarys(metadata: TableMetadata, rows: pa.Table) -> DataFile:
    schema = pyarrow_to_schema(rows.schema, name_mapping=metadata.schema().name_mapping)
    io, properties = DurableFileIO({}), dict(metadata.properties)
    properties |= {parts.ROW_GROUP: str(len(rows)), **parts.paged(properties, rows)}
    task = WriteTask(uuid.uuid4(), 0, schema, rows.to_batches())
    [file] = write_file(io, metadata.model_copy(update={"properties": properties}), iter([task]))
    return file


@pytest.mark.parametrize(
    ("fields", "is_at_once"),
    [(PLAIN, True), ([*PLAIN, *NESTED], True), ([*PLAIN, *ILL_NAMED], False), ([*PLAIN, *OTHERS], True)],
    ids=["plain", "nested", "ill named within", "of others"],
)
@pytest.mark.parametrize("properties", [{}, {"write.metadata.metrics.default": "counts"}], ids=["bounds", "counts"])
def test_a_file_is_what_the_library_makes_of_the_same_rows(
    tmp_path: Path, fields: list[NestedField], is_at_once: bool, properties: dict[str, str]
) -> None:
    metadata = metadata_of(fields, tmp_path, **properties)
    rows = rows_of(metadata.schema())
    wanted = the_librarys(metadata, rows)
    for _ in range(2):
        [file] = parts.write(metadata, rows, DurableFileIO({}), {})
        assert told(file) == told(wanted)
        assert pq.read_table(file.file_path).equals(pq.read_table(wanted.file_path), check_metadata=True)
        assert pq.ParquetFile(file.file_path).schema == pq.ParquetFile(wanted.file_path).schema
    assert (columns_written.columns(metadata.schema()).written is not None) is is_at_once


def test_bounds_follow_a_property_that_is_changed(tmp_path: Path) -> None:
    metadata = metadata_of(PLAIN, tmp_path)
    rows = rows_of(metadata.schema())
    [with_bounds] = parts.write(metadata, rows, DurableFileIO({}), {})
    [without] = parts.write(metadata, rows, DurableFileIO({}), {"write.metadata.metrics.default": "none"})
    [again] = parts.write(metadata, rows, DurableFileIO({}), {})
    assert (bool(with_bounds.lower_bounds), bool(without.lower_bounds)) == (True, False)
    assert again.lower_bounds == with_bounds.lower_bounds


def test_nothing_is_known_of_schemas_that_nobody_holds(tmp_path: Path) -> None:
    gc.collect()
    before = len(columns_written.columns)
    for number in range(20):
        metadata = metadata_of(PLAIN if number % 2 else [*PLAIN, *ILL_NAMED], tmp_path)
        parts.write(metadata, rows_of(metadata.schema()), DurableFileIO({}), {})
    del metadata
    gc.collect()
    assert len(columns_written.columns) == before
