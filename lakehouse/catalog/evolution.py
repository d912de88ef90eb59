"""Columns of Arrow rows against columns of an Iceberg table: which fit, which are new, which must be refused.

Every type we write has one Iceberg type and back; anything else is refused before a byte is written. A column of a
table never changes its type here, and new columns are optional. Pure: no catalog, no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import DayTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from lakehouse.errors import SchemaMismatch

TIME, DAY = "_ts", "_ts_day"
"""The column tables are partitioned by, and the name of that partition; no column may take it."""

UTC = pa.timestamp("us", tz="UTC")
ICEBERG: dict[pa.DataType, IcebergType] = {
    pa.bool_(): BooleanType(),
    pa.int32(): IntegerType(),
    pa.int64(): LongType(),
    pa.float32(): FloatType(),
    pa.float64(): DoubleType(),
    pa.string(): StringType(),
    pa.binary(): BinaryType(),
    pa.date32(): DateType(),
    pa.time64("us"): TimeType(),
    pa.timestamp("us"): TimestampType(),
    UTC: TimestamptzType(),
}
ARROW = {iceberg: arrow for arrow, iceberg in ICEBERG.items()}
ALIASES: dict[pa.DataType, pa.DataType] = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}


def arrow_schema(schema: Schema) -> pa.Schema:
    """The table's columns as the shredder makes them: plain strings, times in UTC to the microsecond."""
    fallback = schema_to_pyarrow(schema, include_field_ids=False)
    types = [ARROW.get(field.field_type, fallback.field(at).type) for at, field in enumerate(schema.fields)]
    return pa.schema([pa.field(f.name, type_, f.optional) for f, type_ in zip(schema.fields, types, strict=True)])


def iceberg_type(field: pa.Field[Any]) -> IcebergType:
    """Raises SchemaMismatch for a type no column of ours may have."""
    arrow: pa.DataType = field.type
    found = ICEBERG.get(ALIASES.get(arrow, arrow))
    if found is None:
        raise SchemaMismatch(f"column {field.name!r} is {field.type}, wanted one of {', '.join(map(str, ICEBERG))}")
    return found


def new_table(rows: pa.Schema) -> tuple[Schema, PartitionSpec]:
    """Schema and partitioning of a table made for these rows."""
    _refuse_clashes(rows.names)
    fields = [NestedField(number, f.name, iceberg_type(f), required=False) for number, f in enumerate(rows, start=1)]
    time = next((field for field in fields if field.name == TIME), None)
    if time is None or not isinstance(time.field_type, TimestamptzType):
        raise SchemaMismatch(f"a new table is partitioned by the day of {TIME!r}, wanted that column as {UTC}")
    return Schema(*fields), PartitionSpec(PartitionField(time.field_id, 1000, DayTransform(), DAY))


def new_columns(table: Schema, rows: pa.Schema) -> dict[str, IcebergType]:
    """Columns the rows have and the table lacks. Raises SchemaMismatch when the rows cannot be written to the table."""
    known = {field.name: field for field in table.fields}
    _refuse_clashes([*known, *(name for name in rows.names if name not in known)])
    _refuse_clashes(rows.names)
    for field in rows:
        column = known.get(field.name)
        if column is not None and column.field_type != iceberg_type(field):
            raise SchemaMismatch(f"column {field.name!r} is {field.type}, its table has {column.field_type}")
    return {field.name: iceberg_type(field) for field in rows if field.name not in known}


def align(table: Schema, rows: pa.Table) -> pa.Table:
    """The rows with exactly the table's columns, in its order; what they lack is null."""
    fields = list(arrow_schema(table))
    for field in fields:
        if not field.nullable and (field.name not in rows.column_names or rows[field.name].null_count):
            raise SchemaMismatch(f"column {field.name!r} is required by its table, the rows hold no value for it")
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))


def _refuse_clashes(names: Iterable[str]) -> None:
    seen = {DAY: DAY}
    for name in names:
        if not name:
            raise SchemaMismatch("a column has no name, wanted at least one character")
        if (key := name.casefold()) in seen:
            raise SchemaMismatch(
                f"column {name!r} is too close to {seen[key]!r}, wanted names that differ in more than case"
            )
        seen[key] = name
