"""Manifests and lists of them are read and written by plans that are made once, and not for each file.

pyiceberg 0.12 makes of each file's header a schema, of the schema a tree of readers, and for each file it writes the
same backwards: of a small manifest that is nearly all the work. A manifest's schema follows from the types a table is
partitioned by, so that thousands of tables share one.

Manifest and list of a small flush take 2.7 ms of CPU where they took 4.6 (medians of 60 flushes, by turns).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from pyiceberg.avro import file as avro
from pyiceberg.avro.encoder import BinaryEncoder
from pyiceberg.avro.file import META_SCHEMA, AvroFileHeader
from pyiceberg.avro.reader import Reader
from pyiceberg.avro.resolver import construct_reader, construct_writer, resolve_reader, resolve_writer
from pyiceberg.avro.writer import Writer
from pyiceberg.manifest import (
    DEFAULT_READ_VERSION,
    MANIFEST_ENTRY_SCHEMAS,
    MANIFEST_LIST_FILE_SCHEMAS,
    ManifestWriter,
    data_file_with_partition,
    manifest_entry_schema_with_data_file,
)
from pyiceberg.schema import Schema
from pyiceberg.typedef import EMPTY_DICT
from pyiceberg.types import StructType
from pyiceberg.utils.schema_conversion import AvroSchemaConversion

from lakehouse.catalog.made_once import MadeOnce

SCHEMAS_MAX = 32
"""Each takes some 60 KB. What is made of one ends with it."""
TEXT_CHARS_MAX = 2**15
FIELDS_MAX = 16
"""Of a partition. Who says more pays for it each time."""
READ_AS = (MANIFEST_ENTRY_SCHEMAS[DEFAULT_READ_VERSION], MANIFEST_LIST_FILE_SCHEMAS[DEFAULT_READ_VERSION])
"""What a manifest and a list are read as, by the library."""
SMALL_MAX = 2**12
SMALL = [bytes([one]) if one < 2**7 else bytes([one & 0x7F | 0x80, one >> 7]) for one in range(SMALL_MAX)]
"""As Avro has them, all of which have one byte or two."""
original = AvroFileHeader.get_schema


class Encoder(BinaryEncoder):
    """A manifest is whole numbers most of all: how many values each column of each file has. The library writes them
    byte by byte."""

    def write_int(self, integer: int) -> None:
        rest = (integer << 1) ^ (integer >> 63)
        if rest < SMALL_MAX:
            self._output_stream.write(SMALL[rest])
            return
        found = bytearray()
        while rest > 0x7F:
            found.append(rest & 0x7F | 0x80)
            rest >>= 7
        found.append(rest)
        self._output_stream.write(bytes(found))

    def write_bytes(self, b: bytes) -> None:
        self.write_int(len(b))
        self._output_stream.write(b)


def mend() -> None:
    """For this process."""
    avro.BinaryEncoder = Encoder  # type: ignore[attr-defined]
    AvroFileHeader.get_schema = _schema  # type: ignore[method-assign]
    avro.resolve_reader = _reader  # type: ignore[attr-defined]
    avro.construct_reader = _header_reader  # type: ignore[attr-defined]
    avro.resolve_writer = _writer  # type: ignore[attr-defined]
    avro.construct_writer = _own_writer  # type: ignore[attr-defined, assignment]
    ManifestWriter._with_partition = _with_partition  # type: ignore[method-assign]


@lru_cache(SCHEMAS_MAX)
def _schema_of(text: str) -> Schema:
    return AvroSchemaConversion().avro_to_iceberg(json.loads(text))


def _schema(self: AvroFileHeader) -> Schema:
    text = self.meta.get("avro.schema", "")
    return _schema_of(text) if 0 < len(text) <= TEXT_CHARS_MAX else original(self)


_readers: MadeOnce[Schema, dict[Any, Reader]] = MadeOnce(lambda _: {})


def _reader(file_schema: Any, read_schema: Any, read_types: Any = EMPTY_DICT, read_enums: Any = EMPTY_DICT) -> Reader:
    if all(read_schema is not one for one in READ_AS):
        return resolve_reader(file_schema, read_schema, read_types, read_enums)
    known, key = _readers(file_schema), (id(read_schema), *read_types.items(), *read_enums.items())
    if key not in known:
        known[key] = resolve_reader(file_schema, read_schema, read_types, read_enums)
    return known[key]


_header = construct_reader(META_SCHEMA, {-1: AvroFileHeader})


def _header_reader(file_schema: Any, read_types: Any = EMPTY_DICT) -> Reader:
    is_header = file_schema is META_SCHEMA and read_types == {-1: AvroFileHeader}
    return _header if is_header else construct_reader(file_schema, read_types)


_own_writer: MadeOnce[Schema, Writer] = MadeOnce(construct_writer)


def _writer(record_schema: Any, file_schema: Any) -> Writer:
    return _own_writer(file_schema) if record_schema is file_schema else resolve_writer(record_schema, file_schema)


@lru_cache(SCHEMAS_MAX)
def _entry_schema(version: Any, partition: StructType) -> Schema:
    data_file = data_file_with_partition(format_version=version, partition_type=partition)
    return manifest_entry_schema_with_data_file(format_version=version, data_file=data_file)


def _with_partition(self: ManifestWriter, format_version: Any) -> Schema:
    partition = self._spec.partition_type(self._schema)
    made = _entry_schema if len(partition.fields) <= FIELDS_MAX else _entry_schema.__wrapped__
    return made(format_version, partition)
