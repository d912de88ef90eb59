"""Columns of Arrow rows against columns of an Iceberg table: which fit, which are new, which must be refused.

Every type we write has one Iceberg type and back; anything else is refused before a byte is written. A column changes
its type only to a wider one that Iceberg reads old files by, keeps its place, and new ones are optional and come last.
Pure: no catalog, no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as default
from itertools import count
from typing import Any

import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import DayTransform, UnknownTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from lakehouse.errors import SchemaMismatch
from lakehouse.flush.names import reserving

TIME, DAY = "_ts", "_ts_day"
"""The column tables are partitioned by, and the name of that partition; no column may take it."""

CHANGE = frozenset({"_source", "_row_id", "_op", "_epoch", "_seq"})
"""Which change of which row a row is."""

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


FORMAT_VERSION_MAX = 2
WIDER: set[tuple[IcebergType, IcebergType]] = {(IntegerType(), LongType()), (FloatType(), DoubleType())}
Path = tuple[str, ...]
ELEMENT = "element"
NESTED_IDS = 100_000
"""Far from the ids of columns, of which a schema may say two."""


@dataclass(slots=True)
class Changes:
    """What a table has to become for some rows."""

    added: dict[Path, IcebergType] = default(default_factory=dict)
    widened: dict[Path, IcebergType] = default(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.widened)


def arrow_schema(schema: Schema) -> pa.Schema:
    """The table's columns as the shredder makes them: plain strings, times in UTC to the microsecond."""
    fallback = schema_to_pyarrow(schema, include_field_ids=False)
    types = [_arrow(field.field_type, fallback.field(at).type) for at, field in enumerate(schema.fields)]
    return pa.schema([pa.field(f.name, type_, f.optional) for f, type_ in zip(schema.fields, types, strict=True)])


def known(metadata: TableMetadata) -> pa.Schema:
    """The same of a table, which says what no new column may be called as well: as a partition is.

    Raises SchemaMismatch for a format we do not write, or partitions that we cannot compute.
    """
    if metadata.format_version > FORMAT_VERSION_MAX:
        raise SchemaMismatch(
            f"its format is version {metadata.format_version}, wanted at most {FORMAT_VERSION_MAX}; rename or drop it, "
            "and a flush makes it anew"
        )
    schema, fields = metadata.schema(), metadata.spec().fields
    for field in fields:
        if isinstance(field.transform, UnknownTransform):
            raise SchemaMismatch(f"its partition {field.name!r} is made by {field.transform!r}; replace that field")
    partitions = {field.name for field in fields} - set(schema.column_names)
    found: pa.Schema = reserving(arrow_schema(schema), partitions)
    return found


def _arrow(kind: IcebergType, fallback: Any) -> Any:
    if isinstance(kind, StructType):
        inner = ((one, fallback.field(at).type) for at, one in enumerate(kind.fields))
        return pa.struct([pa.field(one.name, _arrow(one.field_type, other), one.optional) for one, other in inner])
    if isinstance(kind, ListType):
        element = _arrow(kind.element_type, fallback.value_type)
        return pa.list_(pa.field(ELEMENT, element, not kind.element_required))
    return ARROW.get(kind, fallback)


def iceberg_type(field: pa.Field[Any], ids: Iterator[int] | None = None) -> IcebergType:
    """With ids for what is nested that whoever changes a table replaces. Raises SchemaMismatch for a type no column of
    ours may have."""
    arrow: Any = field.type
    ids = ids or count(NESTED_IDS)
    if isinstance(arrow, pa.Decimal128Type):
        return DecimalType(arrow.precision, arrow.scale)
    if pa.types.is_struct(arrow) and len(arrow):
        return StructType(*(NestedField(next(ids), one.name, iceberg_type(one, ids), required=False) for one in arrow))
    if pa.types.is_list(arrow):
        element = iceberg_type(pa.field(field.name, arrow.value_type), ids)
        return ListType(next(ids), element, element_required=False)
    found = ICEBERG.get(ALIASES.get(arrow, arrow))
    if found is None:
        raise SchemaMismatch(f"column {field.name!r} is {field.type}, wanted one of {', '.join(map(str, ICEBERG))}")
    return found


def is_ours(field: pa.Field[Any]) -> bool:
    """Whether a column of ours may be like this."""
    try:
        iceberg_type(field)
    except SchemaMismatch:
        return False
    return True


def is_of_children(schema: Schema) -> bool:
    """Whether children write this table. Somebody's own one beside theirs has none of these columns."""
    return not CHANGE.isdisjoint(schema.column_names)


