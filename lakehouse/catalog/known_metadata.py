"""What the metadata of tables takes in memory as it was parsed, of which a catalog keeps some (see recent).

A flush asks for each of its tables twice, and again for what the flush before it wrote; an engine asks the REST door
whenever it plans. With it goes what is made of a table's columns once (see made_once). A hundred parents that flush by
turns, with a table and nine snapshots each, take 26 ms of CPU a flush where there is room for all of them, and 34 where
there is not; of a bucket it saves the requests (see object_files).
"""

from __future__ import annotations

from collections.abc import Sequence

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

BYTES_MAX = 24 * 2**20
"""Some seventy tables of 32 columns and 52 snapshots."""
TABLE_BYTES, SNAPSHOT_BYTES, FIELD_BYTES = 10_000, 5000, 1500
"""What each takes, about (tracemalloc: 291 456 bytes with 52 snapshots and 32 fields, 73 173 with 6)."""
MADE_BYTES = 1600
"""Of each field that files are written with, what is made of it (resident memory, 60 schemas of 300 columns)."""


def size_bytes(metadata: TableMetadata) -> int:
    fields = sum(_fields_in(schema.fields) for schema in metadata.schemas)
    made = MADE_BYTES * _fields_in(metadata.schema().fields)
    said = sum(len(name) + len(value) for name, value in metadata.properties.items())
    return TABLE_BYTES + SNAPSHOT_BYTES * len(metadata.snapshots) + FIELD_BYTES * fields + made + said


def _fields_in(fields: Sequence[NestedField]) -> int:
    """On all levels."""
    nested = (field.field_type for field in fields if not field.field_type.is_primitive)
    return len(fields) + sum(_fields_of(kind) for kind in nested)


def _fields_of(kind: IcebergType) -> int:
    if isinstance(kind, StructType):
        return _fields_in(kind.fields)
    if isinstance(kind, ListType):
        return _fields_in([kind.element_field])
    return _fields_in([kind.key_field, kind.value_field]) if isinstance(kind, MapType) else 0
