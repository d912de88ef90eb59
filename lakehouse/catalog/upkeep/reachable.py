"""Which files a table's snapshots reach. Of a manifest only paths are read, and one manifest at a time (see fetching).

So memory is bounded by what is asked about, not by the table: a question is a set of files, and what is reached leaves
it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from pyiceberg.avro.decoder import new_decoder
from pyiceberg.avro.file import AvroFile
from pyiceberg.avro.resolver import ReadSchemaResolver, SchemaPartnerAccessor
from pyiceberg.io import FileIO, InputFile
from pyiceberg.manifest import ManifestEntryStatus, ManifestFile, read_manifest_list
from pyiceberg.schema import Schema, visit_with_partner
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record
from pyiceberg.types import IcebergType, NestedField, StructType
from pyiceberg.utils.schema_conversion import AvroSchemaConversion

from lakehouse.catalog import fetching

STATUS, DATA_FILE = 0, 2
PATH = 100
AVRO_SCHEMA = "avro.schema"


class _Unread(SchemaPartnerAccessor):
    """Of what is not asked for, nothing in it is asked for either; pyiceberg would refuse to skip it."""

    def field_partner(self, partner: IcebergType | None, field_id: int, field_name: str) -> IcebergType | None:
        return super().field_partner(partner, field_id, field_name) if partner else None

    def list_element_partner(self, partner_list: IcebergType | None) -> IcebergType | None:
        return None

    def map_key_partner(self, partner_map: IcebergType | None) -> IcebergType | None:
        return None

    def map_value_partner(self, partner_map: IcebergType | None) -> IcebergType | None:
        return None


class _Projected(AvroFile[Record]):
    """Of each entry of a manifest its status and these fields of its file, in this order."""

    def __init__(self, input_file: InputFile, fields: Sequence[int]) -> None:
        super().__init__(input_file)
        self._fields = fields

    def __enter__(self) -> _Projected:
        with self.input_file.open() as file:
            self.decoder = new_decoder(file.read())
        self.header = self._read_header()
        self.schema, self.reader = _readable(self.header.meta[AVRO_SCHEMA], tuple(self._fields))
        return self


@lru_cache(maxsize=64)
def _readable(text: str, fields: tuple[int, ...]) -> tuple[Schema, Any]:
    """The schema of manifests whose header says this, and their reader, which keeps nothing of what it has read.

    Those of a table say the same, and making both takes longer than reading a manifest.
    """
    schema = AvroSchemaConversion().avro_to_iceberg(json.loads(text))
    found: Any = schema.find_field(DATA_FILE)
    struct = StructType(*(found.field_type.field(number) for number in fields))
    wanted = Schema(schema.find_field(STATUS), NestedField(DATA_FILE, "data_file", struct, required=True))
    resolve: Any = visit_with_partner
    return schema, resolve(schema, wanted, ReadSchemaResolver(), _Unread())


class Entry(NamedTuple):
    path: str
    is_live: bool


def manifest_lists(metadata: TableMetadata) -> list[str]:
    """Of everything the table names."""
    return [snapshot.manifest_list for snapshot in metadata.snapshots]


def named_files(metadata: TableMetadata, location: str) -> set[str]:
    """The files the metadata file at this location names itself, and itself."""
    statistics = [*metadata.statistics, *metadata.partition_statistics]
    return {
        location,
        *(entry.metadata_file for entry in metadata.metadata_log),
        *(one.statistics_path for one in statistics),
        *manifest_lists(metadata),
    }


def manifests(io: FileIO, lists: Iterable[str], *, missing_ok: bool = False) -> dict[str, ManifestFile]:
    """The manifests of these lists by path, the last named first."""
    found: dict[str, ManifestFile] = {}
    for _, fetched in fetching.each(io, lists, str):
        try:
            found |= {one.manifest_path: one for one in read_manifest_list(fetched())}
        except FileNotFoundError:
            if not missing_ok:
                raise
    return dict(reversed(found.items()))


def each(io: FileIO, manifests: Iterable[str]) -> Iterator[tuple[str, Callable[[], Iterator[Entry]]]]:
    """Each of these manifests, and how to ask for what it names, which raises FileNotFoundError."""
    for manifest, fetched in fetching.each(io, manifests, str):
        yield manifest, partial(_entries, fetched)


def fields(io: FileIO, manifests: Iterable[str], wanted: Sequence[int]) -> Iterator[tuple[str, bool, Sequence[Any]]]:
    """Of each entry of these manifests where it stands, whether it is live, and these fields of its file."""
    for manifest, fetched in fetching.each(io, manifests, str):
        for is_live, found in _fields(fetched(), wanted):
            yield manifest, is_live, found


def unreached(io: FileIO, asked: set[str], kept: Iterable[str]) -> set[str]:
    """Those of the files that no manifest of `kept` reaches."""
    left = set(asked)
    for _, entries in each(io, kept if left else ()):
        left.difference_update(entry.path for entry in entries() if entry.is_live)
        if not left:
            break
    return left


def _entries(fetched: Callable[[], InputFile]) -> Iterator[Entry]:
    """Data and delete files that a manifest names."""
    for is_live, (path,) in _fields(fetched(), (PATH,)):
        yield Entry(path, is_live)


def _fields(file: InputFile, wanted: Sequence[int]) -> Iterator[tuple[bool, Sequence[Any]]]:
    with _Projected(file, wanted) as reader:
        for entry in reader:
            yield entry[0] != ManifestEntryStatus.DELETED, [entry[1][at] for at in range(len(wanted))]
