"""Avro files of Iceberg, taken apart and put together again without a loss. Pure.

One record after the other: a manifest of 20 000 files with statistics of 30 columns takes 680 MiB as a list of them.
pyiceberg reads of a manifest what its own version knows and writes that; a file that only gets other paths has to keep
the rest too. fastavro reads whatever the schema in the file says. It would make dates of partition days and fail at
those after the year 9999, so it is shown the schema without its logical types, by which no byte differs.

Format: https://avro.apache.org/docs/1.11.1/specification/#object-container-files
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fastavro

from lakehouse.catalog.avro_names import NESTED, named_once
from lakehouse.errors import DamagedTable

SCHEMA, CODEC = "avro.schema", "avro.codec"
HEADER = fastavro.parse_schema(
    {
        "type": "record",
        "name": "org.apache.avro.file.Header",
        "fields": [
            {"name": "magic", "type": {"type": "fixed", "name": "Magic", "size": 4}},
            {"name": "meta", "type": {"type": "map", "values": "bytes"}},
            {"name": "sync", "type": {"type": "fixed", "name": "Sync", "size": 16}},
        ],
    }
)


@dataclass(slots=True)
class Container:
    """`meta` is what the header says, the schema among it; of each record every field, by its name, once."""

    meta: dict[str, bytes]
    records: Iterable[dict[str, Any]]


def read(content: bytes, name: str) -> Container:
    """Raises DamagedTable, and so does who comes to the place where it is torn."""
    with _told(name):
        header, blocks = _cut(content)
        bare = _header(header | {"meta": header["meta"] | {SCHEMA: json.dumps(_bare_schema(header)).encode()}})
        return Container(header["meta"], _records(bare + blocks, name))


def _records(content: bytes, name: str) -> Iterator[dict[str, Any]]:
    found: Any = None
    with _told(name):
        found = fastavro.reader(io.BytesIO(content))
    while True:
        with _told(name):
            record = next(found, None)
        if record is None:
            return
        yield record


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # of zlib, struct, fastavro, JSON: as many as there are ways to be torn
        raise DamagedTable(f"{name} is no whole Avro file: {type(exc).__name__}: {exc}") from exc


def write(container: Container) -> bytes:
    out = io.BytesIO()
    schema = _bare(json.loads(container.meta[SCHEMA]))
    fastavro.writer(out, schema, container.records, codec=container.meta.get(CODEC, b"null").decode())
    header, blocks = _cut(out.getvalue())
    return _header(header | {"meta": container.meta}) + blocks


def _cut(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, and everything behind it."""
    stream = io.BytesIO(content)
    header: Any = fastavro.schemaless_reader(stream, HEADER, None)
    return header, stream.read()


def _header(header: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, HEADER, header)
    return out.getvalue()


def _bare_schema(header: dict[str, Any]) -> Any:
    return _bare(json.loads(header["meta"][SCHEMA]))


def _bare(schema: Any) -> Any:
    """Without logical types, and with no name twice: Avro forbids it, and pyiceberg gives all UUIDs the same."""
    return named_once(_without_logical_types(schema), Counter())


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name != "logicalType"}
    return {name: _without_logical_types(value) if name in NESTED else value for name, value in kept.items()}
