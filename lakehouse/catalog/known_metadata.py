"""Metadata files that this process read or wrote lately, as they were parsed.

A flush asks for each of its tables twice, and again for what the flush before it wrote; an engine asks the REST door
whenever it plans. A metadata file whose name has a UUID is never written again, so what was read of it stays true.
Others, such as `v1.metadata.json`, may be another table's tomorrow, and are read each time. Of the CPU of a small flush
it saves 4 of 51 ms (medians of four by turns, a busy machine), of a bucket the requests (see object_files).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

from cachetools import LRUCache
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

from lakehouse.catalog.object_files import OF_ITS_OWN

BYTES_MAX = 8 * 2**20
TABLE_BYTES, SNAPSHOT_BYTES, FIELD_BYTES = 10_000, 5000, 1500
"""What each takes in memory, about (tracemalloc: 291 456 bytes with 52 snapshots and 32 fields, 73 173 with 6)."""

Read = Callable[[str], TableMetadata]


class KnownMetadata:
    """For threads. What was not asked for the longest goes first."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._kept: LRUCache[str, TableMetadata] = LRUCache(bytes_max, getsizeof=size_bytes)
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process knows nothing yet."""
        return KnownMetadata, (int(self._kept.maxsize),)

    def get(self, location: str, read: Read) -> TableMetadata:
        with self._lock:
            found = self._kept.get(location)
        if found is None:
            found = read(location)
            self.keep(location, found)
        return found

    def keep(self, location: str, metadata: TableMetadata) -> None:
        """Nothing is kept that takes more than all the room."""
        if OF_ITS_OWN.search(location):
            with self._lock, suppress(ValueError):
                self._kept[location] = metadata

    def renew(self, location: str, metadata: TableMetadata) -> None:
        """As its file has it now, where something is known of it."""
        with self._lock:
            is_known = location in self._kept
        if is_known:
            self.keep(location, metadata)


def size_bytes(metadata: TableMetadata) -> int:
    fields = sum(_fields_in(schema.fields) for schema in metadata.schemas)
    said = sum(len(name) + len(value) for name, value in metadata.properties.items())
    return TABLE_BYTES + SNAPSHOT_BYTES * len(metadata.snapshots) + FIELD_BYTES * fields + said


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
