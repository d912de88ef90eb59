"""Which columns fit, which are new, which must be refused."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyiceberg.schema import Schema
from pyiceberg.transforms import DayTransform
from pyiceberg.types import ListType, LongType, NestedField, StringType

from lakehouse.catalog import evolution
from lakehouse.errors import SchemaMismatch

TABLE = Schema(NestedField(1, "id", LongType()), NestedField(2, "city", StringType()))


def test_every_type_has_one_type_over_there_and_back() -> None:
    assert {evolution.ARROW[iceberg] for iceberg in evolution.ICEBERG.values()} == set(evolution.ICEBERG)


def test_large_strings_are_strings() -> None:
    assert evolution.new_columns(TABLE, pa.schema({"city": pa.large_string()})) == {}


def test_only_columns_the_table_lacks_are_new() -> None:
    found = evolution.new_columns(TABLE, pa.schema({"zip": pa.string(), "id": pa.int64()}))
    assert found == {"zip": StringType()}


def test_a_column_never_changes_its_type() -> None:
    with pytest.raises(SchemaMismatch, match="column 'id' is double, its table has long"):
        evolution.new_columns(TABLE, pa.schema({"id": pa.float64()}))


@pytest.mark.parametrize("names", [["ID"], ["zip", "ZIP"], ["zip", "zip"], ["straße", "STRASSE"], ["_TS_DAY"]])
def test_names_too_close_to_each_other_are_refused(names: list[str]) -> None:
    with pytest.raises(SchemaMismatch, match="too close"):
        evolution.new_columns(TABLE, pa.schema([(name, pa.string()) for name in names]))


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
    assert pa.types.is_large_list(evolution.arrow_schema(schema).field("tags").type)
