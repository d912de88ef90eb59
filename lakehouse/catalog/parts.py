"""Rows as Parquet files, one per partition.

The rows are sorted by partition once and cut, where pyiceberg filters all of them once per partition:
250 000 rows of 31 columns over 365 days take 1.3 s instead of 1.8 s, 0.1 s of it for the sorting (2 cores). A flush is
bounded, so a partition's share of it is one file. Works for any partitioning; knows no catalog and no pointers.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io import FileIO, OutputFile
from pyiceberg.io.pyarrow import DataFileStatistics
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey, partition_record_value
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import VoidTransform
from pyiceberg.typedef import Record
from pyiceberg.types import NestedField, StructType
from pyiceberg.utils.concurrent import ExecutorFactory

from lakehouse.catalog import (
    avro_names,
    avro_once,
    columns_written,
    null_lists,
    plain_columns,
    strange_properties,
    table_properties,
    text_bounds,
)
from lakehouse.errors import SchemaMismatch

avro_names.mend()
avro_once.mend()
null_lists.mend()
plain_columns.mend()
strange_properties.mend()
text_bounds.mend()

PARTITIONS_MAX = 10_000
"""Of the rows of one flush. A file takes 3.5 ms of CPU, 13 KB and as much memory until the commit, whatever it has."""
ROW_GROUP = "write.parquet.row-group-limit"
ROW_GROUP_BYTES = 32 * 2**20
"""Of the rows in memory. The writer keeps a row group until it is whole."""
PAGE_ROWS = "write.parquet.page-row-limit"
PAGE_ROWS_MAX = 20_000
PAGE_BYTES = 2**20
"""The writer looks at a page's size after so many rows, 20 000 unless told: a whole row group where rows are large."""


class Key(PartitionKey):
    """The partition of a file. A spec may say two fields of one column, as a bucket and a day, which the library's
    refuses."""

    @cached_property
    def partition(self) -> Record:
        return Record(*(partition_record_value(one.field, one.value, self.schema) for one in self.field_values))


class Share(NamedTuple):
    """The rows of one file."""

    number: int
    key: PartitionKey | None
    rows: pa.Table


def write(metadata: TableMetadata, rows: pa.Table, io: FileIO, parquet: Mapping[str, str]) -> list[DataFile]:
    """Write the rows, which have the table's columns. `parquet` overrides the table's write properties for them."""
    properties = strange_properties.meant({**metadata.properties, **parquet})
    rows_max = table_properties.number(properties, ROW_GROUP, 1) or len(rows)
    properties[ROW_GROUP] = str(_rows_in(ROW_GROUP_BYTES, rows, rows_max))
    properties |= paged(properties, rows)
    shares = [Share(number, key, share) for number, (key, share) in enumerate(split(metadata, rows))]
    one_file = partial(_file, metadata, io, properties, uuid.uuid4())
    if len(shares) == 1:
        return [one_file(shares[0])]
    return list(ExecutorFactory.get_or_create().map(one_file, shares))


def _file(
    metadata: TableMetadata, io: FileIO, properties: dict[str, str], written_by: uuid.UUID, one: Share
) -> DataFile:
    places = load_location_provider(metadata.location, properties)
    output = io.new_output(places.new_data_location(f"00000-{one.number}-{written_by}.parquet", one.key))
    schema = metadata.schema()
    with columns_written.Writer(output, schema, properties) as writer:
        writer.write(columns_written.rows_written(schema, one.rows))
    partition = one.key.partition if one.key else Record()
    return described(output, writer.result(), partition=partition, spec_id=metadata.default_spec_id)


def described(output: OutputFile, written: DataFileStatistics, *, partition: Record, spec_id: int) -> DataFile:
    """A file that is written, as manifests tell of it."""
    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=output.location,
        file_format=FileFormat.PARQUET,
        partition=partition,
        file_size_in_bytes=len(output),
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **written.to_serialized_dict(),
    )
    file.spec_id = spec_id
    return file


def paged(properties: Mapping[str, str], rows: pa.Table) -> dict[str, str]:
    """The write property by which rows like these are cut into pages that a reader can hold."""
    rows_max = table_properties.number(properties, PAGE_ROWS, 1) or PAGE_ROWS_MAX
    return {PAGE_ROWS: str(_rows_in(PAGE_BYTES, rows, rows_max))}


def _rows_in(size_bytes: int, rows: pa.Table, wanted: int) -> int:
    """As many rows as wanted, and fewer of large ones."""
    return max(1, min(wanted, len(rows) * size_bytes // max(1, rows.nbytes)))


def split(metadata: TableMetadata, rows: pa.Table) -> Iterator[tuple[PartitionKey | None, pa.Table]]:
    """Each partition these rows touch, with its share of them in their order."""
    spec, schema = metadata.spec(), metadata.schema()
    if spec.is_unpartitioned():
        yield None, rows
        return
    keys = _keys(metadata, rows)
    names = keys.column_names
    groups = _groups(keys)
    if len(groups) > PARTITIONS_MAX:
        fields = ", ".join(f"{field.name} ({field.transform})" for field in spec.fields)
        raise SchemaMismatch(
            f"{len(rows)} rows lie in {len(groups)} of its partitions by {fields}, and each is a file, wanted at most "
            f"{PARTITIONS_MAX} at once; partition it coarser, such as by the month or year of _ts"
        )
    if len(groups) > 1:
        order = keys.append_column("row", pa.array(range(len(rows)))).sort_by(
            [(n, "ascending") for n in [*names, "row"]]
        )
        rows, groups = _ordered(rows, order["row"]), _groups(order.select(names))
    start = 0
    for group in groups.to_pylist():
        values = [PartitionFieldValue(field, group[name]) for field, name in zip(spec.fields, names, strict=True)]
        yield Key(values, spec, schema), rows.slice(start, group["count_all"])
        start += group["count_all"]


def _ordered(rows: pa.Table, order: Any) -> pa.Table:
    """Columns without a value stay as they are, which may be one for many."""
    columns = [one if one.null_count == len(one) else one.take(order) for one in rows.combine_chunks().columns]
    return pa.table(columns, schema=rows.schema)


def _keys(metadata: TableMetadata, rows: pa.Table) -> pa.Table:
    """The partition values of each row."""
    schema, columns = metadata.schema(), dict[str, Any]()
    for number, field in enumerate(metadata.spec().fields):
        if isinstance(field.transform, VoidTransform):
            columns[f"key{number}"] = pa.nulls(len(rows))
            continue
        source = schema.find_field(field.source_id)
        key = field.transform.pyarrow_transform(source.field_type)
        values = _values(rows, schema.fields, field.source_id)
        assert values is not None, f"no column has the number {field.source_id}"
        columns[f"key{number}"] = key(values)
    return pa.table(columns)


def _values(found: Any, fields: Iterable[NestedField], number: int) -> Any | None:
    """The values of the column with this number, which may lie in a struct."""
    for field in fields:
        column = found[field.name] if isinstance(found, pa.Table) else pc.struct_field(found, [field.name])
        if field.field_id == number:
            return column
        if isinstance(inner := field.field_type, StructType):
            within = _values(column, inner.fields, number)
            if within is not None:
                return within
    return None


def _groups(keys: pa.Table) -> pa.Table:
    """The distinct keys in order of appearance, with how many rows each has."""
    return keys.group_by(keys.column_names, use_threads=False).aggregate([([], "count_all")])