def new_table(rows: pa.Schema) -> tuple[Schema, PartitionSpec]:
    """Schema and partitioning of a table made for these rows."""
    _refuse_clashes(rows.names)
    ids = count(NESTED_IDS)
    fields = [
        NestedField(number, f.name, iceberg_type(f, ids), required=False) for number, f in enumerate(rows, start=1)
    ]
    time = next((field for field in fields if field.name == TIME), None)
    if time is None or not isinstance(time.field_type, TimestamptzType):
        raise SchemaMismatch(f"a new table is partitioned by the day of {TIME!r}, wanted that column as {UTC}")
    return Schema(*fields), PartitionSpec(PartitionField(time.field_id, 1000, DayTransform(), DAY))


def changes(table: Schema, rows: pa.Schema) -> Changes:
    """What the rows have that the table lacks. Raises SchemaMismatch when the rows cannot be written to the table."""
    known = {field.name: field for field in table.fields}
    _refuse_clashes((name for name in rows.names if name not in known), known)
    found = Changes()
    for field in rows:
        wanted, column = iceberg_type(field), known.get(field.name)
        if column is None:
            found.added[field.name,] = wanted
        elif not _compare(found, (field.name,), column.field_type, wanted):
            raise SchemaMismatch(f"column {field.name!r} is {field.type}, its table has {column.field_type}")
    return found


def _compare(found: Changes, path: Path, have: IcebergType, wanted: IcebergType) -> bool:
    """Note what a column lacks to hold these values; False when it never will."""
    if isinstance(have, StructType) and isinstance(wanted, StructType):
        inner = {one.name: one.field_type for one in have.fields}
        found.added |= {(*path, one.name): one.field_type for one in wanted.fields if one.name not in inner}
        shared = (one for one in wanted.fields if one.name in inner)
        return all(_compare(found, (*path, one.name), inner[one.name], one.field_type) for one in shared)
    if isinstance(have, ListType) and isinstance(wanted, ListType):
        return _compare(found, (*path, ELEMENT), have.element_type, wanted.element_type)
    if is_wider(wanted, have):
        found.widened[path] = wanted
        return True
    return have == wanted or is_wider(have, wanted)


def is_wider(wide: IcebergType, narrow: IcebergType) -> bool:
    """Whether a column of the narrow type may become one of the wide type."""
    if isinstance(wide, DecimalType) and isinstance(narrow, DecimalType):
        return wide.scale == narrow.scale and wide.precision > narrow.precision
    return (narrow, wide) in WIDER


def align(table: Schema, rows: pa.Table) -> pa.Table:
    """The rows with exactly the table's columns, in its order; what they lack is null."""
    fields = list(arrow_schema(table))
    for field in fields:
        if not field.nullable and (field.name not in rows.column_names or rows[field.name].null_count):
            raise SchemaMismatch(f"column {field.name!r} is required by its table, the rows hold no value for it")
    lacking = {field.type for field in fields} if len(fields) > rows.num_columns else set()
    # One array for all columns of a type: 250 000 rows that lack 1000 columns would take 1.5 GB.
    missing = {kind: nulls(len(rows), kind) for kind in lacking}
    columns = [
        cast(rows[field.name], field.type) if field.name in rows.column_names else missing[field.type]
        for field in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))


def cast(values: Any, kind: Any) -> Any:
    """Arrow casts no struct that is null where a field of it must not be; such a column goes value by value."""
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        if not pa.types.is_struct(kind):
            raise
        return pa.array(values.to_pylist(), kind)


def nulls(length: int, kind: Any) -> Any:
    """Null everywhere. A struct of others may have fields that must not be: those are hidden, with values in them."""
    return pa.array([None] * length, kind) if _has_required(kind) else pa.nulls(length, kind)


def _has_required(kind: Any) -> bool:
    return pa.types.is_struct(kind) and any(not one.nullable or _has_required(one.type) for one in kind)


def _refuse_clashes(names: Iterable[str], known: Iterable[str] = ()) -> None:
    """Of new names, among themselves and with the columns there are; those may be as others made them."""
    seen = {DAY: DAY} | {name.casefold(): name for name in known}
    for name in names:
        if not name:
            raise SchemaMismatch("a column has no name, wanted at least one character")
        if (key := name.casefold()) in seen:
            raise SchemaMismatch(
                f"column {name!r} is too close to {seen[key]!r}, wanted names that differ in more than case"
            )
        seen[key] = name
