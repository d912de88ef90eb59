"""Which columns fit, which are new, which must be refused."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.transforms import DayTransform
from pyiceberg.types import (
    DateType,
    DecimalType,
    IcebergType,
    ListType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from lakehouse.catalog import evolution, parts
from lakehouse.errors import SchemaMismatch

TABLE = Schema(NestedField(1, "id", LongType()), NestedField(2, "city", StringType()))


def test_every_type_has_one_type_over_there_and_back() -> None:
    assert {evolution.ARROW[iceberg] for iceberg in evolution.ICEBERG.values()} == set(evolution.ICEBERG)


def test_columns_that_rows_lack_take_no_memory_each_also_where_they_are_cut_by_day() -> None:
    """250 000 small rows of a table of 1000 columns took 1.5 GB."""
    columns = [NestedField(n, f"c{n}", LongType() if n % 2 else StringType()) for n in range(2, 402)]
    table, spec = evolution.new_table(pa.schema({"_ts": evolution.UTC, **{one.name: pa.int64() for one in columns}}))
    table = Schema(NestedField(1, "_ts", TimestamptzType()), *columns)
    metadata = new_table_metadata(table, spec, UNSORTED_SORT_ORDER, "file:///nowhere")
    days = pa.array([day * 86_400_000_000 for day in (1, 0, 1)] * 10_000).cast(evolution.UTC)
    rows = pa.table({"_ts": days, "c3": pa.array(range(30_000))})
    before = pa.total_allocated_bytes()
    cut = list(parts.split(metadata, evolution.align(metadata.schema(), rows)))
    assert pa.total_allocated_bytes() - before < 5 * 2**20  # of 90 MB
    assert sorted(share.num_rows for _, share in cut) == [10_000, 20_000]
    assert {name for _, share in cut for name in share.column_names if share[name].null_count == 0} == {"_ts", "c3"}
    assert cut[0][1]["c3"].to_pylist()[:3] in ([0, 2, 3], [1, 4, 7])


def test_large_strings_are_strings() -> None:
    assert not evolution.changes(TABLE, pa.schema({"city": pa.large_string()}))


def test_only_columns_the_table_lacks_are_new() -> None:
    found = evolution.changes(TABLE, pa.schema({"zip": pa.string(), "id": pa.int64()}))
    assert (found.added, found.widened) == ({("zip",): StringType()}, {})


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (LongType(), pa.float64()),
        (DecimalType(9, 2), pa.decimal128(9, 3)),
        (StringType(), pa.binary()),
        (DateType(), evolution.UTC),
    ],
)
def test_a_column_never_becomes_what_old_files_could_not_be_read_as(table: IcebergType, rows: Any) -> None:
    with pytest.raises(SchemaMismatch, match=f"column 'id' is {re.escape(str(rows))}, its table has"):
        evolution.changes(Schema(NestedField(1, "id", table)), pa.schema({"id": rows}))


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (pa.int32(), pa.int64()),
        (pa.float32(), pa.float64()),
        (pa.decimal128(9, 2), pa.decimal128(12, 2)),
    ],
)
def test_a_column_widens_and_narrow_rows_fit_a_wide_one(narrow: Any, wide: Any) -> None:
    types = {one: evolution.iceberg_type(pa.field("x", one)) for one in (narrow, wide)}
    for have, rows, widened in ((narrow, wide, {("x",): types[wide]}), (wide, narrow, {})):
        found = evolution.changes(Schema(NestedField(1, "x", types[have])), pa.schema({"x": rows}))
        assert (found.added, found.widened) == ({}, widened)


@pytest.mark.parametrize("names", [["ID"], ["zip", "ZIP"], ["zip", "zip"], ["straße", "STRASSE"], ["_TS_DAY"]])
def test_names_too_close_to_each_other_are_refused(names: list[str]) -> None:
    with pytest.raises(SchemaMismatch, match="too close"):
        evolution.changes(TABLE, pa.schema([(name, pa.string()) for name in names]))


def test_a_new_table_is_partitioned_by_day_and_all_its_columns_are_optional() -> None:
    schema, spec = evolution.new_table(pa.schema({"a": pa.bool_(), "_ts": evolution.UTC}))
    assert [(field.name, field.required) for field in schema.fields] == [("a", False), ("_ts", False)]
    (field,) = spec.fields
    assert (field.name, field.transform, field.source_id) == ("_ts_day", DayTransform(), 2)


def test_a_new_table_without_a_time_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="'_ts'"):
        evolution.new_table(pa.schema({"_ts": pa.timestamp("us")}))


def test_rows_get_the_columns_of_their_table_in_its_order() -> None:
    found = evolution.align(TABLE, pa.table({"city": pa.array(["Rome"], pa.large_string())}))
    assert found.schema.equals(pa.schema({"id": pa.int64(), "city": pa.string()}))
    assert found.to_pylist() == [{"id": None, "city": "Rome"}]


def test_columns_others_made_are_shown_as_they_are() -> None:
    schema = Schema(NestedField(1, "tags", ListType(2, StringType(), element_required=False)))
    assert evolution.arrow_schema(schema).field("tags").type == pa.list_(pa.string())
